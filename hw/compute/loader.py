"""Operand loader: gathers the tokens of a tile from the activation memory (patch reordering).

Tokens of an expert's queue are read by index, so no activation is ever copied or sorted. Rows of a
map are windows of it, read where they lie, so that no window is ever copied either.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, View
from amaranth.lib.wiring import In, Out, connect, flipped

from moevit.quant.formats import SCORE

from ..config import AcceleratorConfig
from ..interfaces import (
    INSTRUCTION,
    POINTER_BITS,
    ActivationRead,
    Lengths,
    OperandWrite,
    ReadPort,
    TakeSignature,
    queue_address,
    queue_entry,
)
from ..isa import ADDRESS_BITS, TOKEN_BITS, Attention, Destination, Gemm, Opcode, Sync
from ..lib.component import Component
from ..lib.queue import SmallFifo
from ..registers import Error
from .descriptors import ATTENTION_FIELDS, GEMM_FIELDS, Kind, array_tile
from .field_check import bad_field
from .row_lookup import RowLookup
from .word_reader import WordReader

__all__ = ["Loader"]


class _Order:
    """The instruction under way, and what is decoded of it once."""

    def __init__(self) -> None:
        word = Signal(Gemm.layout().size, name="order", reset_less=True)
        self.word = word
        self.gemm, self.attention = View(Gemm.layout(), word), View(Attention.layout(), word)
        self.sync = View(Sync.layout(), word)
        self.is_attention = self.gemm.opcode == Opcode.ATTENTION
        self.is_sync = self.gemm.opcode == Opcode.SYNC
        self.rows = Signal(TOKEN_BITS + 1, name="rows", reset_less=True)
        self.depth = Signal(Gemm.shape("depth"), name="depth", reset_less=True)
        self.block = Signal(POINTER_BITS, name="block", reset_less=True)
        self.has_spans = Signal(name="has_spans", reset_less=True)
        # A credit for each tile; asking for none would take its time.
        self.by_tile = Signal(name="by_tile", reset_less=True)


class _Position:
    """Tile, head and row under way."""

    def __init__(self, tokens: int) -> None:
        self.left = Signal(TOKEN_BITS + 1, name="left", reset_less=True)  # rows not yet loaded
        self.first = Signal(name="first", reset_less=True)  # tile of the instruction
        self.first_row = Signal(TOKEN_BITS, name="first_row", reset_less=True)  # of the tile
        self.head = Signal(Attention.shape("heads"), name="head", reset_less=True)
        self.offset = Signal(ADDRESS_BITS, name="head_offset", reset_less=True)
        self.k_row = Signal(Attention.shape("k_base"), name="k_row", reset_less=True)
        self.v_row = Signal(Attention.shape("v_base"), name="v_row", reset_less=True)
        self.ct = Signal(Gemm.shape("otile_base"), name="ct", reset_less=True)
        self.row = Signal(range(tokens), name="row")
        self.count = Signal(range(tokens + 1), name="count", reset_less=True)
        self.tokens: Any = Signal(
            ArrayLayout(unsigned(TOKEN_BITS), tokens), name="tokens", reset_less=True
        )
        self.scores: Any = Signal(
            ArrayLayout(unsigned(SCORE.width), tokens), name="scores", reset_less=True
        )


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
    activations : Out(ActivationRead)
        Always granted.
    queue : Out(ReadPort)
        Expert queues.
    lengths : In
        Tokens in each queue.
    operands : Out(OperandWrite)
    half_released : In
        The array no longer needs the oldest half.
    skipped : Out
        A GEMM of an empty queue.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(INSTRUCTION),
                "o": Out(stream.Signature(array_tile(config))),
                "take": Out(TakeSignature),
                "activations": Out(ActivationRead(config)),
                "queue": Out(ReadPort(queue_address, queue_entry)),
                "lengths": In(Lengths(config)),
                "operands": Out(OperandWrite(config)),
                "half_released": In(1),
                "busy": Out(1),
                "fault": Out(Error),
                "skipped": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, t = self._config, self._config.array.tokens
        m.submodules.lookup = lookup = RowLookup()
        m.submodules.reader = reader = WordReader(config)
        # The queue also keeps a descriptor back until the tile's last word has been written.
        m.submodules.tiles = tiles = SmallFifo(array_tile(config), 2)
        connect(m, tiles.o, flipped(self.o))
        connect(m, lookup.queue, flipped(self.queue))
        connect(m, reader.activations, flipped(self.activations))
        connect(m, reader.operands, flipped(self.operands))
        order, at = _Order(), _Position(t)
        half, halves, allocate = Signal(), Signal(2, init=2), Signal()
        m.d.sync += halves.eq(halves + self.half_released - allocate)
        m.d.comb += [
            lookup.gemm.eq(order.word),
            lookup.is_attention.eq(order.is_attention),
            lookup.first.eq(at.first_row),
            reader.depth.eq(order.depth),
            reader.has_spans.eq(order.has_spans),
            reader.span.eq(order.gemm.span),
            reader.jump.eq(lookup.jump),
            reader.base.eq(lookup.base),
            reader.offset.eq(Mux(order.is_attention, at.offset, 0)),
            reader.row.eq(at.row),
            reader.half.eq(half),
            self.take.id.eq(order.gemm.wait),
            self.take.count.eq(Mux(order.gemm.wait_count == 0, 1, order.gemm.wait_count)),
            self.busy.eq(1),
        ]
        with m.If((reader.fault | lookup.fault) & (self.fault == Error.NONE)):
            m.d.sync += self.fault.eq(Error.ADDRESS)

        described = Signal()
        tile: Any = Signal(array_tile(config), reset_less=True)
        free = Signal()  # the descriptor can be written
        m.d.comb += [
            tiles.i.valid.eq(described),
            tiles.i.payload.eq(tile),
            free.eq(~described | tiles.i.ready),
        ]
        with m.If(described & tiles.i.ready):
            m.d.sync += described.eq(0)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [
                    self.busy.eq(described | reader.writing | tiles.o.valid),
                    self.i.ready.eq(1),
                    lookup.clear.eq(1),
                ]
                m.d.sync += order.word.eq(self.i.payload)
                with m.If(self.i.valid):
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.comb += lookup.prepare.eq(1)
                self._decode(m, order, at)
                m.next = "WAIT"
            with m.State("WAIT"):
                self._wait(m, order, at, lookup.queued)
            with m.State("BEGIN"):
                with m.If(~order.is_sync & (order.rows != 0)):
                    m.d.comb += lookup.ask.eq(1)
                    m.next = "TILE"
                with m.Elif(free):
                    m.d.comb += self.skipped.eq(~order.is_sync)
                    m.d.sync += described.eq(1)
                    self._describe_none(m, tile, order)
                    m.next = "IDLE"
            with m.State("TILE"):
                self._tile(m, order, at, lookup, reader, halves, allocate)
            with m.State("ROW"):
                ended = Signal()
                self._row(m, order, at, lookup, reader, free, ended)
                with m.If(ended):
                    m.d.sync += [described.eq(1), half.eq(~half)]
                    self._describe(m, tile, order, at)
                    self._next_tile(m, order, at, lookup)
            with m.State("AGAIN"):
                m.d.comb += lookup.ask.eq(1)
                m.next = "TILE"
        return m

    def _decode(self, m: Module, order: _Order, at: _Position) -> None:
        g, attention = order.gemm, order.attention
        length = self.lengths[g.queue]
        m.d.sync += [
            order.by_tile.eq((g.wait != 0) & (g.wait_count == 0)),
            order.has_spans.eq(~order.is_attention & (g.span != 0)),
            order.depth.eq(Mux(order.is_attention, attention.chunks, g.depth)),
            order.block.eq(g.otiles * g.depth),
            order.rows.eq(
                Mux(order.is_attention, attention.queries, Mux(g.use_queue, length, g.tokens))
            ),
            at.first.eq(1),
            at.first_row.eq(0),
            at.head.eq(0),
        ]
        bad = bad_field(self._config, g, attention, order.is_attention)
        with m.If(bad & ~order.is_sync):
            m.d.sync += self.fault.eq(Error.FIELD)

    def _wait(self, m: Module, order: _Order, at: _Position, queued: Value) -> None:
        """A GEMM of an empty queue waits for nothing; wait_count == 0 waits for each tile."""
        none = order.rows == 0
        m.d.sync += at.left.eq(order.rows)
        with m.If(self.fault != Error.NONE):
            m.next = "WAIT"
        with m.Elif(~order.is_sync & none & ~queued):
            m.d.sync += self.fault.eq(Error.FIELD)
        with m.Elif((order.gemm.wait_count != 0) & ~(queued & none)):
            m.d.comb += self.take.valid.eq(1)
            with m.If(self.take.ready):
                m.next = "BEGIN"
        with m.Else():
            m.next = "BEGIN"

    def _tile(
        self,
        m: Module,
        order: _Order,
        at: _Position,
        lookup: RowLookup,
        reader: WordReader,
        halves: Signal,
        allocate: Signal,
    ) -> None:
        """First row of a tile: needs a half, a credit (once for all heads) and the row's place."""
        t, first_head = self._config.array.tokens, at.head == 0
        needed = order.by_tile & ~(order.is_attention & ~first_head)
        go = (halves != 0) & lookup.valid
        m.d.comb += self.take.valid.eq(go & needed)
        with m.If(go & (~needed | self.take.ready)):
            m.d.comb += [allocate.eq(1), reader.start.eq(1), lookup.ask.eq(at.left != 1)]
            m.d.sync += [
                at.tokens[0].eq(lookup.token),
                at.scores[0].eq(lookup.score),
                at.count.eq(Mux(at.left <= t, at.left, t)),
                at.row.eq(0),
            ]
            m.next = "ROW"
        with m.If(first_head):
            m.d.sync += [
                at.offset.eq(0),
                at.k_row.eq(order.attention.k_base),
                at.v_row.eq(order.attention.v_base),
                at.ct.eq(0),
            ]

    def _row(
        self,
        m: Module,
        order: _Order,
        at: _Position,
        lookup: RowLookup,
        reader: WordReader,
        free: Signal,
        ended: Signal,
    ) -> None:
        """Words of a row; behind the last one another row, or the tile has ``ended``."""
        m.d.comb += reader.reading.eq(1)
        with m.If(reader.last & (at.row + 1 == at.count)):
            m.d.comb += ended.eq(free)
        with m.Elif(reader.last & lookup.valid):
            m.d.comb += [reader.start.eq(1), lookup.ask.eq(at.row + 2 != at.count)]
            m.d.sync += [
                at.tokens[at.row + 1].eq(lookup.token),
                at.scores[at.row + 1].eq(lookup.score),
                at.row.eq(at.row + 1),
            ]

    def _next_tile(self, m: Module, order: _Order, at: _Position, lookup: RowLookup) -> None:
        attention = order.attention
        m.d.sync += at.first.eq(0)
        with m.If(self._last_head(order, at)):
            m.d.sync += [
                at.head.eq(0),
                at.left.eq(at.left - at.count),
                at.first_row.eq(at.first_row + self._config.array.tokens),
            ]
            with m.If(at.left <= self._config.array.tokens):
                m.next = "IDLE"
            with m.Else():
                m.d.comb += lookup.ask.eq(1)
                m.next = "TILE"
        with m.Else():  # the same rows again, next head
            m.d.comb += lookup.again.eq(1)
            m.d.sync += [
                at.head.eq(at.head + 1),
                at.offset.eq(at.offset + attention.chunks),
                at.k_row.eq(at.k_row + attention.k_pitch),
                at.v_row.eq(at.v_row + attention.v_pitch),
                at.ct.eq(at.ct + attention.v_otiles),
            ]
            m.next = "AGAIN"

    @staticmethod
    def _last_head(order: _Order, at: _Position) -> Value:
        return Value.cast(~order.is_attention | (at.head + 1 == order.attention.heads))

    def _describe_none(self, m: Module, tile: Any, order: _Order) -> None:
        """SYNC, and a GEMM of an empty queue."""
        g, is_sync, drain = order.gemm, order.is_sync, tile.drain
        m.d.sync += [
            tile.eq(0),
            tile.block.eq(order.block),
            drain.kind.eq(Mux(is_sync, Kind.SYNC, Kind.EMPTY)),
            drain.first.eq(1),
            drain.last.eq(1),
            drain.demand.eq(~is_sync & g.demand),
            drain.keep.eq(~is_sync & g.keep),
            drain.signal.eq(Mux(is_sync, g.signal, 0)),
            drain.amount.eq(order.sync.count),
            drain.otiles.eq(g.otiles),
        ]

    def _describe(self, m: Module, tile: Any, order: _Order, at: _Position) -> None:
        """A tile that is in the operand buffer."""
        g, attention, is_attention = order.gemm, order.attention, order.is_attention
        last_head, drain = self._last_head(order, at), tile.drain
        m.d.sync += [
            tile.depth.eq(order.depth),
            tile.block.eq(order.block),
            tile.k_row.eq(at.k_row),
            tile.v_row.eq(at.v_row),
            *(tile[name].eq(attention[name]) for name in ATTENTION_FIELDS),
            *(drain[name].eq(g[name]) for name in GEMM_FIELDS),
            drain.kind.eq(Mux(is_attention, Kind.ATTENTION, Kind.GEMM)),
            drain.count.eq(at.count),
            drain.first.eq(at.first),
            drain.last.eq((at.left <= self._config.array.tokens) & last_head),
            drain.demand.eq(~is_attention & g.demand),
            drain.keep.eq(~is_attention & g.keep),
            drain.signal.eq(Mux(last_head, g.signal, 0)),
            drain.amount.eq(1),
            drain.otiles.eq(Mux(is_attention, attention.v_otiles, g.otiles)),
            drain.ct.eq(Mux(is_attention, at.ct, g.otile_base)),
            drain.target.eq(Mux(is_attention, attention.target, g.target)),
            drain.target_stride.eq(Mux(is_attention, attention.target_stride, g.target_stride)),
            drain.mode.eq(Mux(is_attention, Destination.ACT8, g.mode)),
            drain.zero_point.eq(Mux(is_attention, 0, g.zero_point)),
            drain.rows.eq(at.tokens),
            drain.scores.eq(at.scores),
        ]
