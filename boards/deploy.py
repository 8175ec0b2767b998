"""A bundle to a board over ssh, and its self-test there."""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from .driver.bundle import MANIFEST, Bundle
from .shipping import PACKAGE

__all__ = ["DeployError", "copy", "self_test", "size"]

# The folder appears whole or not at all, and what was there before goes only then.
_UNPACK = """set -e
target={target}
trap 'rm -rf "$target.new"' EXIT
rm -rf "$target.new"
mkdir -p "$target.new"
tar xf - -C "$target.new"
rm -rf "$target.old"
if [ -e "$target" ]; then mv "$target" "$target.old"; fi
mv "$target.new" "$target"
rm -rf "$target.old"
"""


class DeployError(OSError):
    """The host cannot be reached, or refuses; in one line."""


@contextlib.contextmanager
def _remote(
    ssh: Sequence[str],
    host: str,
    script: str,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """ssh with a script for the host's shell; ended when the block is left early."""
    command = [*ssh, host, f"sh -c {shlex.quote(script)}"]
    try:
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    except OSError as error:
        raise DeployError(f"{ssh[0]}: {error.strerror}") from None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


class _Progress(io.RawIOBase):
    """Counts what goes through it."""

    def __init__(self, target: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        self._target, self._on_bytes, self._count = target, on_bytes, 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._target.write(data)
        self._count += len(data)
        self._on_bytes(self._count)
        return len(data)


def copy(
    bundle: Bundle,
    host: str,
    folder: str,
    *,
    ssh: Sequence[str] = ("ssh",),
    on_bytes: Callable[[int], None] = lambda _count: None,
) -> None:
    """The bundle's files to ``folder`` on ``host``, relative to the user's home.

    ``on_bytes`` is told how many bytes have gone. Raises ``DeployError``; the folder on the host is
    then as it was.
    """
    script = _UNPACK.format(target=shlex.quote(folder.rstrip("/")))
    with _remote(ssh, host, script, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        # Without an early reader a host that refuses could block both sides.
        with contextlib.suppress(BrokenPipeError):
            target = _Progress(process.stdin, on_bytes)
            with tarfile.open(fileobj=target, mode="w|") as archive:
                for name in [MANIFEST, *(entry.path for entry in bundle.files)]:
                    archive.add(bundle.root / name, arcname=name, filter=_plain)
            process.stdin.close()
        text = process.stderr.read()
        if process.wait():
            raise DeployError(f"{host}: {_last_line(text)}")


def _plain(about: tarfile.TarInfo) -> tarfile.TarInfo:
    about.uid = about.gid = 0
    about.uname = about.gname = ""
    return about


def self_test(
    host: str,
    folder: str,
    *,
    ssh: Sequence[str] = ("ssh",),
    python: str = "python3",
    transport: str = "auto",
    frames: int = 100,
    root: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> bool:
    """Runs the self-test of the bundle on the host; False if an integer is wrong.

    ``say`` is told each line that it prints. ``root``: by ``sudo -n``. Raises ``DeployError`` where
    it could not run.
    """
    words = [python, "-m", PACKAGE, "selftest", "--transport", transport, "--frames", str(frames)]
    command = " ".join(shlex.quote(word) for word in (["sudo", "-n"] if root else []) + words)
    last = ""
    script = f"cd {shlex.quote(folder)} && {command}"
    with _remote(ssh, host, script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            last = line.decode(errors="replace").rstrip()
            say(last)
        text = process.stderr.read()
        status = process.wait()
    if status and not last.startswith("self-test"):
        raise DeployError(f"{host}: {_last_line(text)}")
    return status == 0


def size(bundle: Bundle) -> int:
    """Bytes of all files."""
    return sum(entry.bytes for entry in bundle.files) + Path(bundle.root / MANIFEST).stat().st_size
