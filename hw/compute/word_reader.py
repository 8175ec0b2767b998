"""Reads the words of a row from the activation memory into the operand buffer."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..interfaces import ActivationRead, OperandWrite
from ..isa import ADDRESS_BITS, Gemm
from ..lib.component import Component

__all__ = ["WordReader"]


class WordReader(Component):
    """A word a cycle, from one span of a row to the next without a pause.

    Members
    -------
    depth : In
        Words of a row.
    has_spans, span, jump : In
        Whether only ``span`` words lie together, and how much further than that the next ones lie.
    start, base, offset : In
        A row is begun in the next cycle, at word ``base + offset``.
    reading, row, half : In
        Its words are read and go to this row of this half. The last one is read again until
        another row is begun.
    last : Out
        The word is the row's last.
    activations, operands : Out
        The read, always granted, and the write that follows it.
    writing : Out
        A word is on its way.
    fault : Out
        The address is beyond the memory.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "depth": In(Gemm.shape("depth")),
                "has_spans": In(1),
                "span": In(Gemm.shape("span")),
                "jump": In(ADDRESS_BITS),
                "start": In(1),
                "base": In(ADDRESS_BITS),
                "offset": In(ADDRESS_BITS),
                "reading": In(1),
                "row": In(range(config.array.tokens)),
                "half": In(1),
                "last": Out(1),
                "activations": Out(ActivationRead(config)),
                "operands": Out(OperandWrite(config)),
                "writing": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word, before_last = Signal.like(self.depth), Signal.like(self.depth)
        base, address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        of_span, jumping = Signal.like(self.span), Signal()  # of_span: 1 for the first word
        m.d.sync += [
            before_last.eq(self.depth - 2),
            of_span.eq(Mux(self.start | jumping, 1, of_span + 1)),
        ]
        with m.If(self.start | jumping):
            m.d.sync += base.eq(
                Mux(jumping, base, self.base) + Mux(jumping, self.jump, self.offset)
            )
        with m.If(self.start):
            m.d.sync += [word.eq(0), self.last.eq(self.depth == 1)]
        with m.Elif(self.reading & ~self.last):
            m.d.sync += [word.eq(word + 1), self.last.eq(word == before_last)]
            m.d.comb += jumping.eq(self.has_spans & (of_span == self.span))
        m.d.comb += [
            address.eq(base + word),
            self.activations.addr.eq(address),
            self.activations.en.eq(self.reading),
            self.fault.eq(self.reading & (address >= self._config.memory.activation_words)),
        ]
        write = self.operands
        m.d.sync += [
            write.en.eq(self.reading),
            write.row.eq(self.row),
            write.word.eq(word),
            write.half.eq(self.half),
        ]
        m.d.comb += [write.data.eq(self.activations.data), self.writing.eq(write.en)]
        return m
