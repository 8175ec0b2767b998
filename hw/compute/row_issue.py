"""The front of the epilogue: which row of which tile enters, one a cycle, and what then happens."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..interfaces import POINTER_BITS, GiveSignature, ReadPort, param_address, param_row
from ..isa import TO_BYTES, TO_KEY_VALUE, TO_RESIDUAL, Destination, Gemm
from ..lib.component import Component
from .descriptors import Kind, drain_tile, issued_row

__all__ = ["RowIssue"]


class RowIssue(Component):
    """Goes through the rows of each output tile, and through the output tiles of each descriptor.

    Throughput: one row a cycle; rows beyond ``count`` take none; a descriptor without rows (SYNC,
    an empty queue) takes one. A row waits for its tile of sums, for the rows' scales in attention,
    for room before the gate, and, of a new instruction that adds to the residual memory, for
    everything that is ``in_flight``: it may add to the same words.

    With ``config.drain_rows`` of 2 two rows enter where they go to the same word: of keys and
    values two rows of the tile; of bytes of activations the same row of two output tiles, which
    waits for both tiles and, once, for the second's parameters, which are read before.

    Members
    -------
    i : In(stream of drain_tile)
    tile_valid, tile_ready, second_valid, second_ready
        The oldest finished tiles of the array; the second leaves with the first.
    scales_valid, scales_ready
        The oldest scales of the softmax unit.
    gate_full, in_flight : In
    valid, row : Out
        A row enters; it is one of the tile ``i``.
    params : Out(ReadPort)
        Asks for the row's parameters in the cycle in which it enters.
    ahead : Out
        Asks for those of the second output tile.
    param_released, demand_param_released : Out
    give : Out(GiveSignature)
        Belongs to the row, or to a descriptor without rows, that is at the front now.
    gate_signal : Out
        The semaphore that the gate's ``done`` belongs to.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(drain_tile(config))),
                "tile_valid": In(1),
                "tile_ready": Out(1),
                "second_valid": In(1),
                "second_ready": Out(1),
                "scales_valid": In(1),
                "scales_ready": Out(1),
                "gate_full": In(1),
                "in_flight": In(1),
                "valid": Out(1),
                "row": Out(issued_row(config)),
                "params": Out(ReadPort(param_address(config), param_row(config))),
                "ahead": Out(1),
                "param_released": Out(POINTER_BITS),
                "demand_param_released": Out(POINTER_BITS),
                "give": Out(GiveSignature),
                "gate_signal": Out(Gemm.shape("signal")),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        d = self.i.payload
        is_gate, is_attention = d.mode == Destination.GATE, d.kind == Kind.ATTENTION
        first = Signal(init=1)  # the tile's first row
        last_row, last_ot, end_of_tile, without = Signal(), Signal(), Signal(), Signal()
        hazard = d.mode.matches(*TO_RESIDUAL) & d.first & first & self.in_flight
        blocked = hazard | (is_gate & self.gate_full) | (is_attention & ~self.scales_valid)
        next_row: Value = Const(0)
        next_otile: Value = Const(0)
        incomplete: Value = Const(0)
        if self._config.drain_rows == 2:
            next_row, next_otile = self.row.next_row, self.row.next_otile
            incomplete = self._second(m, is_attention)
        with m.If(self.i.valid):
            with m.If((d.kind == Kind.GEMM) | is_attention):
                m.d.comb += self.valid.eq(self.tile_valid & ~blocked & ~incomplete)
            with m.Else():
                m.d.comb += without.eq(1)
        self._count(m, first, last_row, last_ot, next_row, next_otile)
        m.d.comb += [
            self.tile_ready.eq(self.valid & last_row),
            self.second_ready.eq(self.valid & last_row & next_otile),
            end_of_tile.eq((self.valid & last_row & last_ot) | without),
            self.i.ready.eq(end_of_tile),
            self.scales_ready.eq(end_of_tile & is_attention),
            self.row.first.eq(d.first & first),
            self.row.last_otile.eq(last_ot),
            self.row.end.eq(last_ot & last_row & d.last),
            self.give.valid.eq(end_of_tile & (d.signal != 0) & ~(is_gate & (d.kind == Kind.GEMM))),
            self.give.id.eq(d.signal),
            self.give.count.eq(d.amount),
        ]
        with m.If(end_of_tile & is_gate):
            m.d.sync += self.gate_signal.eq(d.signal)
        self._parameters(m, end_of_tile)
        return m

    def _second(self, m: Module, is_attention: Value) -> Signal:
        """Whether and which other row enters; the signal is 1 while it cannot."""
        d, row, incomplete, asked = self.i.payload, self.row, Signal(), Signal()
        number = row.otile + d.ct
        beside = Array(
            ~a[0] & (b == a + 1) for a, b in pairwise(d.rows[t] for t in range(len(d.rows)))
        )
        m.d.comb += [
            row.next_row.eq(
                d.mode.matches(*TO_KEY_VALUE) & (row.slot + 1 != d.count) & beside[row.slot]
            ),
            row.next_otile.eq(d.mode.matches(*TO_BYTES) & ~number[0] & (row.otile + 1 != d.otiles)),
            self.ahead.eq(
                self.i.valid & (d.kind == Kind.GEMM) & row.next_otile & self.tile_valid & ~asked
            ),
            incomplete.eq(row.next_otile & ~(self.second_valid & (asked | is_attention))),
        ]
        with m.If(self.ahead):
            m.d.sync += asked.eq(1)
        with m.If(self.tile_ready):
            m.d.sync += asked.eq(0)
        return incomplete

    def _count(
        self,
        m: Module,
        first: Signal,
        last_row: Signal,
        last_ot: Signal,
        next_row: Value,
        next_otile: Value,
    ) -> None:
        """Row, output tile, and, for keys and values, head and output tile in it."""
        d, row = self.i.payload, self.row
        slot, ot = Signal.like(row.slot), Signal.like(row.otile)
        ot_1 = Signal.like(ot, init=1)  # ot + 1
        head, head_ot = Signal.like(row.head), Signal.like(row.head_otile)
        m.d.comb += [
            last_row.eq(slot + 1 + next_row == d.count),
            last_ot.eq(ot_1 + next_otile == d.otiles),
            row.slot.eq(slot),
            row.otile.eq(ot),
            row.head.eq(head),
            row.head_otile.eq(head_ot),
        ]
        with m.If(self.valid):
            m.d.sync += [
                slot.eq(Mux(last_row, 0, slot + 1 + next_row)),
                first.eq(last_row & last_ot),
            ]
            with m.If(last_row):
                m.d.sync += [
                    ot.eq(Mux(last_ot, 0, ot_1 + next_otile)),
                    ot_1.eq(Mux(last_ot, 1, ot_1 + 1 + next_otile)),
                    head_ot.eq(head_ot + 1),
                ]
                with m.If(head_ot + 1 == d.head_otiles):
                    m.d.sync += [head_ot.eq(0), head.eq(head + 1)]
                with m.If(last_ot):
                    m.d.sync += [head_ot.eq(0), head.eq(0)]

    def _parameters(self, m: Module, end_of_tile: Signal) -> None:
        """Parameter rows of both rings: which is asked for, and from where on they are in use."""
        d = self.i.payload
        base = [Signal(POINTER_BITS, name=f"base_{n}") for n in ("param", "demand_param")]
        kinds = (
            (Kind.GEMM, Kind.EMPTY),
            (Kind.GEMM,),
        )  # an empty queue's FETCH was skipped as well
        for n in range(2):
            mine = Cat(d.kind == kind for kind in kinds[n]).any()
            with m.If(end_of_tile & d.last & ~d.keep & (d.demand == n) & mine):
                m.d.sync += base[n].eq(base[n] + d.otiles)
        m.d.comb += [
            self.param_released.eq(base[0]),
            self.demand_param_released.eq(base[1]),
            self.params.en.eq((self.valid & (d.kind != Kind.ATTENTION)) | self.ahead),
            self.params.addr.row.eq(Mux(d.demand, base[1], base[0]) + self.row.otile + self.ahead),
            self.params.addr.demand.eq(d.demand),
        ]
