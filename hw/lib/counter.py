"""Counters that say in registers what much logic would otherwise have to find out."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ShapeLike, Signal, ValueLike

__all__ = ["LookaheadCounter"]


class LookaheadCounter:
    """Counts 0, 1, 2 ... until it is wrapped, and has the next value and "is 0" in registers.

    ``value``, ``next`` (one more) and ``is_0`` are signals of ``m``.
    """

    def __init__(self, m: Module, name: str, shape: ShapeLike) -> None:
        self._m = m
        self.value = Signal(shape, name=name)
        self.next = Signal(shape, name=f"{name}_1", init=1)
        self.is_0 = Signal(name=f"{name}_is_0", init=1)

    def advance(self, wrap: ValueLike) -> None:
        """On the next clock edge: to the next value, or to 0 with ``wrap``."""
        self._m.d.sync += [
            self.value.eq(Mux(wrap, 0, self.next)),
            self.next.eq(Mux(wrap, 1, self.next + 1)),
            self.is_0.eq(wrap),
        ]
