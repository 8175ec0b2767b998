"""What lies in the on-chip memories when: from the instructions' addresses and a frame's times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from moevit.compiler.check.accesses import Memory, accesses, memory_words
from moevit.compiler.check.steps import make_steps
from moevit.compiler.timeline import Timeline
from moevit.hw.isa import Gemm

__all__ = ["Held", "memory_map"]

SHOWN = (Memory.ACTIVATIONS, Memory.RESIDUAL, Memory.KEY_VALUES)

_RUNS = 16
"""More pieces of one result than these are drawn as one, from the first word to the last."""


@dataclass(frozen=True, slots=True)
class Held:
    """Words ``low`` to ``high - 1`` hold what instruction ``index`` wrote, until it was last read.

    ``start``, ``end``: from the instruction's begin to the end of the last that reads it; cycles of
    the frame.
    """

    memory: Memory
    low: int
    high: int
    start: int
    end: int
    index: int


def memory_map(real: Timeline, number: int) -> list[Held]:
    """Of frame ``number``. What may be read counts as read: which tokens an expert gets is known
    only when it runs."""
    frame, config = real.frames[number], real.program.config
    times: dict[int, tuple[int, int]] = {}
    for unit in real.units.values():
        for w in unit.works:
            if w.frame == number:
                start, end = times.get(w.index, (w.start, w.end))
                times[w.index] = (min(start, w.start), max(end, w.end))
    sizes = memory_words(config, real.program.output_bytes)
    owner = {memory: np.full(sizes[memory], -1, np.int64) for memory in SHOWN}
    writes: list[tuple[Memory, int, Any]] = []  # of each result: memory, instruction, words
    last: list[int] = []
    for step in make_steps(config, real.code(frame.task)):
        if step.index not in times:
            continue
        i, end = step.instruction, times[step.index][1]
        for access in accesses(config, step):
            if access.memory not in owner:
                continue
            words = np.unique(access.words)
            held = owner[access.memory]
            words = words[(words >= 0) & (words < len(held))]
            adds = access.memory == Memory.RESIDUAL and isinstance(i, Gemm)
            if adds or not access.write:
                # What adds to the residual stream reads it as well.
                for result in np.unique(held[words]).tolist():
                    if result >= 0:
                        last[result] = max(last[result], end)
            if access.write:
                held[words] = len(writes)
                writes.append((access.memory, step.index, words))
                last.append(end)
    found = []
    for (memory, index, words), end in zip(writes, last, strict=True):
        for low, high in _runs(words):
            found.append(
                Held(memory, low, high, times[index][0] - frame.start, end - frame.start, index)
            )
    return found


def _runs(words: Any) -> Iterator[tuple[int, int]]:
    if not len(words):
        return
    breaks = np.flatnonzero(np.diff(words) > 1)
    if len(breaks) >= _RUNS:
        yield int(words[0]), int(words[-1]) + 1
        return
    edges = [0, *(breaks + 1).tolist(), len(words)]
    for a, b in pairwise(edges):
        yield int(words[a]), int(words[b - 1]) + 1
