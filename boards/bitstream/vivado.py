"""Find Vivado, run a build with it, and leave no process behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .versions import COMMAND, OLDEST, order

__all__ = ["STEPS", "RunError", "Vivado", "VivadoVersionError", "find", "run"]

STEPS = {
    "project": 0.0, "design": 0.02, "synthesis": 0.08, "implementation": 0.35, "bitstream": 0.9,
    "reports": 0.94, "results": 0.98, "done": 1.0,
}  # fmt: skip
"""Steps of ``build.tcl``, and the share of the whole that is done when each begins."""

_TOKEN = "MOEVIT_BUILD_TOKEN"
_PATIENCE_S = 20
"""Between asking a process to end and ending it."""


class RunError(RuntimeError):
    """Vivado failed; the message says at which step, and names its log."""


class VivadoVersionError(ValueError):
    """The installed Vivado is older than the scripts know."""


@dataclass(frozen=True)
class Vivado:
    """An installed Vivado."""

    executable: Path
    version: str


def find() -> Vivado | None:
    """Vivado on the path, or ``None``.

    Raises
    ------
    VivadoVersionError
        If it is too old, or does not say its version.
    """
    program = shutil.which("vivado")
    if program is None:
        return None
    done = subprocess.run(
        [program, "-version"], capture_output=True, text=True, check=False, timeout=120
    )
    found = re.search(r"^[Vv]ivado v\.?(\d\S*)", done.stdout, re.M)
    if found is None:
        raise VivadoVersionError(f"{program}: does not say its version; expected {OLDEST} or newer")
    vivado = Vivado(Path(program), found[1])
    if order(vivado.version) < order(OLDEST):
        raise VivadoVersionError(
            f"{program}: is version {vivado.version}; expected {OLDEST} or newer"
        )
    return vivado


def run(
    folder: Path,
    vivado: Vivado,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> tuple[str, ...]:
    """Build in ``folder`` (that with ``build.tcl``); the log is ``vivado.log`` there.

    Returns what the scripts noted. On any exception, Ctrl-C included, every process of the build
    is ended before it is passed on.

    Raises
    ------
    RunError
        If a step fails.
    """
    words = [str(vivado.executable), *COMMAND.split()[1:]]
    notes: list[str] = []
    last: deque[str] = deque(maxlen=200)
    step, failure, token = "start", "", uuid.uuid4().hex
    process = subprocess.Popen(
        words,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a terminal's Ctrl-C comes to us, and we end it in order
        env={**os.environ, _TOKEN: token},
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            word, _, rest = line.removeprefix("MOEVIT ").strip().partition(" ")
            if not line.startswith("MOEVIT "):
                continue
            if word == "step":
                step = rest
                progress(rest, STEPS.get(rest, 0.0))
            elif word == "note":
                notes.append(rest)
            elif word == "error":
                failure = rest
        status = process.wait()
    finally:
        _end(process, token)
    if status or step != "done":
        failure = failure or next((m for m in last if m.startswith("ERROR")), f"status {status}")
        raise RunError(f"vivado: step {step}: {failure} (log: {folder / 'vivado.log'})")
    return tuple(notes)


def _end(process: subprocess.Popen[str], token: str) -> None:
    """End everything that the build started, politely first."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        left = _members(token)
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, what)
        patience = time.monotonic() + _PATIENCE_S
        while left and time.monotonic() < patience:
            process.poll()  # a child that ended stays a process until someone asks
            left = _members(token)
            time.sleep(0.02)
        if not left:
            break
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _members(token: str) -> list[int]:
    """Processes that carry the build's token in their environment, whoever their parent is.

    Vivado starts each run through shells and in sessions of its own.
    """
    mark = f"{_TOKEN}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
