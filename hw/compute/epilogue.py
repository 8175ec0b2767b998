"""Epilogue: turns finished tiles of sums into what the next operator reads, one token row a cycle.

Every row goes the same way, whatever its destination, in ten stages: issue and addressing, bias and
requantisation, activation beside residual addition, write.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import stream
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import AcceleratorConfig
from ..interfaces import (
    POINTER_BITS,
    ActivationWrite,
    GiveSignature,
    KeyValueWrite,
    ReadPort,
    ResidualRead,
    ResidualWrite,
    accumulators,
    dial,
    gate_row,
    param_address,
    param_row,
    row_scales,
)
from ..isa import TO_RESIDUAL, Destination, Gemm
from ..lib.component import Component
from ..lib.pipeline import Pipeline
from ..registers import Error
from .activation import Activate
from .descriptors import Kind, drain_tile, issued_row
from .destination import DestinationAddress, WriteBack
from .gate_rows import GateRows
from .narrow import ResidualAdd, ToBytes
from .requantise import Requantise
from .row_issue import RowIssue

__all__ = ["Epilogue"]

_FOR_GATE = ("experts", "top_k", "renormalise")


class Epilogue(Component):
    """Takes the oldest tile of sums row by row and writes its values.

    Latency: 10 cycles from a row of sums to its write. Throughput: one row (O values) a cycle, rows
    beyond ``count`` take none. Back-pressure: writes are never refused; rows for the gate wait in
    front of the pipeline for a place in its queue.

    Members
    -------
    i : In(stream of drain_tile)
    tile_valid, tile_ready, tile
        The oldest finished tile of the array.
    params : Out(ReadPort)
        Parameter rows.
    param_released, demand_param_released : Out
    scales : In(stream of row_scales)
        Attention rows' requantisation.
    activations, kv : Out(ActivationWrite), Out(KeyValueWrite)
    residual_read, residual : Out(ResidualRead), Out(ResidualWrite)
        None of the writes may be refused.
    gate : Out(stream of gate_row)
    gate_signal : Out
        The semaphore that the gate's ``done`` belongs to.
    give : Out(GiveSignature)
    """

    latency = Requantise.latency + Activate.latency + ToBytes.latency + 1

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(drain_tile(config))),
                "tile_valid": In(1),
                "tile_ready": Out(1),
                "tile": In(accumulators(config)),
                "params": Out(ReadPort(param_address(config), param_row(config))),
                "param_released": Out(POINTER_BITS),
                "demand_param_released": Out(POINTER_BITS),
                "scales": In(stream.Signature(row_scales(config))),
                "activations": Out(ActivationWrite(config)),
                "residual_read": Out(ResidualRead(config)),
                "residual": Out(ResidualWrite(config)),
                "kv": Out(KeyValueWrite(config)),
                "gate": Out(stream.Signature(gate_row(config))),
                "gate_signal": Out(Gemm.shape("signal")),
                "give": Out(GiveSignature),
                "busy": Out(1),
                "fault": Out(Error),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, d = self._config, self.i.payload
        m.submodules.issue = issue = RowIssue(config)
        m.submodules.destination = destination = DestinationAddress(config)
        m.submodules.requantise = requantise = Requantise(config)
        m.submodules.gate_rows = gate_rows = GateRows(config)
        connect(m, flipped(self.i), issue.i)
        connect(m, issue.params, flipped(self.params))
        connect(m, gate_rows.o, flipped(self.gate))
        m.d.comb += [
            issue.tile_valid.eq(self.tile_valid),
            self.tile_ready.eq(issue.tile_ready),
            issue.scales_valid.eq(self.scales.valid),
            self.scales.ready.eq(issue.scales_ready),
            issue.gate_full.eq(gate_rows.full),
            gate_rows.reserve.eq(issue.valid & (d.mode == Destination.GATE)),
            self.param_released.eq(issue.param_released),
            self.demand_param_released.eq(issue.demand_param_released),
            self.gate_signal.eq(issue.gate_signal),
            destination.valid.eq(issue.valid),
            destination.tile.eq(d),
            destination.row.eq(issue.row),
            requantise.valid.eq(issue.valid),
            requantise.tile.eq(self.tile),
            requantise.slot.eq(issue.row.slot),
            requantise.attention.eq(d.kind == Kind.ATTENTION),
            requantise.scales.eq(self.scales.payload),
            requantise.params.eq(self.params.data),
        ]

        p = Pipeline(
            m,
            valid=issue.valid,
            mode=d.mode,
            token=Array(d.rows)[issue.row.slot],
            score=Array(d.scores)[issue.row.slot],
            row=issue.row,
            mult=d.mult,
            shift=d.shift,
            zero_point=d.zero_point,
            enough=d.target[: dial["enough"].width],
            **{name: d[name] for name in _FOR_GATE},
        )
        p.delay(DestinationAddress.latency)
        p.add(address=destination.address, otile=destination.otile, group=destination.group)
        m.d.comb += [
            self.residual_read.addr.eq(destination.address),
            self.residual_read.en.eq(p.valid & p.tag["mode"].matches(*TO_RESIDUAL)),
        ]
        p.delay(1)
        p.add(residual=self.residual_read.data)
        p.delay(Requantise.latency - p.latency)
        self._to_gate(m, p, requantise.values, gate_rows)
        self._finish(m, p, requantise.values)

        gives = Pipeline(m, valid=issue.give.valid, id=issue.give.id, count=issue.give.count)
        gives.delay(p.latency)
        m.d.comb += [
            self.give.valid.eq(gives.valid),
            self.give.id.eq(gives.tag["id"]),
            self.give.count.eq(gives.tag["count"]),
        ]
        in_flight = Signal()  # of stages 1 on
        m.d.sync += in_flight.eq(Cat(*p.valids[:-1]).any())
        m.d.comb += [
            issue.in_flight.eq(in_flight),
            self.busy.eq(
                self.i.valid | in_flight | Cat(*gives.valids[1:]).any() | ~gate_rows.empty
            ),
        ]
        return m

    def _to_gate(self, m: Module, p: Pipeline, values: Value, gate_rows: GateRows) -> None:
        """Router logits leave the pipeline where they are requantised."""
        layout = issued_row(self._config)
        row, logits = View(layout, p.tag["row"]), gate_rows.i.payload
        m.d.comb += [
            gate_rows.i.valid.eq(p.valid & (p.tag["mode"] == Destination.GATE)),
            logits.token.eq(p.tag["token"]),
            logits.slot.eq(row.slot),
            logits.otile.eq(row.otile),
            logits.last.eq(row.last_otile),
            logits.first.eq(row.first),
            logits.end.eq(row.end),
            logits.base.eq(p.tag["shift"]),
            logits.least.eq(p.tag["mult"]),
            logits.enough.eq(p.tag["enough"]),
            logits.logits.eq(values),
            *(logits[name].eq(p.tag[name]) for name in _FOR_GATE),
        ]
        p.drop("token", "row", "enough", *_FOR_GATE)

    def _finish(self, m: Module, p: Pipeline, values: Value) -> None:
        """The second product, bytes and words side by side, and the memories."""
        m.submodules.activate = activate = Activate(self._config)
        m.submodules.to_bytes = to_bytes = ToBytes(self._config)
        m.submodules.residual_add = add = ResidualAdd(self._config)
        m.submodules.write_back = write = WriteBack(self._config)

        def feed(part: Component, *names: str) -> None:
            m.d.comb += part.valid.eq(p.valid)
            for name in names:
                m.d.comb += Value.cast(getattr(part, name)).eq(p.tag[name])

        p.add(values=values)
        feed(activate, "mode", "values", "mult", "score")
        p.drop("mult", "score")
        p.delay(Activate.latency)
        p.add(products=activate.products)
        feed(to_bytes, "mode", "values", "products", "shift", "zero_point")
        feed(add, "mode", "values", "products", "residual")
        p.drop("values", "products", "shift", "zero_point", "residual")
        p.delay(ToBytes.latency)
        feed(write, "mode", "address", "otile", "group")
        m.d.comb += [
            write.bytes.eq(to_bytes.bytes),
            write.words.eq(add.words),
            self.fault.eq(write.fault),
        ]
        for name in ("activations", "residual", "kv"):
            connect(m, getattr(write, name), flipped(getattr(self, name)))
