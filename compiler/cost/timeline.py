"""What the cycle model expects of each unit, as a timeline beside that of the RTL."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from ..timeline import UNITS, Frame, State, Stretch, Timeline, Unit, Work
from .estimate import Log, estimate
from .timing import Timing

__all__ = ["estimated_timeline"]


def estimated_timeline(
    program: Program,
    tasks: Sequence[str],
    timing: Timing,
    *,
    starts: Sequence[int] = (),
    title: str = "estimate",
    lengths: Sequence[Sequence[Sequence[int]]] | None = None,
) -> Timeline:
    """Frames of ``tasks``, one after the other.

    ``starts``: a frame begins there, so as to lie beside another's, or where the one before ends if
    that is later. ``lengths``: for each frame those of :func:`.estimate.estimate`.
    """
    found = Timeline(title=title, program=program)
    end = 0
    for number, task in enumerate(tasks):
        start = max(end, starts[number] if number < len(starts) else 0)
        log: Log = []
        about = estimate(
            program, task, timing, lengths=None if lengths is None else lengths[number], log=log
        )
        end = start + about.cycles
        found.frames.append(Frame(task=task, start=start, end=end))
        for unit in UNITS:
            _add(found, unit, [entry for entry in log if entry[0] == unit], number, start, end)
    return found


def _add(found: Timeline, unit: str, log: Log, frame: int, offset: int, end: int) -> None:
    """A unit's part of a frame's log, in whole cycles that do not overlap."""
    if not log:
        return
    mine = found.units.setdefault(unit, Unit(unit))
    at, first = offset, len(mine.works)
    for _, index, state, start, stop in log:
        begin = max(at, offset + round(start))
        at = max(min(offset + round(stop), end), begin)
        if at == begin:
            continue
        mine.stretches.append(Stretch(begin, at, state))
        if state == State.OPERANDS:  # it has not begun
            continue
        before = mine.works[-1] if len(mine.works) > first else None
        if before is not None and before.index == index:
            mine.works[-1] = Work(before.start, at, frame, index)
        else:
            mine.works.append(Work(begin, at, frame, index))
