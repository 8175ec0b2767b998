"""Counting semaphores: the only order between engines."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from ..interfaces import GiveSignature, TakeSignature
from ..isa import SEMAPHORE_BITS, SEMAPHORES
from ..lib.component import Component
from ..lib.pipeline import pairwise

__all__ = ["Semaphores"]

_Amount = StructLayout({"valid": 1, "id": ceil_log2(SEMAPHORES), "count": SEMAPHORE_BITS})
"""A request or a gift, kept for a cycle."""


class Semaphores(Component):
    """``SEMAPHORES`` counters with several givers and takers.

    Latency: :attr:`latency` cycles from a give to the earliest take of its credits. A take is
    granted two cycles after it is asked for, or later; ``valid``, ``id`` and ``count`` are held
    until then. No path leads through the unit, and none far into it: gives and requests are
    registers before anything is made of them, and ``ready`` is one. Semaphore 0 always has
    credits.

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

    latency = 4

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

        # A request and its grant. Semaphore 0 is never counted, and always has enough.
        enough = [Signal(name=f"enough_{n}") for n in range(self._takers)]
        asked: list[Any] = [Signal(_Amount, name=f"asked_{n}") for n in range(self._takers)]
        table = Array([Const((1 << SEMAPHORE_BITS) - 1, SEMAPHORE_BITS), *counters.values()])
        for take, is_enough, ask in zip(self.take, enough, asked, strict=True):
            m.d.comb += take.ready.eq(is_enough)
            with m.If(take.valid | ask.valid):
                m.d.sync += [
                    ask.valid.eq(take.valid & ~is_enough),
                    ask.id.eq(take.id),
                    ask.count.eq(take.count),
                    is_enough.eq(ask.valid & ~is_enough & (table[ask.id] >= ask.count)),
                ]

        # Gives are added up in one cycle and counted in the next.
        came: list[Any] = [Signal(_Amount, name=f"came_{n}") for n in range(self._givers)]
        for give, kept in zip(self.give, came, strict=True):
            m.d.sync += kept.valid.eq(give.valid)
            with m.If(give.valid):
                m.d.sync += [kept.id.eq(give.id), kept.count.eq(give.count)]
        giving, waiting = Signal(), Signal()
        m.d.comb += giving.eq(Cat(give.valid for give in came).any())
        m.d.sync += waiting.eq(giving)
        with m.If(giving | waiting):
            for i in numbers:
                credits = [Mux(g.valid & (g.id == i), g.count, 0) for g in came]
                while len(credits) > 1:
                    credits = pairwise(lambda a, b: a + b, credits)
                m.d.sync += given[i].eq(credits[0])
        with m.If(waiting | Cat(enough).any()):
            for i in numbers:
                taken = [
                    Mux(is_enough & (ask.id == i), ask.count, 0)
                    for ask, is_enough in zip(asked, enough, strict=True)
                ]
                m.d.sync += counters[i].eq(counters[i] + given[i] - reduce(or_, taken))
        return m
