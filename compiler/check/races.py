"""Conflicting accesses of different engines: each pair must be ordered as in the program.

The steps are gone through in program order. Every word remembers, for each stage, the position of
the last operation that wrote it and of the last that read it. An operation may read a word when its
clock says that all of these writes are complete, and write it when all reads are as well. Since the
operations of a stage are complete in order, the last one of each stage speaks for all before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .accesses import Access, Memory
from .findings import Finding
from .order import Order
from .steps import Stage, Step

__all__ = ["Races"]

Ints = np.ndarray[Any, np.dtype[Any]]


@dataclass(slots=True, kw_only=True)
class Races:
    """Positions of the last accesses of every word."""

    sizes: dict[Memory, int]
    describe: Callable[[int], str]
    at: dict[tuple[Memory, bool], dict[Stage, Ints]] = field(default_factory=dict)
    starts: dict[Stage, list[int]] = field(default_factory=lambda: {s: [] for s in Stage})
    steps: dict[Stage, list[int]] = field(default_factory=lambda: {s: [] for s in Stage})
    seen: set[tuple[int, ...]] = field(default_factory=set)

    def step(self, step: Step, order: Order, touched: list[Access]) -> Iterator[Finding]:
        """Every pair of instructions that may touch the same words in the wrong order, once."""
        for stage, at in order.at.items():
            self.starts[stage].append(at)
            self.steps[stage].append(step.index)
        for access in touched:
            for finding in self._check(step, order, access):
                if finding.instructions not in self.seen:
                    self.seen.add(finding.instructions)
                    yield finding
            self._record(order, access)

    def _check(self, step: Step, order: Order, access: Access) -> Iterator[Finding]:
        """What may not be over yet when the access begins."""
        begins = order.early[None] if access.early else order.begins[access.begin]
        for kind in (True, False) if access.write else (True,):
            for stage, last in self.at.get((access.memory, kind), {}).items():
                found = last[access.words]
                if access.words.ndim == 1:
                    late = found >= begins[0, stage]
                else:
                    late = found >= begins[:, stage, None]
                if late.any():
                    yield self._finding(step, access, kind, stage, found, late)

    def _finding(
        self,
        step: Step,
        access: Access,
        was_write: bool,
        stage: Stage,
        found: Ints,
        late: Ints,
    ) -> Finding:
        position = int(found[late].min())
        other = self.steps[stage][bisect_right(self.starts[stage], position) - 1]
        starts = self.starts[stage]
        place = bisect_right(starts, position)
        end = starts[place] if place < len(starts) else np.inf
        words = access.words[late & (found >= starts[place - 1]) & (found < end)]
        low, high = int(words.min()), int(words.max())
        memory = access.memory.value
        verb = {
            (True, False): "reads",
            (True, True): "overwrites",
            (False, True): "overwrites",
        }[was_write, access.write]
        before = "written" if was_write else "read"
        who = self.describe(other) if other != step.index else "itself"
        return Finding(
            kind="order",
            message=f"{self.describe(step.index)} {verb} {memory}[{low}..{high}], which "
            f"{who} may not have {before} by then",
            instructions=(other, step.index),
            memory=memory,
            words=(low, high),
        )

    def _record(self, order: Order, access: Access) -> None:
        """The access becomes the last of its words."""
        stages = self.at.setdefault((access.memory, access.write), {})
        if access.end not in stages:
            stages[access.end] = np.full(self.sizes[access.memory], -1, np.int32)
        positions = order.positions(access.end)
        words = access.words
        # In order of the operations, so that of words named twice the later one stays.
        stages[access.end][words] = positions[-1] if words.ndim == 1 else positions[:, None]
