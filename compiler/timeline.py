"""What each unit of the accelerator did or is expected to do, cycle by cycle.

The same form for what the RTL did (:mod:`moevit.sim.trace`) and for what the cycle model expects
(:mod:`.cost.timeline`), so that one can be laid over the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .disasm import format_instruction
from .program import Program

__all__ = ["BUSY_UNITS", "UNITS", "Frame", "Level", "State", "Stretch", "Timeline", "Unit", "Work"]

UNITS = (
    "sequencer",
    "load",
    "load side 0",
    "load side 1",
    "fetch",
    "loader",
    "array",
    "softmax",
    "epilogue",
    "gate",
    "norm",
    "store",
)
"""Units in the order of the data's way."""

BUSY_UNITS = {"array": "ARRAY_BUSY", "norm": "NORM_BUSY", "gate": "GATE_BUSY"} | {
    "softmax": "SOFTMAX_BUSY"
}
"""Units whose busy cycles the accelerator counts, and the counter."""


class State(StrEnum):
    """What a unit does in a cycle in which it is not idle."""

    BUSY = "busy"
    CREDITS = "waits for credits"
    OPERANDS = "waits for operands"
    WEIGHTS = "waits for weights"
    DRAIN = "waits for room behind"
    SOFTMAX = "waits for softmax"
    NO_WORK = "no work"
    MEMORY = "waits for memory"
    ARRAY = "waits for the array"
    QUEUE = "waits for a queue"
    GATE = "waits for the gate"
    HAZARD = "waits for its own writes"
    FLIGHT = "in flight"


@dataclass(frozen=True, slots=True)
class Work:
    """A unit is on instruction ``index`` of frame ``frame`` from ``start`` until before ``end``."""

    start: int
    end: int
    frame: int
    index: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A unit is in one state from ``start`` until before ``end``; for what it waits, if for any."""

    start: int
    end: int
    state: State
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """A number over time: ``values[i]`` from cycle ``times[i]`` on."""

    name: str
    unit: str
    times: Sequence[int]
    values: Sequence[float]


@dataclass(slots=True)
class Unit:
    """A unit's instructions, which do not overlap, and its states, which do not either."""

    name: str
    works: list[Work] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)

    def cycles(self, state: State, start: int, end: int) -> int:
        """Cycles in a state between two times."""
        return sum(
            max(min(s.end, end) - max(s.start, start), 0)
            for s in self.stretches
            if s.state == state
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its entry of the program and its cycles, as the counters count them.

    ``counters``: by lower-case name, what the recorded signals add up to; empty of an estimate.
    """

    task: str
    start: int
    end: int
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class Timeline:
    """Everything about some frames on one device. ``title`` says what: "RTL" or "estimate".

    ``misses``: frame and instruction of each FETCH that brought an expert.
    """

    title: str
    program: Program
    frames: list[Frame] = field(default_factory=list)
    units: dict[str, Unit] = field(default_factory=dict)
    levels: list[Level] = field(default_factory=list)
    misses: list[tuple[int, int]] = field(default_factory=list)
    _code: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    def code(self, task: str) -> list[Any]:
        """An entry's instructions."""
        if task not in self._code:
            self._code[task] = self.program.instructions(task)
        return self._code[task]

    def note(self, work: Work) -> str:
        """The compiler's note of an instruction."""
        return self.program.entry(self.frames[work.frame].task).notes[work.index]

    def text(self, work: Work) -> str:
        """The instruction, disassembled."""
        return format_instruction(self.code(self.frames[work.frame].task)[work.index])
