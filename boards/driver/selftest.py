"""Runs a bundle's golden cases on a board, and measures frames a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bundle import Bundle, Case
from .device import Accelerator
from .program import Program

__all__ = ["Outcome", "Rate", "Report", "difference", "measure", "selftest"]

_STALE = 0xA5A5 - (1 << 16)  # the driver's mark of an output that was never written, as int16


@dataclass(frozen=True)
class Outcome:
    """One case: empty ``difference`` where every integer is the golden one."""

    program: str
    image: str
    task: str
    difference: str
    cycles: int
    seconds: float


@dataclass(frozen=True)
class Rate:
    """Frames one behind the other, two in flight.

    ``fps``: by the wall clock, from the first image in host memory to the last integers, transfers
    and Python included. ``cycles_fps``: what the cycles of a frame would allow at the bitstream's
    clock.
    """

    program: str
    task: str
    frames: int
    fps: float
    cycles: int
    cycles_fps: float


@dataclass(frozen=True)
class Report:
    """What a self-test found."""

    outcomes: tuple[Outcome, ...]
    rates: tuple[Rate, ...]
    interrupts_lost: int
    interrupts_early: int
    resets: int

    @property
    def passed(self) -> bool:
        """Whether every case is bit-exact."""
        return bool(self.outcomes) and not any(o.difference for o in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"passed": self.passed, **asdict(self)}


def difference(found: Any, wanted: Any) -> str:
    """Empty where equal; else the first integer that differs, how many, and what it looks like."""
    if found.shape != wanted.shape:
        return f"the shape is {found.shape}, not {wanted.shape}"
    wrong = np.argwhere(found != wanted)
    if not len(wrong):
        return ""
    at = tuple(int(i) for i in wrong[0])
    text = (
        f"{len(wrong)} of {wanted.size} integers differ, first at {at}: "
        f"{int(found[at])}, not {int(wanted[at])}"
    )
    if (found == np.array(_STALE).astype(found.dtype)).all():
        text += "; nothing was written there: caches that are not cared for, or another address"
    return text


def selftest(
    bundle: Bundle,
    accelerator: Accelerator,
    *,
    frames: int = 100,
    say: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Every case of the bundle, and ``frames`` frames of the first one of each program.

    ``say`` is told each line of progress. Raises what the accelerator raises.
    """
    outcomes, rates = [], []
    for path in dict.fromkeys(case.program for case in bundle.cases):
        program = Program.load(bundle.root / path)
        accelerator.load(program)
        cases = [case for case in bundle.cases if case.program == path]
        for case in cases:
            outcomes.append(_run(bundle, accelerator, case))
            last = outcomes[-1]
            say(
                f"{path} {last.task:<12} {last.difference or 'bit-exact'}"
                f"  {last.cycles:,} cycles  {1e3 * last.seconds:.3f} ms with transfers"
            )
        if frames and not any(o.difference for o in outcomes):
            rates.append(measure(bundle, accelerator, cases[0], frames, bundle.manifest.clock_mhz))
            rate = rates[-1]
            say(
                f"{path} {rate.task:<12} {rate.fps:,.1f} frames/s by the wall clock, transfers "
                f"included ({rate.frames} frames); {rate.cycles:,} cycles a frame are "
                f"{rate.cycles_fps:,.1f}/s at {bundle.manifest.clock_mhz:g} MHz"
            )
    return Report(
        outcomes=tuple(outcomes),
        rates=tuple(rates),
        interrupts_lost=accelerator.interrupts_lost,
        interrupts_early=accelerator.interrupts_early,
        resets=accelerator.resets,
    )


def _image(bundle: Bundle, case: Case) -> Any:
    return np.load(bundle.root / case.image, allow_pickle=False)


def _run(bundle: Bundle, accelerator: Accelerator, case: Case) -> Outcome:
    result = accelerator.run(_image(bundle, case), case.task)
    wanted = np.load(bundle.root / case.output, allow_pickle=False)
    assert result.cycles is not None  # no frame is behind it
    return Outcome(
        program=case.program,
        image=case.image,
        task=case.task,
        difference=difference(result.output, wanted),
        cycles=result.cycles,
        seconds=result.seconds,
    )


def measure(
    bundle: Bundle, accelerator: Accelerator, case: Case, frames: int, clock_mhz: float
) -> Rate:
    """``frames`` frames of one case, as many in flight as can, by the wall clock of this host."""
    image = _image(bundle, case)
    begun = time.perf_counter()
    for _ in range(frames):
        last = accelerator.submit(image, case.task)
    cycles = last.result().cycles
    seconds = time.perf_counter() - begun
    assert cycles is not None  # no frame is behind it
    return Rate(
        program=case.program,
        task=case.task,
        frames=frames,
        fps=frames / seconds,
        cycles=cycles,
        cycles_fps=clock_mhz * 1e6 / cycles,
    )
