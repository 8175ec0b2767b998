"""The norm engine's reads: credits, and the residual words of token after token."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..interfaces import ResidualRead, TakeSignature
from ..isa import ADDRESS_BITS, TOKEN_BITS, Norm
from ..lib.component import Component

__all__ = ["UNDER_WAY", "NormReader"]

UNDER_WAY = 8
"""Tokens between their first read and the start of their second pass."""


class NormReader(Component):
    """Reads the words of an instruction's tokens, which lie one behind the other.

    Members
    -------
    order, final, begin : In
        The instruction, its tokens' last word, and that it begins.
    running, stopped : In
        It is under way; a fault has been seen.
    room, started : In
        There is a place for a word; a token's second pass has begun.
    take : Out(TakeSignature)
    residual : Out(ResidualRead)
    first, last : Out
        The word that is read is its token's first or last.
    fault : Out
        A read outside the memory, which is not carried out.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "order": In(Norm.layout()),
                "final": In(Norm.shape("words")),
                "begin": In(1),
                "running": In(1),
                "stopped": In(1),
                "room": In(1),
                "started": In(1),
                "take": Out(TakeSignature),
                "residual": Out(ResidualRead(config)),
                "first": Out(1),
                "last": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        order, tile = self.order, self._config.array.tokens
        # What decides on a read is in registers: whether the address is inside the memory, the
        # word a token's first, the row a tile's first, and anything left.
        addr, inside = Signal(ADDRESS_BITS + 1), Signal()
        word, row, left = Signal.like(self.final), Signal(range(tile)), Signal(TOKEN_BITS)
        new_tile, some, credit = Signal(), Signal(), Signal()
        words = self._config.memory.residual_words
        under_way, ask, issue = Signal(range(UNDER_WAY + 1)), Signal(), Signal()
        may_begin = (under_way != UNDER_WAY) & (~new_tile | credit)
        m.d.comb += [
            self.last.eq(word == self.final),
            ask.eq(some & self.room & (~self.first | may_begin) & ~self.stopped),
            issue.eq(ask & inside),
            self.fault.eq(ask & ~inside),
            self.residual.en.eq(issue),
            self.residual.addr.eq(addr),
        ]
        m.d.sync += under_way.eq(under_way + (issue & self.first) - self.started)
        with m.If(self.begin):
            m.d.sync += [
                addr.eq(order.source),
                inside.eq(order.source < words),
                some.eq(1),
                left.eq(order.tokens),
                word.eq(0),
                self.first.eq(1),
                row.eq(0),
                new_tile.eq(1),
            ]
        with m.Elif(issue):
            m.d.sync += [
                addr.eq(addr + 1),
                inside.eq(addr < words - 1),
                word.eq(word + 1),
                self.first.eq(self.last),
            ]
            with m.If(self.last):
                m.d.sync += [
                    word.eq(0),
                    left.eq(left - 1),
                    some.eq(left != 1),
                    row.eq(Mux(row == tile - 1, 0, row + 1)),
                    new_tile.eq(row == tile - 1),
                ]
        self._credits(m, credit, issue & self.first & new_tile)
        return m

    def _credits(self, m: Module, credit: Signal, spend: object) -> None:
        """One tile's is taken ahead, so that reading does not wait for the unit's answer."""
        order, tile = self.order, self._config.array.tokens
        up_front, take, untaken = Signal(), Signal(), Signal(TOKEN_BITS)
        m.d.comb += [
            up_front.eq(order.wait_count != 0),
            self.take.valid.eq(self.running & ~credit & (untaken != 0) & ~self.stopped),
            self.take.id.eq(order.wait),
            self.take.count.eq(Mux(up_front, order.wait_count, 1)),
            take.eq(self.take.valid & self.take.ready),
        ]
        with m.If(take):
            m.d.sync += [
                untaken.eq(Mux(up_front | (untaken <= tile), 0, untaken - tile)),
                credit.eq(1),
            ]
        with m.Elif(spend & ~up_front):
            m.d.sync += credit.eq(0)
        with m.If(self.begin):
            m.d.sync += [untaken.eq(order.tokens), credit.eq(0)]
