"""Whose credit an engine waited for: every credit that was taken, and the instruction that gave it.

Credits of a semaphore are taken in the order in which they are given, so counting them is enough.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moevit.compiler.timeline import Frame, Work
from moevit.hw.codes import Destination
from moevit.hw.isa import Fetch, Gemm, Instruction, Load, Store, Sync

from .recording import Recording
from .works import inside

__all__ = ["Taken", "at", "taken"]

_BY_TILE = {"norm": ("norm.give.valid", 1), "epilogue": ("epilogue.give.valid", 0)}
"""Signals, and how many cycles late they are."""
_IN_ORDER: dict[str, tuple[str, type[Instruction]]] = {
    "load": ("load_unit.give.valid", Load),
    "store": ("store_unit.give.valid", Store),
    "fetch": ("weights.give.valid", Fetch),
}
_TAKERS = {
    "load": "load_unit.take",
    "store": "store_unit.take",
    "fetch": "weights.take",
    "norm": "norm.take",
    "loader": "loader.take",
}


@dataclass(frozen=True, slots=True)
class Taken:
    """Credits taken in ``cycle``; the last of them was given by ``index``, in ``unit``."""

    cycle: int
    unit: str
    index: int


def at(works: Sequence[Work], cycle: int) -> Work | None:
    """What a unit is on in a cycle."""
    low, high = 0, len(works)
    while low < high:
        middle = (low + high) // 2
        if works[middle].start <= cycle:
            low = middle + 1
        else:
            high = middle
    found = works[low - 1] if low else None
    return found if found is not None and cycle < found.end else None


def taken(
    recording: Recording,
    frame: Frame,
    code: Sequence[Instruction],
    works: dict[str, list[Work]],
) -> dict[str, list[Taken]]:
    """For each unit that takes credits, when it did and from whom."""
    gives = _gives(recording, frame, code, works)
    given: dict[int, list[tuple[int, str, int, int]]] = defaultdict(list)
    for give in sorted(gives):
        given[code[give[2]].signal].append(give)
    found: dict[str, list[Taken]] = {}
    takes = []
    for unit, stream in _TAKERS.items():
        found[unit] = []
        for cycle in inside(recording.fires(stream), frame).tolist():
            work = at(works[unit], cycle)
            if work is not None:
                takes.append((cycle, unit, code[work.index]))
    totals = {sem: np.cumsum([count for *_, count in each]) for sem, each in given.items()}
    so_far: dict[int, int] = defaultdict(int)
    for cycle, unit, instruction in sorted(takes, key=lambda take: take[0]):
        semaphore = instruction.wait
        so_far[semaphore] += instruction.wait_count or 1
        if semaphore not in totals:
            continue
        place = int(np.searchsorted(totals[semaphore], so_far[semaphore]))
        if place < len(given[semaphore]):
            _, giver, index, _ = given[semaphore][place]
            found[unit].append(Taken(cycle, giver, index))
    return found


def _gives(
    recording: Recording,
    frame: Frame,
    code: Sequence[Instruction],
    works: dict[str, list[Work]],
) -> list[tuple[int, str, int, int]]:
    """Cycle, unit, instruction and number of credits."""
    gives = []
    for unit, (signal, kind) in _IN_ORDER.items():
        givers = [n for n, i in enumerate(code) if isinstance(i, kind) and i.signal]
        cycles = inside(recording.pulses(signal), frame).tolist()
        gives += [(cycle, unit, n, 1) for cycle, n in zip(cycles, givers, strict=False)]
    routers = [n for n, i in enumerate(code) if isinstance(i, Gemm) and i.mode == Destination.GATE]
    done = inside(recording.pulses("gate.done"), frame).tolist()
    gives += [
        (cycle, "gate", n, 1) for cycle, n in zip(done, routers, strict=False) if code[n].signal
    ]
    for unit, (signal, late) in _BY_TILE.items():
        for cycle in inside(recording.pulses(signal), frame).tolist():
            work = at(works[unit], cycle - late)
            if work is not None and code[work.index].signal:
                given = code[work.index]
                count = given.count if isinstance(given, Sync) else 1
                gives.append((cycle, unit, work.index, count))
    return gives
