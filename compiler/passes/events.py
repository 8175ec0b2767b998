"""An engine's sequence of events, and what lies behind each for certain."""

from __future__ import annotations

import numpy as np

from ..graph import Engine
from ..plan.layout import Ints
from .hazards import UNKNOWN

__all__ = ["Events"]

_SLOTS = 6
"""Places behind an operation of the compute engine, for SYNCs."""


class Events:
    """Events by position: the operation that each belongs to, and its clock.

    A clock is the position of every engine that lies behind. ``slot``: places for SYNCs, which are
    events of their own if one stands there.
    """

    def __init__(self) -> None:
        self.owner: list[int] = []
        self.slot: list[bool] = []
        self._clocks = np.full((64, len(Engine)), UNKNOWN)
        self._of: dict[int, list[int]] = {}
        self._slots: dict[int, list[int]] = {}
        self._used: dict[int, int] = {}

    @staticmethod
    def start() -> Ints:
        """The clock in front of everything."""
        return np.full(len(Engine), UNKNOWN)

    @property
    def clocks(self) -> Ints:
        """``(events, engines)``."""
        return self._clocks[: len(self.owner)]

    def of(self, op: int) -> list[int]:
        """Positions of an operation's own events."""
        return self._of[op]

    def slots_of(self, op: int) -> list[int]:
        """Positions behind an operation."""
        return self._slots[op]

    def add(self, op: int, engine: Engine, clocks: Ints) -> int:
        """Events of an operation with these clocks; the first one's position."""
        first = self._append(op, engine, clocks, slot=False)
        self._of[op] = list(range(first, first + len(clocks)))
        return first

    def add_slots(self, op: int, engine: Engine, clock: Ints) -> None:
        """Places behind it."""
        first = self._append(op, engine, np.broadcast_to(clock, (_SLOTS, len(clock))), slot=True)
        self._slots[op] = list(range(first, first + _SLOTS))
        self._used[op] = 1  # the first is that of SYNCs that tell only that it is written

    def use_slot(self, op: int, clock: Ints) -> int:
        """The next place behind an operation, for a SYNC with this clock."""
        place = self._used[op]
        self._used[op] += 1
        if place == _SLOTS:
            raise AssertionError("too many SYNCs between two products")
        for position in self._slots[op][place:]:
            np.maximum(self.clocks[position], clock, out=self.clocks[position])
        return self._slots[op][place]

    def first(self, engines: list[Engine], positions: Ints) -> int | None:
        """The first event that lies behind these positions of other engines."""
        if not self.owner:
            return None
        behind = np.all(self.clocks[:, engines] >= positions, axis=1) & ~np.array(self.slot)
        found = int(behind.argmax())
        return found if behind[found] else None

    def _append(self, op: int, engine: Engine, clocks: Ints, *, slot: bool) -> int:
        first = len(self.owner)
        self.owner += [op] * len(clocks)
        self.slot += [slot] * len(clocks)
        while len(self._clocks) < len(self.owner):
            self._clocks = np.concatenate([self._clocks, np.full_like(self._clocks, UNKNOWN)])
        self._clocks[first : len(self.owner)] = clocks
        self._clocks[first : len(self.owner), engine] = range(first, len(self.owner))
        return first
