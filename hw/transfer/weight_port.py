"""One weight port: its bursts, its landing buffer, and where in the rings its beats go."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..checks import crc32
from ..config import BEAT_BYTES, AcceleratorConfig
from ..image import BLOCK_MAGIC
from ..interfaces import POINTER_BITS, AxiRead
from ..lib import fifo
from ..lib.component import Component
from ..lib.crc import CRC_BITS, BlockCheck, Fold
from ..registers import DAMAGE_BITS
from . import bursts
from .weight_rings import RowWrite

__all__ = [
    "DEMAND",
    "LANDED",
    "STREAM",
    "DemandRows",
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

DemandRows = StructLayout(
    {"rows": RowCounts, "checked": 1, "check": CRC_BITS, "place": DAMAGE_BITS}
)
"""A FETCH as a port has it: its rows, whether they have a check, that and their name."""

_Header = StructLayout(
    {
        "check": unsigned(CRC_BITS),
        "params": unsigned(16),
        "packed": unsigned(1),
        "number": unsigned(15),
        "weights": unsigned(32),
        "own_check": unsigned(CRC_BITS),
    }
)
"""The beat in front of a block (hw/image.py)."""

_HEADER_FOLD = crc32(bytes(BEAT_BYTES), BLOCK_MAGIC)
"""What :class:`Fold` makes of a block's header: its own check then ends at 0."""


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
    idle, ended:
        Out(1). No beat is missing; the last beat of a block is taken.
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
            "ended": Out(1),
        }
        for name, signature in self._signatures.items():
            members[name] = Out(signature)
            members[f"{name}_filled"] = Out(POINTER_BITS)
            members[f"{name}_released"] = In(POINTER_BITS)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        take, ended = Signal(), self.ended  # a beat is taken; it is the last of its block
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


LANDED = StructLayout({"data": _BEAT, "is_block": 1})
"""A beat in the landing buffer, examined on its way in: a block RAM's output is too late for it."""


_FLAGS = (
    *("quiet", "stream_busy", "demand_busy", "beat", "demand_beat"),
    *("bad_read", "bad_block", "bad_stream", "bad_demand"),
)


class Port(Component):
    """One 128-bit weight port.

    The stream's beats land in a queue of ``landing_beats`` and leave it a beat a cycle, block
    headers included, while there is room in the rings. Demand beats go straight to the demand
    rings, which have room for all of a FETCH before it is started; their bursts go first. CRCs are
    compared as the beats arrive: a block has been looked at before its last row can be read.

    Members
    -------
    stream_job:
        In(stream of :data:`bursts.Job`). This port's part of the weight stream.
    demand_job, demand_rows:
        In(stream of :data:`bursts.Job`), In(stream of :data:`DemandRows`): a FETCH, and its rows.
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
        Out(1), held. Error response; block without its header, too large, or cut short.
    bad_stream, bad_demand, place:
        Out(1), held. A block of the stream, or what a FETCH read, has another CRC: which.
    axi:
        Out(AxiRead).
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        members = {
            "stream_job": In(stream.Signature(bursts.Job)),
            "demand_job": In(stream.Signature(bursts.Job)),
            "demand_rows": In(stream.Signature(DemandRows)),
            "place": Out(DAMAGE_BITS),
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
        m.submodules.expected = expected = fifo.MemoryFifo(DemandRows, depth=4)
        m.submodules.sink = sink = RowSink(config, params="param", weights="ring")
        m.submodules.demand_sink = demand = RowSink(config, params="demand_param", weights="demand")
        wiring.connect(m, wiring.flipped(self.axi), reader.axi)
        wiring.connect(m, wiring.flipped(self.stream_job), reader.jobs[STREAM])
        wiring.connect(m, wiring.flipped(self.demand_job), reader.jobs[DEMAND])
        wiring.connect(m, wiring.flipped(self.demand_rows), expected.i)
        m.d.comb += [
            demand.block.valid.eq(expected.o.valid),
            demand.block.payload.eq(expected.o.payload.rows),
            expected.o.ready.eq(demand.block.ready),
        ]
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

        # A beat is folded while its kind is registered; the stream lands behind that.
        m.submodules.fold = fold = Fold()
        arrived = Signal(_BEAT)
        landing_one = Signal()
        m.d.comb += fold.i.eq(reader.data)
        m.d.sync += [arrived.eq(reader.data), landing_one.eq(reader.valid[STREAM])]
        came = _Header(arrived)
        is_header = Signal()
        m.d.comb += is_header.eq((fold.o == _HEADER_FOLD) & ~came.weights[POINTER_BITS:].any())
        self._check_stream(m, landing_one, came, is_header, fold.o)
        self._check_demand(m, reader.valid[DEMAND], demand, expected.o.payload, fold.o)

        # The stream: landing buffer, then headers out of band.
        header = _Header(landing.o.payload.data)
        is_block = landing.o.payload.is_block
        on_its_way = ~reader.idle[STREAM] | reader.valid[STREAM] | landing_one | ~landing.empty
        cut_short = ~on_its_way & ~sink.idle
        m.d.comb += [
            landing.i.valid.eq(landing_one),  # always ready: there is credit for the beat
            landing.i.payload.data.eq(arrived),
            landing.i.payload.is_block.eq(is_header),
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
            self.stream_busy.eq(on_its_way | ~sink.idle),
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

    def _check_stream(
        self, m: Module, beat: Signal, header: Any, is_header: Signal, folded: Value
    ) -> None:
        """Counts the beats of blocks where they arrive, and compares their CRCs."""
        config = self._config
        m.submodules.stream_check = check = BlockCheck(unsigned(DAMAGE_BITS))
        rows = config.param_row_beats, config.row_beats
        left = Signal(range((1 << POINTER_BITS) * sum(rows)))
        inside = Signal()  # left != 0
        m.d.comb += [
            check.beat.eq(beat & inside),
            check.last.eq(left == 1),
            check.folded.eq(folded),
            check.checked.eq(1),
        ]
        weights = header.weights[:POINTER_BITS] * rows[1]
        with m.If(beat & inside):
            m.d.sync += [left.eq(left - 1), inside.eq(left != 1)]
        with m.Elif(beat & is_header):
            m.d.sync += [
                left.eq(header.params * rows[0] + (weights >> header.packed)),
                inside.eq(header.params.any() | header.weights.any()),
                check.expected.eq(header.check),
                check.tag.eq(header.number),
            ]
        with m.If(check.damaged & ~self.bad_demand):
            m.d.sync += [self.bad_stream.eq(1), self.place.eq(check.name)]

    def _check_demand(
        self, m: Module, beat: Value, sink: RowSink, fetch: Any, folded: Value
    ) -> None:
        """Compares the CRCs of what FETCHes read."""
        m.submodules.demand_check = check = BlockCheck(unsigned(DAMAGE_BITS))
        taken: Any = Signal(DemandRows)  # by the sink; used a cycle later, when the beat is folded
        with m.If(sink.block.valid & sink.block.ready):
            m.d.sync += taken.eq(fetch)
        m.d.sync += [
            check.beat.eq(beat),
            check.last.eq(sink.ended),
            check.expected.eq(taken.check),
            check.checked.eq(taken.checked),
            check.tag.eq(taken.place),
        ]
        m.d.comb += check.folded.eq(folded)
        with m.If(check.damaged & ~self.bad_stream):
            m.d.sync += [self.bad_demand.eq(1), self.place.eq(check.name)]
