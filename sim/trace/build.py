"""From what was recorded to what happened."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict

from moevit.compiler.timeline import UNITS, Timeline, Unit, Work

from .credits import Taken, at, taken
from .frames import frames
from .levels import levels
from .recording import Recording
from .states import states
from .works import works

__all__ = ["timeline"]


def timeline(recording: Recording, title: str = "RTL") -> Timeline:
    """Everything about a recording's frames. ``ValueError`` if none has ended."""
    if not recording.counted:
        raise ValueError("No frame of the recording has ended")
    found = Timeline(title=title, program=recording.program, frames=frames(recording))
    code = [found.code(frame.task) for frame in found.frames]
    all_works: dict[str, list[Work]] = defaultdict(list)
    all_credits: dict[str, list[Taken]] = defaultdict(list)
    for number, frame in enumerate(found.frames):
        mine = works(recording, frame, number, code[number])
        for unit, each in mine.items():
            all_works[unit] += each
        for unit, takes in taken(recording, frame, code[number], mine).items():
            all_credits[unit] += takes
    starts = [frame.start for frame in found.frames]
    notes = [found.program.entry(frame.task).notes for frame in found.frames]

    def owner(unit: str, index: int, cycle: int) -> str:
        frame = max(bisect_right(starts, cycle) - 1, 0)
        return f"{unit}: {notes[frame][index]} (#{index})"

    stretches = states(recording, found.frames, code, all_works, all_credits, owner)
    found.units = {
        unit: Unit(unit, all_works.get(unit, []), stretches.get(unit, []))
        for unit in UNITS
        if all_works.get(unit) or stretches.get(unit)
    }
    started = (at(all_works["fetch"], c) for c in recording.pulses("weights.misses").tolist())
    found.misses = [(work.frame, work.index) for work in started if work is not None]
    found.levels = levels(recording, found.frames, recording.program.config.limits.experts)
    return found
