"""The norm engine's writes: addresses of the finished words, credits, the end of an instruction."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import ACTIVATION

from ..config import AcceleratorConfig
from ..interfaces import ActivationWrite, GiveSignature
from ..isa import ADDRESS_BITS, TOKEN_BITS, Norm
from ..lib.component import Component

__all__ = ["NormWriter"]


class NormWriter(Component):
    """Writes O bytes at a time, token after token.

    Members
    -------
    order, final, begin : In
        The instruction, its tokens' last word, and that it begins.
    i : In(stream of O bytes)
    o : Out(ActivationWrite)
    give : Out(GiveSignature)
        When the last word of a tile of tokens has been accepted.
    finished : Out
        The instruction's last word is accepted.
    fault : Out
        A write outside the memory, which is not carried out.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "order": In(Norm.layout()),
                "final": In(Norm.shape("words")),
                "begin": In(1),
                "i": In(stream.Signature(unsigned(ACTIVATION.width * config.array.outputs))),
                "o": Out(ActivationWrite(config)),
                "give": Out(GiveSignature),
                "finished": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, order, tile = self._config, self.order, self._config.array.tokens
        groups = config.array.inputs // config.array.outputs
        pieces = config.array.outputs // config.piece_bytes
        addr, base = Signal(ADDRESS_BITS + 1), Signal(ADDRESS_BITS + 1)
        group, word = Signal(range(groups)), Signal.like(self.final)
        row, left = Signal(range(tile)), Signal(TOKEN_BITS)
        inside, last, moved, tile_done = Signal(), Signal(), Signal(), Signal()
        words = config.memory.activation_words
        m.d.comb += [
            self.o.valid.eq(self.i.valid & inside),
            self.o.payload.addr.eq(addr),
            self.o.payload.data.eq(self.i.payload.replicate(groups)),
            self.i.ready.eq(self.o.ready & inside),
            moved.eq(self.o.valid & self.o.ready),
            last.eq(word == self.final),
            tile_done.eq(moved & last & ((row == tile - 1) | (left == 1))),
            self.finished.eq(moved & last & (left == 1)),
            self.fault.eq(self.i.valid & ~inside),
        ]
        m.d.comb += [
            self.o.payload.mask[g * pieces : (g + 1) * pieces].eq((group == g).replicate(pieces))
            for g in range(groups)
        ]
        m.d.sync += [
            self.give.valid.eq(tile_done & (order.signal != 0)),
            self.give.id.eq(order.signal),
            self.give.count.eq(1),
        ]
        with m.If(self.begin):
            m.d.sync += [
                addr.eq(order.target),
                inside.eq(order.target < words),
                base.eq(order.target + order.stride),
                left.eq(order.tokens),
                group.eq(0),
                word.eq(0),
                row.eq(0),
            ]
        with m.Elif(moved & last):
            m.d.sync += [
                addr.eq(base),
                inside.eq(base < words),
                base.eq(base + order.stride),
                group.eq(0),
                word.eq(0),
                row.eq(Mux(row == tile - 1, 0, row + 1)),
                left.eq(left - 1),
            ]
        with m.Elif(moved):
            m.d.sync += [word.eq(word + 1), group.eq(group + 1)]
            with m.If(group == groups - 1):
                m.d.sync += [group.eq(0), addr.eq(addr + 1), inside.eq(addr < words - 1)]
        return m
