"""Credits of the semaphores: which give stands behind a take, whatever the engines' speeds are.

Every semaphore has one taker, an engine that takes in order. Where its credits come from one
stage, which gives in order, the k-th credit taken is the k-th given. Gives of an expert's queue are
as many as it has tiles, a number that is known only at run time; they are matched with takes of the
same queue as a whole, for every length at once, and with nothing else.

Where several stages give, the order of their gives is not known. ``k`` credits taken then mean only
that ``k`` have been given in all. With ``g_s`` of stage ``s``, for every possible way of making up
``k``, the clocks of those gives are joined; what is proven is what all ways have in common. A way
is possible if no ``g_s`` is below what the taker already knows to have been given, and none
counts a give that comes after the take itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from moevit.hw.isa import SEMAPHORE_BITS, SEMAPHORES

from .findings import Finding, Unproven
from .steps import STAGES, Credits, Stage, Step

__all__ = ["Ledger"]

Ints = np.ndarray[Any, np.dtype[np.int32]]

_WAYS = 256
"""Ways to make up a number of credits that are looked at one by one."""


@dataclass(slots=True)
class _Gives:
    """All gives of a stage to a semaphore: row ``n`` of ``clocks`` after the first ``n``.

    Rows beyond ``count`` are those of the pass before (zeros in the first).
    """

    clocks: Ints
    count: int = 0

    @property
    def total(self) -> int:
        return len(self.clocks) - 1

    def possible(self, stage: Stage, at: int) -> int:
        """Most that can be given before the operation of ``stage`` at ``at`` is complete."""
        column = self.clocks[:, stage]
        now = int(np.searchsorted(column[: self.count + 1], at, side="right"))
        if now <= self.count:
            return now - 1
        later = column[self.count + 1 :]
        return self.count + int(np.searchsorted(later, at, side="right"))


@dataclass(slots=True)
class _Group:
    """Gives of one instruction that are not all taken: ``queue`` if they depend on one."""

    queue: tuple[int, int] | None
    clocks: Ints
    by: int


@dataclass(slots=True)
class _Semaphore:
    number: int
    gives: dict[Stage, _Gives] = field(default_factory=dict)
    groups: deque[_Group] = field(default_factory=deque)
    taker: Stage | None = None
    taken: int = 0
    takes: list[tuple[int, int]] = field(default_factory=list)  # position, amount
    depends: bool = False  # some gives depend on queues


class Ledger:
    """All semaphores; credits are counted in the order of the program.

    Raises ``Unproven`` for takes that the gives before them in the program do not cover (the
    program's own order would hang), for numbers that depend on routing, and for two takers.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = {step.index: step for step in steps}
        self.semaphores = [_Semaphore(n) for n in range(SEMAPHORES)]
        self.changed = False
        counts: dict[tuple[int, Stage], int] = {}
        takers: dict[int, Step] = {}
        for step in steps:
            give, take = step.give, step.take
            if give:
                key = (give.semaphore, give.stage)
                amount = give.amount * (step.tiles if give.each else 1)
                counts[key] = counts.get(key, 0) + amount
                if step.queue and give.each:
                    self.semaphores[give.semaphore].depends = True
            if take:
                other = takers.setdefault(take.semaphore, step)
                if other.take and other.take.stage != take.stage:
                    raise _unproven(
                        "credits",
                        f"two engines take from semaphore {take.semaphore}, {_name(other)} and "
                        f"{_name(step)}: which of them gets a credit is not determined",
                        other,
                        step,
                    )
                self.semaphores[take.semaphore].taker = take.stage
        for (number, stage), count in counts.items():
            zeros = np.zeros((count + 1, STAGES), np.int32)
            self.semaphores[number].gives[stage] = _Gives(zeros)
        for semaphore in self.semaphores:
            if len(semaphore.gives) > 1 and semaphore.depends:
                raise _unproven(
                    "credits",
                    f"several engines give to semaphore {semaphore.number}, one of them as often "
                    "as a queue has tiles",
                )

    def restart(self) -> None:
        """Before a pass over the program."""
        self.changed = False
        for semaphore in self.semaphores:
            semaphore.groups.clear()
            semaphore.taken, semaphore.takes = 0, []
            for gives in semaphore.gives.values():
                gives.count = 0

    # Gives -------------------------------------------------------------------------------------
    def give(self, step: Step, give: Credits, ends: Ints) -> None:
        """``ends``: clocks after each give, or after the one that gives all."""
        semaphore = self.semaphores[give.semaphore]
        clocks = ends if give.each else np.repeat(ends, give.amount, axis=0)
        table = semaphore.gives[give.stage]
        place = table.clocks[table.count + 1 : table.count + 1 + len(clocks)]
        if len(semaphore.gives) > 1 and not np.array_equal(place, clocks):
            self.changed = True
        place[:] = clocks
        table.count += len(clocks)
        queue = (step.queue.router, step.queue.expert) if step.queue and give.each else None
        semaphore.groups.append(_Group(queue, clocks, step.index))

    # Takes -------------------------------------------------------------------------------------
    def take_once(self, step: Step, take: Credits, clock: Ints) -> Ints:
        """The clock that ``amount`` credits prove, taken before the step's first operation."""
        semaphore = self.semaphores[take.semaphore]
        if step.queue:
            raise _unproven(
                "credits",
                f"{_name(step)} takes {take.amount} credits of semaphore {take.semaphore} only if "
                "its queue is not empty",
                step,
            )
        found = self._consume(semaphore, step, take.amount)
        at = int(clock[take.stage])
        semaphore.taken += take.amount
        semaphore.takes.append((at, take.amount))
        if len(semaphore.gives) > 1:
            return self._shared(semaphore, take.stage, at, clock)
        last: Ints = found[-1]
        return last

    def take_each(
        self, step: Step, take: Credits, tiles: int, clock: Ints, operations: int
    ) -> Ints:
        """``(tiles, STAGES)``: what one credit for each tile proves; ``operations`` a tile."""
        semaphore = self.semaphores[take.semaphore]
        at = int(clock[take.stage])
        if step.queue:
            found = self._consume_queue(semaphore, step, tiles)
        else:
            found = self._consume(semaphore, step, tiles)
        if len(semaphore.gives) > 1:
            found = np.empty((tiles, STAGES), np.int32)
            known = clock.copy()
            for n in range(tiles):
                known[take.stage] = at + n * operations
                semaphore.taken += 1
                found[n] = self._shared(semaphore, take.stage, at + n * operations, known)
                np.maximum(known, found[n], out=known)
        else:
            semaphore.taken += tiles
        semaphore.takes += [(at + n * operations, 1) for n in range(tiles)]
        return found

    def _consume(self, semaphore: _Semaphore, step: Step, amount: int) -> Ints:
        """The clocks of the next ``amount`` gives in program order."""
        parts, needed = [], amount
        while needed:
            if not semaphore.groups:
                raise _unproven(
                    "deadlock",
                    f"{_name(step)} takes {amount} credits of semaphore {semaphore.number}, the "
                    f"program before it has given {amount - needed} that nobody else takes",
                    step,
                )
            group = semaphore.groups[0]
            if group.queue is not None:
                raise _unproven(
                    "credits",
                    f"{_name(step)} takes credits of semaphore {semaphore.number} that "
                    f"{_name(self.steps[group.by])} gives as often as its queue has tiles",
                    step,
                    self.steps[group.by],
                )
            parts.append(group.clocks[:needed])
            if len(group.clocks) <= needed:
                semaphore.groups.popleft()
            else:
                group.clocks = group.clocks[needed:]
            needed -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _consume_queue(self, semaphore: _Semaphore, step: Step, tiles: int) -> Ints:
        """The gives of the same queue, tile for tile."""
        assert step.queue is not None
        mine = (step.queue.router, step.queue.expert)
        group = semaphore.groups[0] if semaphore.groups else None
        if group is None or group.queue != mine or len(group.clocks) != tiles:
            giver = () if group is None else (self.steps[group.by],)
            what = f"given by {_name(giver[0])}" if giver else "that nobody gives before it"
            raise _unproven(
                "credits",
                f"{_name(step)} takes as many credits of semaphore {semaphore.number} as its queue "
                f"has tiles, {what}",
                step,
                *giver,
            )
        semaphore.groups.popleft()
        return group.clocks

    def _shared(self, semaphore: _Semaphore, stage: Stage, at: int, known: Ints) -> Ints:
        """What ``semaphore.taken`` credits of several givers prove."""
        needed = semaphore.taken
        gives_of = list(semaphore.gives.values())
        low = [self._given(gives, giver, known) for giver, gives in semaphore.gives.items()]
        high = [gives.possible(stage, at) for gives in gives_of]
        low = [max(mine, needed - (sum(high) - high[n])) for n, mine in enumerate(low)]
        low = [min(mine, gives.total) for mine, gives in zip(low, gives_of, strict=True)]
        ways = np.array([low])
        if sum(low) < needed:
            high = [min(h, needed - (sum(low) - low[n])) for n, h in enumerate(high)]
            ways = _ways(needed, low, high)
        clock: Ints = gives_of[0].clocks[ways[:, 0]]
        for n, gives in enumerate(gives_of[1:], 1):
            clock = np.maximum(clock, gives.clocks[ways[:, n]])
        least: Ints = clock.min(axis=0)
        return least

    @staticmethod
    def _given(gives: _Gives, giver: Stage, known: Ints) -> int:
        """Gives that a clock says have been made."""
        column = gives.clocks[:, giver]
        return int(np.searchsorted(column[: gives.count + 1], known[giver], side="right")) - 1

    # The end -----------------------------------------------------------------------------------
    def finish(self) -> Iterator[Finding]:
        """Credits that are left, and counters that may run over."""
        for semaphore in self.semaphores:
            if semaphore.groups:
                step = self.steps[semaphore.groups[0].by]
                yield _finding(
                    "credits",
                    f"credits of semaphore {semaphore.number} that {_name(step)} gives are left "
                    "over at the end of the frame",
                    step,
                )
            yield from self._fits(semaphore)

    def _fits(self, semaphore: _Semaphore) -> Iterator[Finding]:
        """At every give: all that can have been given less what has certainly been taken."""
        limit = (1 << SEMAPHORE_BITS) - 1
        total = sum(gives.total for gives in semaphore.gives.values())
        if total <= limit or semaphore.taker is None:
            return
        at = np.array([p for p, _ in semaphore.takes])
        taken = np.concatenate([[0], np.cumsum([n for _, n in semaphore.takes])])
        for giver, gives in semaphore.gives.items():
            clocks = gives.clocks[1:]
            held = np.arange(1, len(clocks) + 1)
            held -= taken[np.searchsorted(at, clocks[:, semaphore.taker], side="left")]
            for other, others in semaphore.gives.items():
                if other != giver:  # those that do not come after this give
                    after = others.clocks[1:, giver]
                    held += np.searchsorted(after, clocks[:, giver] - 1, side="right")
            if held.max() > limit:
                yield _finding(
                    "credits",
                    f"semaphore {semaphore.number} may hold {held.max()} credits, it counts up to "
                    f"{limit}",
                )


def _ways(needed: int, low: list[int], high: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """``(ways, givers)``: how ``low .. high`` can make up ``needed``; where they are too many, one
    line with what each gives at least."""
    sizes = [h - a + 1 for a, h in zip(low, high, strict=True)]
    rest = max(range(len(sizes)), key=sizes.__getitem__)  # follows from the others
    others = [n for n in range(len(sizes)) if n != rest]
    if prod(sizes[n] for n in others) > _WAYS:
        return np.array([low])
    ways = np.empty((prod(sizes[n] for n in others), len(sizes)), np.int64)
    grid = np.meshgrid(*(np.arange(low[n], high[n] + 1) for n in others), indexing="ij")
    for n, values in zip(others, grid, strict=True):
        ways[:, n] = values.ravel()
    ways[:, rest] = needed - ways[:, others].sum(axis=1)
    return ways[(ways[:, rest] >= low[rest]) & (ways[:, rest] <= high[rest])]


def _name(step: Step) -> str:
    """An instruction in a message."""
    return f"instruction {step.index} ({type(step.instruction).__name__.upper()})"


def _finding(kind: str, message: str, *steps: Step) -> Finding:
    return Finding(kind=kind, message=message, instructions=tuple(s.index for s in steps))


def _unproven(kind: str, message: str, *steps: Step) -> Unproven:
    return Unproven(_finding(kind, message, *steps))
