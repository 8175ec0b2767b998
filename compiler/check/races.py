"""Conflicting accesses of different engines: each pair must be ordered as in the program.

The steps are gone through in program order. Every word remembers, for each stage, the position of
the last operation that wrote it and of the last that read it. An operation may read a word when its
clock says that all of these writes are complete, and write it when all reads are as well. Since the
operations of a stage are complete in order, the last one of each stage speaks for all before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moevit.hw.config import AcceleratorConfig

from .accesses import Access, Memory, accesses
from .findings import Finding
from .order import Order
from .steps import Stage, Step

__all__ = ["races"]

Ints = np.ndarray[Any, np.dtype[Any]]


def races(
    config: AcceleratorConfig,
    steps: Sequence[Step],
    orders: Sequence[Order],
    sizes: dict[Memory, int],
    describe: Callable[[int], str],
) -> Iterator[Finding]:
    """Every pair of instructions that may touch the same words in the wrong order (once each).

    Also accesses outside their memory, of ``sizes`` words.
    """
    last = _Last(sizes=sizes)
    seen: set[tuple[int, int]] = set()
    for step, order in zip(steps, orders, strict=True):
        for stage, at in order.at.items():
            last.starts[stage].append(at)
            last.steps[stage].append(step.index)
        for access in accesses(config, step):
            low, high = int(access.words.min()), int(access.words.max())
            if low < 0 or high >= sizes[access.memory]:
                name = access.memory.value
                yield Finding(
                    kind="address",
                    message=f"{describe(step.index)} touches {name}[{low}..{high}], outside its "
                    f"{sizes[access.memory]} words",
                    instructions=(step.index,),
                    memory=name,
                    words=(low, high),
                )
                continue
            for finding in last.check(step, order, access, describe):
                pair = (finding.instructions[0], finding.instructions[-1])
                if pair not in seen:
                    seen.add(pair)
                    yield finding
            last.record(order, access)


@dataclass(slots=True)
class _Last:
    """Positions of the last accesses of every word."""

    sizes: dict[Memory, int]
    at: dict[tuple[Memory, bool], dict[Stage, Ints]] = field(default_factory=dict)
    starts: dict[Stage, list[int]] = field(default_factory=lambda: {s: [] for s in Stage})
    steps: dict[Stage, list[int]] = field(default_factory=lambda: {s: [] for s in Stage})

    def check(
        self, step: Step, order: Order, access: Access, describe: Callable[[int], str]
    ) -> Iterator[Finding]:
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
                    yield self._finding(step, access, kind, stage, found, late, describe)

    def _finding(
        self,
        step: Step,
        access: Access,
        was_write: bool,
        stage: Stage,
        found: Ints,
        late: Ints,
        describe: Callable[[int], str],
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
        who = describe(other) if other != step.index else "itself"
        return Finding(
            kind="order",
            message=f"{describe(step.index)} {verb} {memory}[{low}..{high}], which "
            f"{who} may not have {before} by then",
            instructions=(other, step.index),
            memory=memory,
            words=(low, high),
        )

    def record(self, order: Order, access: Access) -> None:
        """The access becomes the last of its words."""
        stages = self.at.setdefault((access.memory, access.write), {})
        if access.end not in stages:
            stages[access.end] = np.full(self.sizes[access.memory], -1, np.int32)
        positions = order.positions(access.end)
        words = access.words
        # In order of the operations, so that of words named twice the later one stays.
        stages[access.end][words] = positions[-1] if words.ndim == 1 else positions[:, None]
