"""One weight port: its bursts, its landing buffer, and where in the rings its beats go."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..config import BEAT_BYTES, AcceleratorConfig
from ..image import BLOCK_MAGIC
from ..interfaces import POINTER_BITS, AxiRead
from ..lib import fifo
from ..lib.component import Component
from . import bursts
from .weight_rings import RowWrite

__all__ = [
    "DEMAND",
    "LANDED",
    "STREAM",
    "Port",
    "RowCounts",
    "RowSink",
    "ring_beats",
    "ring_lanes",
    "ring_rows",
]

STREAM, DEMAND = 0, 1
"""AXI IDs."""

_BEAT = 8 * BEAT_BYTES

RowCounts = StructLayout(
    {"params": unsigned(POINTER_BITS), "weights": unsigned(POINTER_BITS), "packed": unsigned(1)}
)
"""Rows of a block: parameters first, then weights, which may be ``packed`` (4 bits each)."""

_Header = StructLayout(
    {"magic": unsigned(32), "params": unsigned(32), "weights": unsigned(32), "packed": unsigned(32)}
)
"""The beat in front of a block (hw/image.py)."""


def ring_rows(config: AcceleratorConfig, ring: str) -> int:
    """Depth of memory ``ring``: "ring", "param", "demand" or "demand_param"."""
    depth: int = getattr(config.memory, f"{ring}_rows")
    return depth


def ring_beats(config: AcceleratorConfig, ring: str) -> int:
    """Beats of one row of memory ``ring`` on each port."""
    return config.param_row_beats if ring.endswith("param") else config.row_beats


def ring_lanes(ring: str) -> int:
    """Beats that a port writes to memory ``ring`` at once: one of 4-bit weights becomes two."""
    return 1 if ring.endswith("param") else 2


def _write(config: AcceleratorConfig, ring: str) -> wiring.Signature:
    return RowWrite(
        rows=ring_rows(config, ring), beats=ring_beats(config, ring), lanes=ring_lanes(ring)
    )


def _unpacked(data: Value) -> Value:
    """Two's complement halves of bytes as bytes, the low half first."""
    return Cat(
        Cat(data[low : low + 4], data[low + 3].replicate(4)) for low in range(0, len(data), 4)
    )


