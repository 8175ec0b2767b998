"""Where the rows of an instruction lie: one after the other, in the lines of a map, or by queue."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import SCORE

from ..interfaces import ReadPort, queue_address, queue_entry
from ..isa import ADDRESS_BITS, TOKEN_BITS, Gemm
from ..lib.component import Component

__all__ = ["RowLookup"]


class RowLookup(Component):
    """Finds the next row while the row before it is read.

    Latency: 3 cycles from ``ask`` to ``valid``. Throughput: one row in 3 cycles.

    Members
    -------
    gemm, is_attention : In
        The instruction; an ATTENTION has ``source`` and ``stride`` where a GEMM has them.
    clear, prepare : In
        Nothing is asked for; the instruction is there, its first row is the next.
    ask : In
        The next row is wanted. What is there of the row before is gone.
    again, first : In
        The next row is row ``first`` once more (of the next head).
    queue : Out(ReadPort)
        Expert queues.
    valid, token, score, base : Out
        Destination row, expert score and first word of the row that was asked for.
    queued, jump : Out
        The rows come from a queue; from one span of a row to the next, less the span.
    fault : Out
        The row is beyond the bits of a row.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "gemm": In(Gemm.layout()),
                "is_attention": In(1),
                "clear": In(1),
                "prepare": In(1),
                "ask": In(1),
                "again": In(1),
                "first": In(TOKEN_BITS),
                "queue": Out(ReadPort(queue_address, queue_entry)),
                "valid": Out(1),
                "token": Out(TOKEN_BITS),
                "score": Out(SCORE.width),
                "base": Out(ADDRESS_BITS),
                "queued": Out(1),
                "jump": Out(ADDRESS_BITS),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        g, is_gemm = self.gemm, ~self.is_attention
        # Rows have one bit more than a row has: it shows those beyond it.
        row_shape = unsigned(TOKEN_BITS + 1)
        source_row, target_row = Signal(row_shape), Signal(row_shape)
        asked_source, asked_target = Signal(row_shape), Signal(row_shape)
        column = Signal(row_shape)  # 1 for the first row of a line
        # From the last row of a line to the first of the next.
        source_step, target_step = Signal(row_shape), Signal(row_shape)
        by_token, has_lines, ends_line = Signal(), Signal(), Signal()
        stride, index = Signal(Gemm.shape("stride")), Signal(TOKEN_BITS)
        product, prepared = Signal(ADDRESS_BITS), Signal()
        fetching = Signal(2)  # shift register: read issued, product ready
        m.d.comb += [
            ends_line.eq(has_lines & (column == g.line)),
            self.queue.addr.slot.eq(source_row),
            self.queue.addr.expert.eq(g.queue),
            self.queue.en.eq(self.ask & self.queued),
            product.eq(index * stride),
            self.fault.eq(fetching[0] & (asked_source[-1] | asked_target[-1])),
        ]
        m.d.sync += [prepared.eq(self.prepare), fetching.eq((fetching << 1) | self.ask)]
        with m.If(self.clear):
            m.d.sync += [fetching.eq(0), self.valid.eq(0)]
        with m.If(self.prepare):
            m.d.sync += [
                self.queued.eq(is_gemm & g.use_queue),
                by_token.eq(is_gemm & g.use_queue & g.scatter),
                has_lines.eq(is_gemm & (g.line != 0)),
                source_step.eq(g.source_line - g.line + 1),
                target_step.eq(g.target_line - g.line + 1),
                stride.eq(g.stride),
                index.eq(g.source_line),  # for the jump
                source_row.eq(0),
                target_row.eq(0),
                column.eq(1),
            ]
        with m.If(prepared):
            m.d.sync += self.jump.eq(product - g.span)
        with m.If(self.again):
            m.d.sync += [source_row.eq(self.first), target_row.eq(self.first)]
        with m.If(self.ask):
            m.d.sync += [
                self.valid.eq(0),
                asked_source.eq(source_row),
                asked_target.eq(target_row),
                source_row.eq(source_row + Mux(ends_line, source_step, 1)),
                target_row.eq(target_row + Mux(ends_line, target_step, 1)),
                column.eq(Mux(ends_line, 1, column + 1)),
            ]
        with m.If(fetching[0]):
            entry = self.queue.data
            m.d.sync += [
                self.token.eq(Mux(by_token, entry.token, asked_target)),
                index.eq(Mux(self.queued & g.gather, entry.token, asked_source)),
                self.score.eq(entry.score),
            ]
        with m.If(fetching[1]):
            m.d.sync += [self.base.eq(g.source + product), self.valid.eq(1)]
        return m
