"""Counting semaphores: the only order between engines."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

from .interfaces import GiveSignature, TakeSignature
from .isa import SEMAPHORE_BITS, SEMAPHORES
from .pipeline import pairwise

__all__ = ["Unit"]


class Unit(Component):
    """``SEMAPHORES`` counters with several givers and takers.

    Latency: :attr:`latency` cycles from a give to the earliest take of its credits. A take is
    granted one cycle after it is asked for, or later; ``valid``, ``id`` and ``count`` are held
    until then. So no path leads through the unit: gives are added up in one cycle and counted in
    the next, and ``ready`` is a register, but for semaphore 0, which always has credits.

    No two takers may take from the same semaphore in one cycle (each has one consumer in a
    program).

    Parameters
    ----------
    givers, takers : int
        Number of ports.

    Members
    -------
    give : In(GiveSignature) x givers
    take : In(TakeSignature) x takers
    """

    latency = 3

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
        numbers = range(1, SEMAPHORES)
        counters = {i: Signal(SEMAPHORE_BITS, name=f"credits_{i}") for i in numbers}
        given = {i: Signal(SEMAPHORE_BITS, name=f"given_{i}") for i in numbers}

        enough = [Signal(name=f"enough_{n}") for n in range(self._takers)]
        fire = [Signal(name=f"fire_{n}") for n in range(self._takers)]
        table = Array([Const(0, SEMAPHORE_BITS), *counters.values()])
        for take, is_enough, fires in zip(self.take, enough, fire, strict=True):
            m.d.comb += [
                take.ready.eq((take.id == 0) | is_enough),
                fires.eq(take.valid & is_enough),
            ]
            with m.If(take.valid | is_enough):
                m.d.sync += is_enough.eq(
                    take.valid & ~is_enough & (take.id != 0) & (table[take.id] >= take.count)
                )

        giving, waiting = Signal(), Signal()
        m.d.comb += giving.eq(Cat(give.valid for give in self.give).any())
        m.d.sync += waiting.eq(giving)
        with m.If(giving | waiting):
            for i in numbers:
                credits = [Mux(g.valid & (g.id == i), g.count, 0) for g in self.give]
                while len(credits) > 1:
                    credits = pairwise(lambda a, b: a + b, credits)
                m.d.sync += given[i].eq(credits[0])
        with m.If(waiting | Cat(fire).any()):
            for i in numbers:
                taken = [
                    Mux(fires & (take.id == i), take.count, 0)
                    for take, fires in zip(self.take, fire, strict=True)
                ]
                m.d.sync += counters[i].eq(counters[i] + given[i] - reduce(or_, taken))
        return m
