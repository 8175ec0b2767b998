"""Counting semaphores: the only order between engines."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

from .interfaces import GiveSignature, TakeSignature
from .isa import SEMAPHORE_BITS, SEMAPHORES

__all__ = ["Unit"]


class Unit(Component):
    """``SEMAPHORES`` counters with several givers and takers.

    A credit given in one cycle can be taken in the next. No two takers may take from the same
    semaphore in one cycle (each has one consumer in a program). Semaphore 0 always has credits.

    Parameters
    ----------
    givers, takers : int
        Number of ports.

    Members
    -------
    give : In(GiveSignature) x givers
    take : In(TakeSignature) x takers
    """

    def __init__(self, *, givers: int, takers: int) -> None:
        self._givers, self._takers = givers, takers
        super().__init__(
            {
                "give": In(GiveSignature).array(givers),
                "take": In(TakeSignature).array(takers),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        counters = [Signal(SEMAPHORE_BITS, name=f"credits_{i}") for i in range(SEMAPHORES)]
        for take in self.take:
            m.d.comb += take.ready.eq((take.id == 0) | (Array(counters)[take.id] >= take.count))
        moving = Signal()
        m.d.comb += moving.eq(Cat(*(p.valid for p in [*self.give, *self.take])).any())
        with m.If(moving):
            for i, counter in enumerate(counters[1:], 1):
                total = counter
                for give in self.give:
                    total = total + Mux(give.valid & (give.id == i), give.count, 0)
                for take in self.take:
                    total = total - Mux(take.valid & take.ready & (take.id == i), take.count, 0)
                m.d.sync += counter.eq(total)
        return m
