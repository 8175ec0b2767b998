"""Happens-before: what has certainly been done when an operation begins.

A *clock* is a row of one number a stage: ``clock[s] = p`` says that every operation of stage ``s``
at a position below ``p`` is complete. Each operation begins with a clock, made of

- its own stage's clock, whose operations come one after the other,
- the stages that it has passed already, and
- the gives whose credits it has taken (:mod:`.credits`).

Everything else (how fast the engines are, how much their buffers hold) may be in any way: an order
that rests on it is not seen, and a program that needs it is not proven.

Operations on the rows of an expert's queue may not exist. What follows from *their* credits holds
for operations of the same queue that exist only if they do, and for no other: for those the
clocks are kept apart (``_Orders.queued``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moevit.hw.isa import Attention, Fetch, Gemm, Load, Norm, Store, Sync

from .credits import Ledger
from .steps import FIRST, STAGES, Stage, Step

__all__ = ["Clocks", "Order", "order"]

Clocks = np.ndarray[Any, np.dtype[np.int32]]
"""``(operations, STAGES)``."""

_PASSES = 8


@dataclass(frozen=True, slots=True)
class Order:
    """One step: the clock with which each operation begins at a stage, and its first position.

    ``early``: the clock of its first stage before it takes credits.
    """

    early: Clocks
    begins: dict[Stage, Clocks]
    at: dict[Stage, int]

    def positions(self, stage: Stage) -> Clocks:
        """Of its operations at ``stage``."""
        return self.at[stage] + np.arange(len(self.begins[stage]), dtype=np.int32)


def order(steps: Sequence[Step]) -> tuple[list[Order], Ledger]:
    """Every step's clocks, and the credits' ledger for further questions.

    Where several engines give to one semaphore, what a take proves depends on how many credits the
    others can have given by then, and so on the order of what follows it. The first pass assumes
    the worst; each further one knows what the one before has proven. Raises ``Unproven``.
    """
    ledger = Ledger(steps)
    for _ in range(_PASSES):
        ledger.restart()
        run = _Orders(ledger)
        found = [run.step(step) for step in steps]
        if not ledger.changed:
            break
    return found, ledger


def _after(begins: Clocks, stage: Stage, at: int) -> Clocks:
    """The clocks with which these operations of ``stage`` end."""
    ends = begins.copy()
    ends[:, stage] = at + 1 + np.arange(len(ends), dtype=np.int32)
    return ends


class _Orders:
    """One pass over a program."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.clock: Clocks = np.zeros((STAGES, STAGES), np.int32)  # of each stage's next operation
        self.queued: dict[tuple[int, int], Clocks] = {}
        self.begins: dict[Stage, Clocks] = {}
        self.at: dict[Stage, int] = {}

    def step(self, step: Step) -> Order:
        """Clocks of the step's operations; the stages move on."""
        self.begins, self.at = {}, {}
        i = step.instruction
        early = self.clock[FIRST[type(i)]].copy()
        if isinstance(i, Load):
            self._pass(Stage.ASK, 1, self._taken(step, 1))
            self._pass(Stage.LOAD, 1, self._ends(Stage.ASK))
        elif isinstance(i, Store):
            self._store(step)
        elif isinstance(i, Norm):
            self._pass(Stage.SUMS, step.tiles, self._taken(step, step.tiles))
            self._pass(Stage.NORM, step.tiles, self._ends(Stage.SUMS))
            # The next NORM begins when this one has ended.
            self._join(Stage.SUMS, self._ends(Stage.NORM)[-1])
        elif isinstance(i, Fetch):
            self._pass(Stage.FETCH, 1, self._taken(step, 1))
        elif isinstance(i, Gemm | Attention | Sync):
            self._compute(step)
        self._give(step)
        return Order(early, self.begins, self.at)

    # Engines -----------------------------------------------------------------------------------
    def _store(self, step: Step) -> None:
        """Tiles, and the memory's answer as one operation more."""
        taken = self._taken(step, step.tiles)
        if taken is not None:
            taken = np.concatenate([taken, taken[-1:]])
        self._pass(Stage.STORE, step.tiles + 1, taken)

    def _compute(self, step: Step) -> None:
        count = step.operations
        queue = step.queue
        before = self.clock.copy() if queue else None
        taken = self._taken(step, step.tiles)
        if taken is not None and step.heads > 1:
            taken = np.repeat(taken, step.heads, axis=0)
        if queue:
            known = self.queued.get((queue.router, queue.expert))
            if known is not None:
                taken = known if taken is None else np.maximum(taken, known)
        self._pass(Stage.LOADER, count, taken)
        self._pass(Stage.ARRAY, count, self._ends(Stage.LOADER))
        self._pass(Stage.EPILOGUE, count, self._ends(Stage.ARRAY))
        if step.is_router:
            self._pass(Stage.GATE, 1, self.begins[Stage.EPILOGUE][:1])
            self._join(Stage.GATE, self._ends(Stage.EPILOGUE)[-1])
        if queue and before is not None:
            self.queued[queue.router, queue.expert] = self.begins[Stage.LOADER]
            for stage in (Stage.LOADER, Stage.ARRAY, Stage.EPILOGUE):
                at = self.clock[stage, stage]
                self.clock[stage] = before[stage]
                self.clock[stage, stage] = at

    def _pass(self, stage: Stage, count: int, joined: Clocks | None) -> None:
        """``count`` operations at ``stage``, each of which also begins after ``joined``."""
        at = int(self.clock[stage, stage])
        begins = np.empty((count, STAGES), np.int32)
        begins[:] = self.clock[stage]
        if joined is not None:
            np.maximum(begins, joined, out=begins)
            np.maximum.accumulate(begins, axis=0, out=begins)
        begins[:, stage] = at + np.arange(count, dtype=np.int32)
        self.begins[stage], self.at[stage] = begins, at
        self.clock[stage] = begins[-1]
        self.clock[stage, stage] = at + count

    def _join(self, stage: Stage, clock: Clocks) -> None:
        np.maximum(self.clock[stage], clock, out=self.clock[stage])

    def _ends(self, stage: Stage) -> Clocks:
        return _after(self.begins[stage], stage, self.at[stage])

    # Credits -----------------------------------------------------------------------------------
    def _taken(self, step: Step, tiles: int) -> Clocks | None:
        """What the takes of each tile prove."""
        take = step.take
        if take is None:
            return None
        clock = self.clock[take.stage]
        if take.each:
            # ATTENTION takes at a tile's first head.
            return self.ledger.take_each(step, take, tiles, clock, step.heads)
        return np.repeat(self.ledger.take_once(step, take, clock)[None], tiles, axis=0)

    def _give(self, step: Step) -> None:
        give = step.give
        if give is None:
            return
        ends = self._ends(give.stage)
        if give.stage == Stage.GATE:  # its clock knows more by then
            ends = self.clock[Stage.GATE][None].copy()
        elif give.stage == Stage.STORE:
            ends = ends[-1:]
        elif give.each and step.heads > 1:
            ends = ends[step.heads - 1 :: step.heads]
        self.ledger.give(step, give, ends)
