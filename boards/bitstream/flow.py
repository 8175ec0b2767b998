"""The last step of a build: read what came back, judge it, write ``build.json`` and the bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moevit.hw.config import AcceleratorConfig

from ..resources import Report, report
from ..synthesis import SynthesisError
from ..targets import Board, board
from .bundle import write_bundle
from .judge import Judgement, TimingNotMetError, judge
from .reports import ReportError

__all__ = ["Collected", "collect", "estimate", "read_about", "write_about"]

FORMAT = "moevit-build-1"

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Collected:
    """A build that was judged. ``bundle``: its folder, ``None`` where timing forbade it and
    ``failure`` says so."""

    about: dict[str, Any]
    judgement: Judgement
    bundle: Path | None
    failure: str
    notes: tuple[str, ...]


def read_about(folder: Path) -> tuple[dict[str, Any], Board, AcceleratorConfig]:
    """``build.json`` of a build's folder, its board and configuration.

    Raises ``ValueError`` where there is none or it is damaged.
    """
    path = folder / "build.json"
    try:
        about = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; expected a folder of `moevit build`") from None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error})") from None
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: format is {found!r}, expected {FORMAT!r}")
    try:
        config = AcceleratorConfig.from_dict(about["config"])
        target = board(about["board"])
        wanted = about["hash"]
    except KeyError as error:
        raise ValueError(f"{path}: field {error} is missing") from None
    if wanted != f"{config.hash:#018x}":
        raise ValueError(f"{path}: hash is {wanted}, its configuration's is {config.hash:#018x}")
    return about, target, config


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Write ``build.json``, whole or not at all."""
    part = folder / ".build.json.part"
    part.write_text(json.dumps(about, indent=2) + "\n")
    part.replace(folder / "build.json")


def estimate(
    config: AcceleratorConfig, target: Board, *, jobs: int, progress: Progress
) -> tuple[Report | None, str]:
    """Our estimate of a build, or why there is none."""
    made_of = target.primitives
    try:
        found = report(config, on=target.part, made_of=made_of, jobs=jobs, progress=progress)
    except SynthesisError as error:
        return None, f"no estimate: {error}"
    return found, ""


def collect(
    folder: Path,
    *,
    allow_timing: bool = False,
    guess: bool = True,
    jobs: int = 2,
    notes: tuple[str, ...] = (),
    progress: Progress = lambda _what, _share: None,
) -> Collected:
    """Judge the build in ``folder``; ``guess``: compare with our estimate, which takes minutes.

    Raises
    ------
    ReportError
        If a report or result is missing or cannot be read.
    """
    about, target, config = read_about(folder)
    vivado = folder / "vivado"
    judge(vivado, None)  # what cannot be read is said before the estimate's minutes
    guessed, why = estimate(config, target, jobs=jobs, progress=progress) if guess else (None, "")
    found = judge(vivado, guessed)
    said = [*notes, *([why] if why else [])]
    if found.drc.errors:
        raise ReportError(f"{vivado / 'reports' / 'drc.rpt'}: {found.drc.errors[0]}")
    bundle, failure = folder / "bundle", ""
    try:
        said += write_bundle(folder, target, about, found, allow_timing=allow_timing)
    except TimingNotMetError as error:
        failure = str(error)
        shutil.rmtree(bundle, ignore_errors=True)  # one that was allowed before
    about |= {
        "status": "timing not met" if failure else "built",
        "timing_failure_allowed": allow_timing and not found.timing.met,
        "result": found.to_dict(),
        "strategies": _strategies(vivado),
        "notes": said,
    }
    write_about(folder, about)
    return Collected(about, found, None if failure else bundle, failure, tuple(said))


def _strategies(vivado: Path) -> list[dict[str, Any]]:
    path = vivado / "outputs" / "strategies.txt"
    if not path.is_file():
        return []
    found = []
    for line in path.read_text().splitlines():
        name, *slack = line.split()
        numbers = [float(value) for value in slack] if len(slack) == 2 else [None, None]
        found.append({"run": name, "wns_ns": numbers[0], "whs_ns": numbers[1]})
    return found
