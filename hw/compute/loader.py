"""Operand loader: gathers the tokens of a tile from the activation memory (patch reordering).

Tokens of an expert's queue are read by index, so no activation is ever copied or sorted. Rows of a
map are windows of it, read where they lie, so that no window is ever copied either.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, StructLayout, View
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2

from moevit.quant.formats import SCORE

from ..config import AcceleratorConfig
from ..interfaces import ReadPort, TakeSignature
from ..isa import (
    ADDRESS_BITS,
    INSTRUCTION_BYTES,
    TO_KEY_VALUE,
    TOKEN_BITS,
    WITH_LINES,
    Attention,
    Destination,
    Gemm,
    Opcode,
    Sync,
)
from ..lib.queue import SmallFifo
from ..registers import Error
from .descriptors import Kind, array_tile

__all__ = ["Loader"]


class Loader(Component):
    """Fetches T rows of ``depth`` words into one half of the operand buffer, tile by tile.

    Latency: about 6 cycles from an instruction to its first word. Throughput: one word a cycle, one
    cycle more a tile. Back-pressure: waits for a free half, for a credit, and for ``o``.

    Members
    -------
    i : In(stream of 256 bits)
        GEMM, ATTENTION and SYNC instructions.
    o : Out(stream of array_tile)
        One descriptor for each loaded tile (ATTENTION: each tile and head), in order.
    take : Out(TakeSignature)
    a : Out(ReadPort)
        Activation memory, always granted.
    queue : Out(ReadPort)
        Expert queues, address {expert, slot}.
    lengths : In
        Tokens in each queue.
    operand : Out
        Write into the operand buffer: en, row, half, word, data.
    half_released : In
        The array no longer needs the oldest half.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        a = config.array
        super().__init__(
            {
                "i": In(stream.Signature(8 * INSTRUCTION_BYTES)),
                "o": Out(stream.Signature(array_tile(config))),
                "take": Out(TakeSignature),
                "a": Out(ReadPort(ADDRESS_BITS, unsigned(8 * a.inputs))),
                "queue": Out(
                    ReadPort(
                        StructLayout({"expert": 6, "slot": 12}).size,
                        StructLayout({"token": unsigned(12), "score": unsigned(15)}),
                    )
                ),
                "lengths": In(ArrayLayout(unsigned(13), config.limits.experts)),
                "write_en": Out(1),
                "write_row": Out(range(a.tokens)),
                "write_half": Out(1),
                "write_word": Out(range(config.limits.depth // a.inputs)),
                "half_released": In(1),
                "busy": Out(1),
                "fault": Out(4),
                "skipped": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        # The queue also keeps a descriptor back until the tile's last word has been written.
        m.submodules.tiles = tiles = SmallFifo(array_tile(config), 2)
        o = tiles.i
        connect(m, tiles.o, flipped(self.o))
        t = config.array.tokens
        word = Signal(8 * INSTRUCTION_BYTES, reset_less=True)
        g = View(Gemm.layout(), word)
        at = View(Attention.layout(), word)
        sy = View(Sync.layout(), word)
        is_attention = g.opcode == int(Opcode.ATTENTION)
        is_sync = g.opcode == int(Opcode.SYNC)

        # Decoded once an instruction.
        n = Signal(13, reset_less=True)
        depth = Signal(10, reset_less=True)
        stride = Signal(12, reset_less=True)
        block = Signal(20, reset_less=True)
        queued = Signal(reset_less=True)
        by_token = Signal(reset_less=True)
        by_tile = Signal(reset_less=True)  # a credit for each; asking for none would take its time
        depth_2 = Signal(10, reset_less=True)  # two less: the word before the last one
        has_lines, has_spans = Signal(reset_less=True), Signal(reset_less=True)
        # From the last row of a line to the first of the next, and from the last word of a span:
        # what they add to the row and to the address beside the 1 of every step.
        row_shape = unsigned(TOKEN_BITS + 1)
        source_step, target_step = (Signal(row_shape, reset_less=True) for _ in range(2))
        jump = Signal(ADDRESS_BITS, reset_less=True)

        # Position.
        left = Signal(13, reset_less=True)  # rows not yet started
        first = Signal(reset_less=True)
        head = Signal(5, reset_less=True)
        head_offset = Signal(ADDRESS_BITS, reset_less=True)
        k_row, v_row = Signal(16, reset_less=True), Signal(16, reset_less=True)
        ct = Signal(10, reset_less=True)
        row_index = Signal(12, reset_less=True)  # slot of the tile's first row
        r, k = Signal(range(t)), Signal(10)
        count = Signal(range(t + 1), reset_less=True)
        half = Signal()
        halves = Signal(2, init=2)
        allocate = Signal()
        m.d.sync += halves.eq(halves + self.half_released - allocate)

        tokens = Signal(ArrayLayout(unsigned(12), t), reset_less=True)
        scores = Signal(ArrayLayout(unsigned(15), t), reset_less=True)

        # The next row to ask for: where it is in the source (or its place in the queue) and in the
        # destination. One bit more than a row has shows those beyond it.
        source_row, target_row = (Signal(row_shape, reset_less=True) for _ in range(2))
        column = Signal(row_shape, reset_less=True)  # 1 for the first row of a line
        ends_line = Signal()
        m.d.comb += ends_line.eq(has_lines & (column == g.line))
        # Its token, fetched while the row before it is read.
        asked_source, asked_target = (Signal(row_shape, reset_less=True) for _ in range(2))
        fetching = Signal(2)  # shift register: read issued, product ready
        next_valid = Signal()
        next_token = Signal(TOKEN_BITS, reset_less=True)
        next_index = Signal(TOKEN_BITS, reset_less=True)
        next_score = Signal(15, reset_less=True)
        next_base = Signal(ADDRESS_BITS, reset_less=True)
        product = Signal(ADDRESS_BITS)
        ask = Signal()
        m.d.comb += [
            self.queue.addr.eq(source_row[:TOKEN_BITS] | (g.queue << 12)),
            self.queue.en.eq(ask & queued),
            product.eq(next_index * stride),
        ]
        m.d.sync += fetching.eq((fetching << 1) | ask)
        with m.If(ask):
            m.d.sync += [
                next_valid.eq(0),
                asked_source.eq(source_row),
                asked_target.eq(target_row),
                source_row.eq(source_row + Mux(ends_line, source_step, 1)),
                target_row.eq(target_row + Mux(ends_line, target_step, 1)),
                column.eq(Mux(ends_line, 1, column + 1)),
            ]
        with m.If(fetching[0]):
            token = self.queue.data.token
            m.d.sync += [
                next_token.eq(Mux(by_token, token, asked_target)),
                next_index.eq(Mux(queued & g.gather, token, asked_source)),
                next_score.eq(self.queue.data.score),
            ]
        with m.If(fetching[1]):
            m.d.sync += [next_base.eq(g.source + product), next_valid.eq(1)]

        base = Signal(ADDRESS_BITS, reset_less=True)
        reading, end_of_tile = Signal(), Signal()
        last_word = Signal(reset_less=True)
        word_of_span = Signal(10, reset_less=True)  # 1 for the first
        starting, jumping = Signal(), Signal()  # a row, to another span of it
        by = Mux(jumping, jump, Mux(is_attention, head_offset, 0))
        m.d.sync += word_of_span.eq(Mux(starting | jumping, 1, word_of_span + 1))
        with m.If(starting | jumping):
            m.d.sync += base.eq(Mux(jumping, base, next_base) + by)
        address = Signal(ADDRESS_BITS)
        m.d.comb += [
            address.eq(base + k),
            self.a.addr.eq(address),
            self.a.en.eq(reading),
        ]
        bad = Signal()
        m.d.comb += bad.eq(reading & (address >= config.memory.activation_words))
        far = fetching[0] & (asked_source[-1] | asked_target[-1])  # beyond the bits of a row
        with m.If((bad | far) & (self.fault == 0)):
            m.d.sync += self.fault.eq(int(Error.ADDRESS))

        # The write into the operand buffer follows the read by one cycle.
        w_en = Signal()
        w_row, w_word, w_half = Signal(range(t)), Signal(10), Signal()
        m.d.sync += [w_en.eq(reading), w_row.eq(r), w_word.eq(k), w_half.eq(half)]
        m.d.comb += [
            self.write_en.eq(w_en),
            self.write_row.eq(w_row),
            self.write_word.eq(w_word),
            self.write_half.eq(w_half),
        ]

        # Descriptor.
        out_valid = Signal()
        d = Signal(array_tile(config), reset_less=True)
        m.d.comb += [o.valid.eq(out_valid), o.payload.eq(d)]
        with m.If(out_valid & o.ready):
            m.d.sync += out_valid.eq(0)
        free = Signal()  # the descriptor register can be written
        m.d.comb += free.eq(~out_valid | o.ready)

        last_head = Mux(is_attention, head + 1 == at.heads, 1)
        last_tile = left <= t

        m.d.comb += [
            self.take.id.eq(g.wait),
            self.take.count.eq(Mux(g.wait_count == 0, 1, g.wait_count)),
        ]
        m.d.comb += self.busy.eq(1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.busy.eq(out_valid | w_en | tiles.o.valid), self.i.ready.eq(1)]
                m.d.sync += [word.eq(self.i.payload), fetching.eq(0), next_valid.eq(0)]
                with m.If(self.i.valid):
                    m.next = "DECODE"
            with m.State("DECODE"):
                length = self.lengths[g.queue]
                m.d.sync += [
                    queued.eq(~is_attention & g.use_queue),
                    by_tile.eq((g.wait != 0) & (g.wait_count == 0)),
                    by_token.eq(~is_attention & g.use_queue & g.scatter),
                    has_lines.eq(~is_attention & (g.line != 0)),
                    has_spans.eq(~is_attention & (g.span != 0)),
                    source_step.eq(g.source_line - g.line + 1),
                    target_step.eq(g.target_line - g.line + 1),
                    next_index.eq(g.source_line),  # its product with the stride, in WAIT
                    depth.eq(Mux(is_attention, at.chunks, g.depth)),
                    stride.eq(Mux(is_attention, at.stride, g.stride)),
                    block.eq(g.otiles * g.depth),
                    n.eq(Mux(is_attention, at.queries, Mux(g.use_queue, length, g.tokens))),
                    first.eq(1),
                    head.eq(0),
                    source_row.eq(0),
                    target_row.eq(0),
                    column.eq(1),
                    row_index.eq(0),
                ]
                m.next = "WAIT"
                with m.If(self._bad_field(g, at, is_attention) & ~is_sync):
                    m.d.sync += self.fault.eq(int(Error.FIELD))
            with m.State("WAIT"):
                # A GEMM of an empty queue waits for nothing; wait_count == 0 waits for each tile.
                empty = queued & (n == 0)
                m.d.sync += [left.eq(n), jump.eq(product - g.span), depth_2.eq(depth - 2)]
                with m.If(self.fault != 0):
                    m.next = "WAIT"
                with m.Elif(~is_sync & (n == 0) & ~queued):
                    m.d.sync += self.fault.eq(int(Error.FIELD))
                with m.Elif((g.wait_count != 0) & ~empty):
                    m.d.comb += self.take.valid.eq(1)
                    with m.If(self.take.ready):
                        m.next = "BEGIN"
                with m.Else():
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                with m.If(is_sync | (n == 0)):
                    with m.If(free):
                        m.d.comb += self.skipped.eq(~is_sync)
                        m.d.sync += [
                            out_valid.eq(1),
                            d.eq(0),
                            d.block.eq(block),
                            d.drain.kind.eq(Mux(is_sync, Kind.SYNC, Kind.EMPTY)),
                            d.drain.first.eq(1),
                            d.drain.last.eq(1),
                            d.drain.demand.eq(~is_sync & g.demand),
                            d.drain.keep.eq(~is_sync & g.keep),
                            d.drain.signal.eq(Mux(is_sync, sy.signal, 0)),
                            d.drain.amount.eq(sy.count),
                            d.drain.otiles.eq(g.otiles),
                        ]
                        m.next = "IDLE"
                with m.Else():
                    m.d.comb += ask.eq(1)
                    m.next = "TILE"
            with m.State("TILE"):
                # First row of a tile: needs a half, a credit (once for all heads) and the row's
                # token.
                needed = by_tile & ~(is_attention & (head != 0))
                go = (halves != 0) & next_valid
                m.d.comb += self.take.valid.eq(go & needed)
                with m.If(go & (~needed | self.take.ready)):
                    m.d.comb += [allocate.eq(1), starting.eq(1)]
                    m.d.sync += [
                        tokens[0].eq(next_token),
                        scores[0].eq(next_score),
                        count.eq(Mux(last_tile, left, t)),
                        r.eq(0),
                        k.eq(0),
                        last_word.eq(depth == 1),
                    ]
                    with m.If(~(last_tile & (left == 1))):
                        m.d.comb += ask.eq(1)
                    m.next = "ROW"
                with m.If(head == 0):
                    m.d.sync += [
                        head_offset.eq(0),
                        k_row.eq(at.k_base),
                        v_row.eq(at.v_base),
                        ct.eq(0),
                    ]
            with m.State("ROW"):
                m.d.comb += reading.eq(1)
                with m.If(~last_word):
                    m.d.sync += [k.eq(k + 1), last_word.eq(k == depth_2)]
                    m.d.comb += jumping.eq(has_spans & (word_of_span == g.span))
                with m.Elif(r + 1 == count):
                    with m.If(free):
                        m.d.comb += end_of_tile.eq(1)
                with m.Elif(next_valid):
                    m.d.comb += starting.eq(1)
                    m.d.sync += [
                        tokens[r + 1].eq(next_token),
                        scores[r + 1].eq(next_score),
                        r.eq(r + 1),
                        k.eq(0),
                        last_word.eq(depth == 1),
                    ]
                    with m.If(r + 2 != count):
                        m.d.comb += ask.eq(1)
                with m.If(end_of_tile):
                    drain = d.drain
                    m.d.sync += [
                        half.eq(~half),
                        out_valid.eq(1),
                        d.depth.eq(depth),
                        d.block.eq(block),
                        d.k_row.eq(k_row),
                        d.v_row.eq(v_row),
                        d.v_tile_pitch.eq(at.v_tile_pitch),
                        d.keys.eq(at.keys),
                        d.score_mult.eq(at.score_mult),
                        d.score_shift.eq(at.score_shift),
                        d.out_mult.eq(at.out_mult),
                        d.out_shift.eq(at.out_shift),
                        drain.kind.eq(Mux(is_attention, Kind.ATTENTION, Kind.GEMM)),
                        drain.count.eq(count),
                        drain.first.eq(first),
                        drain.last.eq(last_tile & last_head),
                        drain.demand.eq(~is_attention & g.demand),
                        drain.keep.eq(~is_attention & g.keep),
                        drain.signal.eq(Mux(last_head, g.signal, 0)),
                        drain.amount.eq(1),
                        drain.otiles.eq(Mux(is_attention, at.v_otiles, g.otiles)),
                        drain.ct.eq(Mux(is_attention, ct, g.otile_base)),
                        drain.target.eq(Mux(is_attention, at.target, g.target)),
                        drain.target_stride.eq(
                            Mux(is_attention, at.target_stride, g.target_stride)
                        ),
                        drain.mode.eq(Mux(is_attention, int(Destination.ACT8), g.mode)),
                        drain.mult.eq(g.mult),
                        drain.shift.eq(g.shift),
                        drain.zero_point.eq(Mux(is_attention, 0, g.zero_point)),
                        drain.head_otiles.eq(g.head_otiles),
                        drain.tile_pitch.eq(g.tile_pitch),
                        drain.head_pitch.eq(g.head_pitch),
                        drain.experts.eq(g.experts),
                        drain.top_k.eq(g.top_k),
                        drain.renormalise.eq(g.renormalise),
                        drain.rows.eq(tokens),
                        drain.scores.eq(scores),
                        first.eq(0),
                    ]
                    with m.If(last_head):
                        m.d.sync += [
                            head.eq(0),
                            left.eq(left - count),
                            row_index.eq(row_index + t),
                        ]
                        with m.If(last_tile):
                            m.next = "IDLE"
                        with m.Else():
                            m.d.comb += ask.eq(1)
                            m.next = "TILE"
                    with m.Else():
                        # The same rows again, next head.
                        m.d.sync += [
                            head.eq(head + 1),
                            head_offset.eq(head_offset + at.chunks),
                            k_row.eq(k_row + at.k_pitch),
                            v_row.eq(v_row + at.v_pitch),
                            ct.eq(ct + at.v_otiles),
                            source_row.eq(row_index),
                            target_row.eq(row_index),
                        ]
                        m.next = "AGAIN"
            with m.State("AGAIN"):
                m.d.comb += ask.eq(1)
                m.next = "TILE"
        return m

    def _bad_field(self, g: View, at: View, is_attention: Value) -> Value:
        """1 for a GEMM or ATTENTION that the units behind cannot count."""
        array, limits = self._config.array, self._config.limits
        chunks = limits.depth // array.inputs
        gate_otiles = sum(
            g.experts > first for first in range(0, limits.experts, array.outputs)
        )  # ceil(experts / outputs)
        gate = (
            (g.experts == 0)
            | (g.shift + g.experts > limits.experts)
            | (g.mult > SCORE.max)
            | (g.top_k == 0)
            | (g.top_k > limits.top_k)
            | (g.top_k > g.experts)
            | (g.tokens > limits.routed)
            | (g.otiles != gate_otiles)
        )
        lines = Cat(g.line, g.source_line, g.target_line, g.span).any()
        gemm = (
            ~g.mode.matches(*Destination)
            | (g.otiles == 0)
            | (g.depth == 0)
            | (g.depth > chunks)
            | Mux(g.use_queue, g.queue >= limits.experts, g.tokens > limits.tokens)
            | (g.mode.matches(*TO_KEY_VALUE) & (g.head_otiles == 0))
            | ((g.mode == Destination.GATE) & gate)
            | (lines & (g.use_queue | ~g.mode.matches(*WITH_LINES)))
        )
        attention = (
            (at.heads == 0)
            | (at.chunks == 0)
            | (at.chunks > chunks)
            | (at.v_otiles == 0)
            | (at.queries > limits.tokens)
            | (at.keys == 0)
            | (at.keys > limits.tokens)
            | (at.v_tile_pitch != (at.keys + array.inputs - 1) >> ceil_log2(array.inputs))
        )
        return Mux(is_attention, attention, gemm)
