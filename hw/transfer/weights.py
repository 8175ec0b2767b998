"""The weight engine: streams weights ahead of the array and fetches experts on demand."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..config import BEAT_BYTES, NEARLY_EMPTY, AcceleratorConfig
from ..interfaces import (
    POINTER_BITS,
    AxiRead,
    GiveSignature,
    Lengths,
    ReadPort,
    TakeSignature,
    damage_place,
    param_address,
    param_row,
    row_address,
    weight_row,
)
from ..lib.component import Component
from ..lib.storage import KEEP
from ..registers import DAMAGE_UNIT, Error
from .load import sides
from .weight_port import Port, ring_beats, ring_lanes, ring_rows
from .weight_rings import Ring

__all__ = ["WeightEngine"]

_BEAT_SHIFT = ceil_log2(BEAT_BYTES)
_CHOSEN = 256
"""Bits of a row for which one register says which ring they come from."""
_RINGS = ("ring", "param", "demand", "demand_param")


class WeightEngine(Component):
    """Weight ports, landing buffers and rings.

    The stream runs by itself from ``start`` to its last beat, as far ahead as the rings allow. A
    FETCH takes its credits, is dropped when its expert's queue is empty, and is started on all
    ports when the demand rings have room; the next may start while its data is on the way.

    Throughput is a beat a port and cycle, less one cycle a block for its header. A row can be read
    five cycles after the last of its beats has come out of the landing buffer. Row numbers run on
    from frame to frame.

    Members
    -------
    start, base, beats:
        In. Pulse; address of port 0's stream; beats of every port's stream. Only while ``ready``.
    ready:
        Out(1). Every port has been given the stream before; the next may follow it.
    program:
        In(32). Base of FETCH addresses.
    i:
        In(stream of ``isa.Fetch.layout()``).
    take, give:
        Out. One credit is taken for ``wait_count`` 0; one is given when a FETCH leaves ``i``.
    lengths:
        In(Lengths). Tokens in each queue; looked at after the credits are taken.
    axi:
        Out(AxiRead).array(ports).
    rows, params:
        In(ReadPort) with :func:`row_address` and :func:`param_address`.
    ring_filled, param_filled, demand_filled, demand_param_filled:
        Out(POINTER_BITS). Rows complete on all ports, since reset.
    ring_released, param_released, demand_released, demand_param_released:
        In(POINTER_BITS). Rows that the readers are done with.
    loading:
        In(sides). The data engine reads through this port. The stream leaves the port to it as long
        as its part of the ring is not nearly empty: what is loaded is waited for, what is streamed
        is not yet.
    pixels:
        In(1). An image is being read through the first port. Of more ports than those of the data
        engine the last then leaves the memory alone in the same way, so that the first has all of
        its own rate; it catches up while the others wait for room.
    storing, between:
        In(1). Results are written; what is streamed belongs to the next frame. The stream then
        leaves the same ports alone, and so the memory's time to what a frame's end waits for.
    abort:
        In(1). From this cycle on nothing more is asked for and everything that comes is dropped,
        until reset.
    quiet:
        Out(1). Nothing in flight, also in the cycle of ``abort``.
    stream_busy, busy:
        Out(1). A stream is unfinished; a FETCH is pending.
    fault, place:
        Out(Error), Out(damage_place). STREAM, READ, FIELD, WEIGHTS or FETCHED; what of the last
        two. Held.
    beats_read, demand_read, misses:
        Out. Beats of this cycle on all ports; those of FETCHes; a FETCH has been started.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        ports = config.memory.ports
        pointers = {}
        for ring in _RINGS:
            pointers[f"{ring}_filled"] = Out(POINTER_BITS)
            pointers[f"{ring}_released"] = In(POINTER_BITS)
        super().__init__(
            {
                "start": In(1),
                "ready": Out(1),
                "base": In(32),
                "beats": In(32),
                "program": In(32),
                "i": In(stream.Signature(isa.Fetch.layout())),
                "take": Out(TakeSignature),
                "give": Out(GiveSignature),
                "lengths": In(Lengths(config)),
                "axi": Out(AxiRead).array(ports),
                "rows": In(ReadPort(row_address(config), weight_row(config))),
                "params": In(ReadPort(param_address(config), param_row(config))),
                **pointers,
                "loading": In(sides(config)),
                "pixels": In(1),
                "storing": In(1),
                "between": In(1),
                "abort": In(1),
                "quiet": Out(1),
                "stream_busy": Out(1),
                "busy": Out(1),
                "fault": Out(Error),
                "place": Out(damage_place),
                "beats_read": Out(range(ports + 1)),
                "demand_read": Out(range(ports + 1)),
                "misses": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ports = [Port(self._config) for _ in self.axi]
        for p, port in enumerate(ports):
            m.submodules[f"port{p}"] = port
            wiring.connect(m, wiring.flipped(self.axi[p]), port.axi)
        self._store(m, ports)
        starting = self._start(m, ports)
        fetching, bad_field = self._fetch(m, ports)

        given_up = Signal()  # until a reset
        with m.If(self.abort):
            m.d.sync += given_up.eq(1)
        for port in ports:
            m.d.comb += port.cancel.eq(given_up)
        enough = self._config.memory.ring_rows // NEARLY_EMPTY
        yields = dict(enumerate(self.loading))
        if len(ports) > len(self.loading):
            yields[len(ports) - 1] = self.pixels
        for p, busy in yields.items():
            rows = Signal(range(self._config.memory.ring_rows + 1), name=f"rows_{p}")  # of its part
            between = self.storing & self.between & (p < len(self.loading))
            m.d.sync += [
                rows.eq(ports[p].ring_filled - self.ring_released),
                ports[p].hold.eq((busy & (rows >= enough)) | between),
            ]
        with m.If(self.fault == Error.NONE):
            with m.If(Cat(port.bad_read for port in ports).any()):
                m.d.sync += self.fault.eq(Error.READ)
            with m.Elif(Cat(port.bad_block for port in ports).any()):
                m.d.sync += self.fault.eq(Error.STREAM)
            with m.Elif(bad_field):
                m.d.sync += self.fault.eq(Error.FIELD)
            for p, port in enumerate(ports):
                for bad, error in (
                    (port.bad_stream, Error.WEIGHTS),
                    (port.bad_demand, Error.FETCHED),
                ):
                    with m.If(bad):
                        m.d.sync += [
                            self.fault.eq(error),
                            self.place.block.eq(port.place),
                            self.place.port.eq(p),
                        ]
        m.d.comb += [
            self.quiet.eq(Cat(port.quiet for port in ports).all()),
            self.ready.eq(~starting),
            self.stream_busy.eq(starting | Cat(port.stream_busy for port in ports).any()),
            self.busy.eq(fetching | Cat(port.demand_busy for port in ports).any()),
        ]
        m.d.sync += [
            self.beats_read.eq(sum(port.beat for port in ports)),
            self.demand_read.eq(sum(port.demand_beat for port in ports)),
        ]
        return m

    def _store(self, m: Module, ports: list[Port]) -> None:
        """The four rings, their row counts, and the two read ports."""
        for reader, plain, demand in (
            (self.rows, "ring", "demand"),
            (self.params, "param", "demand_param"),
        ):
            # One for each few words, since it chooses between whole rows.
            width = len(Value.cast(reader.data))
            from_demand = [
                Signal(name=f"from_{demand}_{low}", attrs=KEEP) for low in range(0, width, _CHOSEN)
            ]
            with m.If(reader.en):
                m.d.sync += [copy.eq(reader.addr.demand) for copy in from_demand]
            data = []
            for name in (plain, demand):
                ring = Ring(
                    rows=ring_rows(self._config, name),
                    beats=ring_beats(self._config, name),
                    ports=len(ports),
                    lanes=ring_lanes(name),
                )
                m.submodules[name] = ring
                m.d.comb += [
                    ring.read.en.eq(reader.en & (reader.addr.demand == (name == demand))),
                    ring.read.addr.eq(reader.addr.row),
                ]
                data.append(ring.read.data)
                for p, port in enumerate(ports):
                    wiring.connect(m, getattr(port, name), ring.write[p])
                    if name == plain:
                        released = getattr(port, f"{name}_released")
                        m.d.comb += released.eq(getattr(self, f"{name}_released"))
                # A row is complete when every port has written it.
                filled = getattr(self, f"{name}_filled")
                counts = [getattr(port, f"{name}_filled") for port in ports]
                if len(ports) == 1:
                    m.d.comb += filled.eq(counts[0])
                else:
                    with m.If(Cat(count != filled for count in counts).all()):
                        m.d.sync += filled.eq(filled + 1)
            m.d.comb += Value.cast(reader.data).eq(
                Cat(
                    Mux(copy, data[1][low : low + _CHOSEN], data[0][low : low + _CHOSEN])
                    for copy, low in zip(from_demand, range(0, width, _CHOSEN), strict=True)
                )
            )

    def _start(self, m: Module, ports: list[Port]) -> Value:
        """Hands each port its part of the stream, one port a cycle; 1 until done."""
        address, beats = Signal(32), Signal(32)
        turn = Signal(len(ports))  # one-hot, 0 when done
        for p, port in enumerate(ports):
            m.d.comb += [
                port.stream_job.valid.eq(turn[p]),
                port.stream_job.payload.address.eq(address),
                port.stream_job.payload.beats.eq(beats),
            ]
        ready = Cat(port.stream_job.ready for port in ports)
        with m.If(self.start):
            m.d.sync += [address.eq(self.base), beats.eq(self.beats), turn.eq(1)]
        with m.Elif((turn & ready).any()):
            m.d.sync += [address.eq(address + (beats << _BEAT_SHIFT)), turn.eq(turn << 1)]
        return turn.any()

    def _fetch(self, m: Module, ports: list[Port]) -> tuple[Value, Signal]:
        """Executes FETCH; returns "pending" and "has a bad field"."""
        memory = self._config.memory
        fetch, take = self.i.payload, self.take
        empty, fits, bad_field = Signal(), Signal(), Signal()
        address, turn = Signal(32), Signal(range(max(len(ports), 2)))
        beats = Signal(32)
        weights, params = Signal(POINTER_BITS), Signal(POINTER_BITS)  # rows given to FETCHes so far

        def has_room(given: Signal, released: Signal, wanted: Value, depth: int) -> Value:
            used = Signal(range(2 * depth), name=f"{given.name}_used")
            m.d.comb += used.eq(given - released)
            return used + wanted <= depth

        # Inputs of the decisions below, registered while the state before is left.
        m.d.sync += [
            empty.eq(Array(self.lengths)[fetch.queue] == 0),
            beats.eq(
                fetch.param_rows * ring_beats(self._config, "demand_param")
                + ((fetch.weight_rows * ring_beats(self._config, "demand")) >> fetch.packed)
            ),
            fits.eq(
                has_room(
                    params,
                    self.demand_param_released,
                    fetch.param_rows,
                    memory.demand_param_rows,
                )
                & has_room(weights, self.demand_released, fetch.weight_rows, memory.demand_rows)
            ),
        ]
        m.d.comb += [
            take.id.eq(fetch.wait),
            take.count.eq(Mux(fetch.wait_count == 0, 1, fetch.wait_count)),
            self.give.valid.eq(self.i.valid & self.i.ready & (fetch.signal != 0)),
            self.give.id.eq(fetch.signal),
            self.give.count.eq(1),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.i.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(
                    (fetch.queue >= self._config.limits.experts)
                    | (fetch.param_rows > memory.demand_param_rows)
                    | (fetch.weight_rows > memory.demand_rows)
                    | fetch.address[:_BEAT_SHIFT].any()
                ):
                    m.next = "BAD"
                with m.Elif(fetch.wait == 0):
                    m.next = "LOOK"
                with m.Else():
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += take.valid.eq(1)
                with m.If(take.ready):
                    m.next = "LOOK"
            with m.State("LOOK"):  # the queue's length and the room belong to this cycle
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += [address.eq(self.program + fetch.address), turn.eq(0)]
                with m.If(empty | (beats == 0)):
                    m.d.comb += self.i.ready.eq(1)
                    m.next = "IDLE"
                with m.Elif(fits):
                    m.d.sync += [
                        params.eq(params + fetch.param_rows),
                        weights.eq(weights + fetch.weight_rows),
                    ]
                    m.d.comb += self.misses.eq(1)
                    m.next = "START"
            with m.State("START"):  # one port after the other
                with m.Switch(turn):
                    for p, port in enumerate(ports):
                        with m.Case(p):
                            go = port.demand_job.ready & port.demand_rows.ready
                            m.d.comb += [
                                port.demand_job.valid.eq(go),
                                port.demand_rows.valid.eq(go),
                            ]
                            with m.If(go):
                                m.d.sync += [
                                    address.eq(address + (beats << _BEAT_SHIFT)),
                                    turn.eq(turn + 1),
                                ]
                                if p == len(ports) - 1:
                                    m.d.comb += self.i.ready.eq(1)
                                    m.next = "IDLE"
            with m.State("BAD"):
                m.d.comb += bad_field.eq(1)
        for p, port in enumerate(ports):
            m.d.comb += [
                port.demand_job.payload.address.eq(address),
                port.demand_job.payload.beats.eq(beats),
                port.demand_rows.payload.rows.params.eq(fetch.param_rows),
                port.demand_rows.payload.rows.weights.eq(fetch.weight_rows),
                port.demand_rows.payload.rows.packed.eq(fetch.packed),
                port.demand_rows.payload.checked.eq(fetch.checked),
                port.demand_rows.payload.check.eq(fetch[f"check{p}"]),
                port.demand_rows.payload.place.eq(fetch.address >> ceil_log2(DAMAGE_UNIT)),
            ]
        return self.i.valid, bad_field