class RowSink(Component):
    """Takes the rows of one block after another, a beat a cycle, to a parameter and a weight ring.

    A beat that is taken is in memory after two cycles, and its row is counted then. ``i.ready``
    falls while the ring of the coming beat is full. Packed weights are unpacked on the way in: a
    beat fills two beats' places in a cycle, so that a row takes half as long.

    Members
    -------
    block:
        In(stream of :data:`RowCounts`). Accepted when no beat of an earlier block is missing, also
        in the cycle in which its last beat is taken.
    i:
        In(stream of a beat).
    params, weights:
        Out(:func:`RowWrite`) to the two rings.
    params_filled, weights_filled:
        Out(POINTER_BITS). Rows written since reset.
    params_released, weights_released:
        In(POINTER_BITS). Rows that may be overwritten.
    idle:
        Out(1). No beat is missing.
    """

    def __init__(self, config: AcceleratorConfig, *, params: str, weights: str) -> None:
        self._signatures = {
            "params": _write(config, params),
            "weights": _write(config, weights),
        }
        members = {
            "block": In(stream.Signature(RowCounts)),
            "i": In(stream.Signature(unsigned(_BEAT))),
            "idle": Out(1),
        }
        for name, signature in self._signatures.items():
            members[name] = Out(signature)
            members[f"{name}_filled"] = Out(POINTER_BITS)
            members[f"{name}_released"] = In(POINTER_BITS)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        take, ended = Signal(), Signal()  # a beat is taken; it is the last of its block
        some = {}  # rows of this kind are missing
        for name in self._signatures:
            some[name] = Signal(name=f"some_{name}")
        packed = Signal()
        turn = {"params": some["params"], "weights": ~some["params"] & some["weights"]}
        m.d.comb += [
            self.idle.eq(~some["params"] & ~some["weights"]),
            self.block.ready.eq(self.idle | ended),
            take.eq(self.i.valid & self.i.ready),
        ]
        for name in self._signatures:
            write, filled = getattr(self, name), getattr(self, f"{name}_filled")
            beats, row_bits = len(write.en), len(write.row)
            left = Signal(POINTER_BITS, name=f"{name}_left")
            row = Signal(POINTER_BITS, name=f"{name}_row")
            beat = Signal(beats, init=1, name=f"{name}_beat")  # one-hot
            used = Signal(row_bits + 1, name=f"{name}_used")
            mine, last = Signal(name=f"{name}_mine"), Signal(name=f"{name}_last")
            payload, narrow = self.i.payload, packed if len(write.data) > _BEAT else 0
            m.d.comb += [
                used.eq(row - getattr(self, f"{name}_released")),
                mine.eq(take & turn[name]),
                last.eq(left == 1),
            ]
            with m.If(turn[name]):
                m.d.comb += self.i.ready.eq(~used[-1])
            m.d.sync += [
                write.en.eq(Mux(mine, beat | Mux(narrow, beat.rotate_left(1), 0), 0)),
                write.row.eq(row),
                filled.eq(row),  # the row's last write is in memory when this has changed
            ]
            with m.If(mine):
                m.d.sync += beat.eq(Mux(narrow, beat.rotate_left(2), beat.rotate_left(1)))
                with m.If(Mux(narrow, beat[-2:].any(), beat[-1])):
                    m.d.sync += [row.eq(row + 1), left.eq(left - 1), some[name].eq(~last)]
                    with m.If(last & (1 if name == "weights" else ~some["weights"])):
                        m.d.comb += ended.eq(1)
            for lane in range(len(write.data) // _BEAT):
                half = payload.word_select(lane, _BEAT // 2)
                data = Mux(narrow, _unpacked(half), payload)
                m.d.sync += write.data.word_select(lane, _BEAT).eq(data)
            with m.If(self.block.valid & self.block.ready):
                rows = self.block.payload[name]
                m.d.sync += [left.eq(rows), some[name].eq(rows != 0)]
        with m.If(self.block.valid & self.block.ready):
            m.d.sync += packed.eq(self.block.payload.packed)
        return m


def _is_block(header: Any) -> Any:
    """Whether a beat would do as a block's header."""
    return (
        (header.magic == BLOCK_MAGIC)
        & ~header.params[POINTER_BITS:].any()
        & ~header.weights[POINTER_BITS:].any()
        & ~header.packed[1:].any()
    )


LANDED = StructLayout({"data": _BEAT, "is_block": 1})
"""A beat in the landing buffer, examined on its way in: a block RAM's output is too late for it."""


_FLAGS = ("quiet", "stream_busy", "demand_busy", "beat", "demand_beat", "bad_read", "bad_block")


class Port(Component):
    """One 128-bit weight port.

    The stream's beats land in a queue of ``landing_beats`` and leave it a beat a cycle, block
    headers included, while there is room in the rings. Demand beats go straight to the demand
    rings, which have room for all of a FETCH before it is started; their bursts go first.

    Members
    -------
    stream_job:
        In(stream of :data:`bursts.Job`). This port's part of the weight stream.
    demand_job, demand_rows:
        In(stream of :data:`bursts.Job`), In(stream of :data:`RowCounts`): a FETCH, and its rows.
    ring, param, demand, demand_param:
        Out(:func:`RowWrite`).
    *_filled:
        Out(POINTER_BITS) for each of them: this port's rows since reset.
    ring_released, param_released:
        In(POINTER_BITS). The demand rings are written without asking.
    hold:
        In(1). The stream asks for nothing more meanwhile.
    cancel:
        In(1). Ask for nothing more and drop what comes; held until reset.
    quiet, stream_busy, demand_busy:
        Out(1). Nothing in flight; beats of the stream (of a FETCH) are missing or not yet written.
    beat, demand_beat:
        Out(1). A beat (of a FETCH) has come.
    bad_read, bad_block:
        Out(1), held. Error response; block without its magic, too large, or cut short.
    axi:
        Out(AxiRead).
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        members = {
            "stream_job": In(stream.Signature(bursts.Job)),
            "demand_job": In(stream.Signature(bursts.Job)),
            "demand_rows": In(stream.Signature(RowCounts)),
            "axi": Out(AxiRead),
            "hold": In(1),
            "cancel": In(1),
        }
        for name in ("ring", "param", "demand", "demand_param"):
            members[name] = Out(_write(config, name))
            members[f"{name}_filled"] = Out(POINTER_BITS)
            if not name.startswith("demand"):
                members[f"{name}_released"] = In(POINTER_BITS)
        super().__init__({**members, **{name: Out(1) for name in _FLAGS}})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.reader = reader = bursts.Reader(
            burst=(bursts.longest(config),) * 2,
            capacity=(config.memory.landing_beats, None),
            first=DEMAND,
        )
        m.submodules.landing = landing = fifo.MemoryFifo(LANDED, depth=config.memory.landing_beats)
        m.submodules.expected = expected = fifo.MemoryFifo(RowCounts, depth=4)
        m.submodules.sink = sink = RowSink(config, params="param", weights="ring")
        m.submodules.demand_sink = demand = RowSink(config, params="demand_param", weights="demand")
        wiring.connect(m, wiring.flipped(self.axi), reader.axi)
        wiring.connect(m, wiring.flipped(self.stream_job), reader.jobs[STREAM])
        wiring.connect(m, wiring.flipped(self.demand_job), reader.jobs[DEMAND])
        wiring.connect(m, wiring.flipped(self.demand_rows), expected.i)
        wiring.connect(m, expected.o, demand.block)
        for name, writer, kind in (
            ("ring", sink, "weights"),
            ("param", sink, "params"),
            ("demand", demand, "weights"),
            ("demand_param", demand, "params"),
        ):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(writer, kind))
            m.d.comb += getattr(self, f"{name}_filled").eq(getattr(writer, f"{kind}_filled"))
            # Nothing is ever waited for in the demand rings: they look empty to their writer.
            released = getattr(self, f"{name}_released", getattr(self, f"{name}_filled"))
            m.d.comb += getattr(writer, f"{kind}_released").eq(released)

        # The stream: landing buffer, then headers out of band.
        header = _Header(landing.o.payload.data)
        is_block = landing.o.payload.is_block
        cut_short = reader.idle[STREAM] & ~reader.valid[STREAM] & landing.empty & ~sink.idle
        m.d.comb += [
            landing.i.valid.eq(reader.valid[STREAM]),  # always ready: there is credit for the beat
            landing.i.payload.data.eq(reader.data),
            landing.i.payload.is_block.eq(_is_block(_Header(reader.data))),
            reader.freed[STREAM].eq(landing.o.valid & landing.o.ready),
            sink.block.payload.params.eq(header.params),
            sink.block.payload.weights.eq(header.weights),
            sink.block.payload.packed.eq(header.packed),
            sink.i.payload.eq(landing.o.payload.data),
        ]
        with m.If(sink.idle):
            m.d.comb += [
                sink.block.valid.eq(landing.o.valid & is_block),
                landing.o.ready.eq(1),  # what is no block is an error, and lost
            ]
        with m.Else():
            m.d.comb += [
                sink.i.valid.eq(landing.o.valid),
                landing.o.ready.eq(sink.i.ready),
            ]
        with m.If((sink.idle & landing.o.valid & ~is_block & ~self.cancel) | cut_short):
            m.d.sync += self.bad_block.eq(1)

        m.d.comb += [
            demand.i.valid.eq(reader.valid[DEMAND]),
            demand.i.payload.eq(reader.data),
            self.bad_read.eq(reader.error),
            self.quiet.eq(reader.idle[STREAM] & reader.idle[DEMAND]),
            self.stream_busy.eq(
                ~reader.idle[STREAM] | reader.valid[STREAM] | ~landing.empty | ~sink.idle
            ),
            self.demand_busy.eq(
                ~reader.idle[DEMAND] | reader.valid[DEMAND] | ~expected.empty | ~demand.idle
            ),
            self.beat.eq(reader.valid[STREAM] | reader.valid[DEMAND]),
            self.demand_beat.eq(reader.valid[DEMAND]),
        ]
        m.d.comb += reader.hold[STREAM].eq(self.hold)
        for k in (STREAM, DEMAND):
            m.d.comb += reader.cancel[k].eq(self.cancel)
        return m
