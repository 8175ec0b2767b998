"""The LOAD half of the data engine: instructions to reading jobs, beats to the memories."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout, View
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..config import BEAT_BYTES, AcceleratorConfig
from ..interfaces import (
    ActivationWrite,
    GiveSignature,
    ResidualWrite,
    TakeSignature,
    activation_write,
    damage_place,
    load_beat,
)
from ..isa import LoadKind
from ..lib import fifo
from ..lib.component import Component
from ..lib.queue import SmallFifo
from ..registers import Error
from . import bursts
from .pixels import Unpacker
from .table_check import TableCheck

__all__ = ["LoadEngine", "sides"]

_BEAT = 8 * BEAT_BYTES
_BEAT_SHIFT = ceil_log2(BEAT_BYTES)


_SECOND = (LoadKind.RESIDUAL, LoadKind.NORM)
"""Loads of the second side, where there is one."""

_AHEAD = 2
"""Instructions of a side that have been asked for."""


def sides(config: AcceleratorConfig) -> int:
    """Memory ports that LOADs use."""
    return min(2, config.memory.ports)


class LoadEngine(Component):
    """Begins LOADs in order; the next one's data is asked for while this one's is written.

    With two memory ports or more it has two sides, which read and write at the same time: pixels
    and activations through the first port, residual words and norm parameters through the second.
    Credits are given in the order of the instructions all the same.

    The fields are checked and the credits taken before anything is read. Pixel rows are read as
    jobs of their own, as many as the landing buffer has room for at a time. Throughput: a beat of
    norm parameters a cycle; a word, or a beat if that is less, a cycle; pixels as in
    :class:`data_pixels.Unpacker`.

    Members
    -------
    i:
        In(stream of ``isa.Load.layout()``).
    program, image, output:
        In(32). Bases.
    take, give:
        Out. One credit is taken for ``wait_count`` 0.
    a_write, x_write, norm:
        Out(ActivationWrite), Out(ResidualWrite), Out(stream of
        ``load_beat``).
    job, beat, data, freed:
        A requester of a :class:`bursts.Reader` for each of :func:`sides`.
    pixels:
        Out(1). A LOAD of pixels has been asked for and is not yet written.
    busy:
        Out(1). An instruction is waiting or executed.
    fault, place:
        Out(Error), Out(damage_place). FIELD or ADDRESS: nothing more is done. TABLE, up to five
        cycles after a LOAD's last beat: its beats are not what its check says. Held.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._sides = sides(config)
        self._word_bytes = 2 * config.array.outputs
        super().__init__(
            {
                "i": In(stream.Signature(isa.Load.layout())),
                "program": In(32),
                "image": In(32),
                "output": In(32),
                "take": Out(TakeSignature),
                "give": Out(GiveSignature),
                "a_write": Out(ActivationWrite(config)),
                "x_write": Out(ResidualWrite(config)),
                "norm": Out(stream.Signature(load_beat(config))),
                "job": Out(stream.Signature(bursts.Job)).array(self._sides),
                "beat": In(1).array(self._sides),
                "data": In(_BEAT).array(self._sides),
                "freed": Out(1).array(self._sides),
                "pixels": Out(1),
                "busy": Out(1),
                "fault": Out(Error),
                "place": Out(damage_place),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        load, take = self.i.payload, self.take
        m.d.comb += [
            take.id.eq(load.wait),
            take.count.eq(Mux(load.wait_count == 0, 1, load.wait_count)),
        ]
        starts = {kind: Signal(name=f"start_{kind.name.lower()}") for kind in LoadKind}
        landed, handed = [], []
        for n in range(self._sides):
            landing = fifo.MemoryFifo(unsigned(_BEAT), depth=self._config.memory.landing_beats)
            queue = SmallFifo(isa.Load.layout(), _AHEAD)
            m.submodules[f"landing_{n}"], m.submodules[f"handed_{n}"] = landing, queue
            m.d.comb += [
                landing.i.valid.eq(self.beat[n]),  # always ready: there is credit for the beat
                landing.i.payload.eq(self.data[n]),
                self.freed[n].eq(landing.o.valid & landing.o.ready),
                queue.i.payload.eq(load),
            ]
            landed.append(landing.o)
            handed.append(queue)
        oldest = handed[0].o
        m.d.comb += self.pixels.eq(oldest.valid & (oldest.payload.kind == LoadKind.PIXELS))
        first, second = (handed[0].o.payload, landed[0]), (handed[-1].o.payload, landed[-1])
        patches, words = self._activations(m, *first, starts)
        ended = {
            LoadKind.PIXELS: patches,
            LoadKind.ACTIVATION: words,
            LoadKind.RESIDUAL: self._residual(m, *second, starts[LoadKind.RESIDUAL]),
            LoadKind.NORM: self._norm(m, *second, starts[LoadKind.NORM]),
        }
        asking = Signal()
        to_second = Signal()
        asked = self._ask(m, asking, to_second)
        bad_field = self._check(m)
        m.d.comb += self.give.count.eq(1)
        m.d.comb += self.busy.eq(self.i.valid | Cat(queue.o.valid for queue in handed).any())
        # Which side each instruction went to that has not ended, the oldest first.
        m.submodules.order = order = SmallFifo(unsigned(1), _AHEAD * self._sides)
        m.d.comb += [
            to_second.eq(Cat(load.kind == kind for kind in _SECOND).any() & (self._sides == 2)),
            order.i.payload.eq(to_second),
        ]

        # The asking half is ahead, so that one instruction's latency hides behind another's data;
        # beats come in the order in which they were asked for.
        with m.FSM(name="ask"):
            with m.State("IDLE"):
                with m.If(self.i.valid):
                    m.next = "SIZE"
            with m.State("SIZE"):  # products of the fields are registered
                m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(bad_field):
                    m.d.sync += self.fault.eq(Error.FIELD)
                    m.next = "BAD"
                with m.Elif(load.wait == 0):
                    m.next = "HAND"
                with m.Else():
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += take.valid.eq(1)
                with m.If(take.ready):
                    m.next = "HAND"
            with m.State("HAND"):
                room = Mux(to_second, handed[-1].i.ready, handed[0].i.ready) & order.i.ready
                m.d.comb += [asking.eq(room), order.i.valid.eq(room)]
                for n, queue in enumerate(handed):
                    m.d.comb += queue.i.valid.eq(room & (to_second == n))
                with m.If(room):
                    m.next = "ASK"
            with m.State("ASK"):
                with m.If(asked):
                    m.d.comb += self.i.ready.eq(1)
                    m.next = "IDLE"
            with m.State("BAD"):
                pass

        for n, queue in enumerate(handed):
            now = queue.o.payload
            m.submodules[f"check_{n}"] = check = TableCheck()
            m.d.comb += [
                check.load.eq(now),
                check.beat.eq(landed[n].valid & landed[n].ready),
                check.data.eq(landed[n].payload),
            ]
            with m.If(check.damaged & (self.fault == Error.NONE)):
                m.d.sync += [
                    self.fault.eq(Error.TABLE),
                    self.place.block.eq(check.name),
                    self.place.port.eq(n),
                ]
            kinds = [k for k in LoadKind if self._sides == 1 or (k in _SECOND) == (n == 1)]
            with m.FSM(name=f"write_{n}"):
                with m.State("IDLE"):
                    with m.If(queue.o.valid):
                        for kind in kinds:
                            m.d.comb += starts[kind].eq(now.kind == kind)
                        m.next = "RUN"
                with m.State("RUN"):
                    done = Cat(ended[kind] & (now.kind == kind) for kind in kinds).any()
                    with m.If(done & order.o.valid & (order.o.payload == n)):
                        m.d.comb += [
                            self.give.valid.eq(now.signal != 0),
                            self.give.id.eq(now.signal),
                            queue.o.ready.eq(1),
                            order.o.ready.eq(1),
                        ]
                        m.next = "IDLE"
        return m

    def _check(self, m: Module) -> Value:
        """1 if the instruction has a bad field."""
        load, config = self.i.payload, self._config
        bad = Signal()
        m.d.comb += bad.eq(load.address[:_BEAT_SHIFT].any())
        with m.Switch(load.kind):
            with m.Case(LoadKind.PIXELS):
                counts = (load.strips, load.patches, load.patch_rows, load.patch_bytes)
                with m.If(
                    Cat(count == 0 for count in counts).any()
                    | load.patch_bytes[: ceil_log2(config.piece_bytes)].any()
                    | load.pitch[:_BEAT_SHIFT].any()
                ):
                    m.d.comb += bad.eq(1)
            for kind, size in (
                (LoadKind.RESIDUAL, self._word_bytes),
                (LoadKind.ACTIVATION, config.array.inputs),
            ):
                with m.Case(kind):
                    beats = max(size // BEAT_BYTES, 1)  # of a word
                    with m.If((load.beats == 0) | load.beats[: ceil_log2(beats)].any()):
                        m.d.comb += bad.eq(1)
            with m.Case(LoadKind.NORM):
                with m.If(load.beats == 0):
                    m.d.comb += bad.eq(1)
            with m.Default():
                m.d.comb += bad.eq(1)
        return bad

    def _ask(self, m: Module, start: Value, second: Value) -> Value:
        """Jobs: one a pixel row, else one in all. 1 when the last has been accepted."""
        load = self.i.payload
        accepted = Signal()
        pixels = load.kind == LoadKind.PIXELS
        base = Mux(pixels, self.image, Mux(load.stored, self.output, self.program))
        row_bytes = Signal(len(load.patches) + len(load.patch_bytes))
        row_count = Signal(len(load.strips) + len(load.patch_rows))
        address, left, beats = Signal(32), Signal.like(row_count), Signal(len(load.beats) + 1)
        m.d.sync += [
            row_bytes.eq(load.patches * load.patch_bytes),
            row_count.eq(load.strips * load.patch_rows),
            beats.eq(Mux(pixels, (row_bytes + BEAT_BYTES - 1) >> _BEAT_SHIFT, load.beats)),
        ]
        for n, job in enumerate(self.job):
            m.d.comb += [
                job.valid.eq((left != 0) & (second == n)),
                job.payload.address.eq(address),
                job.payload.beats.eq(beats),
            ]
            with m.If(job.valid & job.ready):
                m.d.comb += accepted.eq(1)
        with m.If(start):
            m.d.sync += [
                address.eq(load.address + base),
                left.eq(Mux(pixels, row_count, 1)),
            ]
        with m.Elif(accepted):
            m.d.sync += [address.eq(address + load.pitch), left.eq(left - 1)]
        return left == 0

    def _activations(
        self,
        m: Module,
        load: View[StructLayout],
        beat: stream.Interface,
        starts: dict[LoadKind, Signal],
    ) -> tuple[Value, Value]:
        """Patches of an image, or whole words; when each has ended."""
        m.submodules.pixels = pixels = Unpacker(self._config)
        # The memory's answer comes late in a cycle.
        m.submodules.written = written = SmallFifo(activation_write(self._config), 2)
        write = written.i
        wiring.connect(m, written.o, wiring.flipped(self.a_write))
        address, data, valid = (
            Signal(isa.ADDRESS_BITS),
            Signal(8 * self._config.array.inputs),
            Signal(),
        )
        ended = self._words(
            m, load, beat, starts[LoadKind.ACTIVATION], LoadKind.ACTIVATION,
            size=self._config.array.inputs, depth=self._config.memory.activation_words,
            out=(valid, write.ready, address, data),
        )  # fmt: skip
        m.d.comb += [
            pixels.start.eq(starts[LoadKind.PIXELS]),
            pixels.fields.eq(load),
            pixels.i.payload.eq(beat.payload),
        ]
        with m.If(load.kind == LoadKind.ACTIVATION):
            m.d.comb += [
                write.valid.eq(valid),
                write.payload.addr.eq(address),
                write.payload.mask.eq(-1),
                Value.cast(write.payload.data).eq(data),
            ]
        with m.Else():
            m.d.comb += [
                write.valid.eq(pixels.o.valid),
                write.payload.eq(pixels.o.payload),
                pixels.o.ready.eq(write.ready),
            ]
        with m.If(load.kind == LoadKind.PIXELS):
            m.d.comb += [pixels.i.valid.eq(beat.valid), beat.ready.eq(pixels.i.ready)]
        with m.If(pixels.bad_address):
            m.d.sync += self.fault.eq(Error.ADDRESS)
        return pixels.done & ~written.o.valid, ended & ~written.o.valid

    def _residual(
        self, m: Module, load: View[StructLayout], beat: stream.Interface, start: Signal
    ) -> Value:
        out = self.x_write
        return self._words(
            m, load, beat, start, LoadKind.RESIDUAL,
            size=self._word_bytes, depth=self._config.memory.residual_words,
            out=(out.valid, out.ready, out.payload.addr, Value.cast(out.payload.data)),
        )  # fmt: skip

    def _words(
        self,
        m: Module,
        load: View[StructLayout],
        beat: stream.Interface,
        start: Signal,
        kind: LoadKind,
        *,
        size: int,
        depth: int,
        out: tuple[Value, Value, Value, Value],
    ) -> Value:
        """Words of ``size`` bytes one behind the other to ``out`` (valid, ready, address, data).

        Several words come from a beat, or a word from several beats. 1 when all are written.
        """
        valid, ready, to, data = out
        left, address = Signal.like(load.beats), Signal.like(load.target)
        active = Signal()  # left != 0
        take, write, last = Signal(), Signal(), Signal()
        per_beat, per_word = BEAT_BYTES // size, size // BEAT_BYTES
        part = Signal(range(max(per_beat, per_word, 2)))
        m.d.comb += take.eq((load.kind == kind) & beat.valid & active & (~valid | ready))
        if per_beat:
            word = beat.payload.word_select(part, 8 * size)
            m.d.comb += [write.eq(take), last.eq(part == per_beat - 1)]
        else:
            earlier = Signal(8 * size - _BEAT)
            word = Cat(earlier, beat.payload)
            m.d.comb += [write.eq(take & (part == per_word - 1)), last.eq(1)]
            with m.If(take):
                m.d.sync += earlier.eq(word[_BEAT:])
        with m.If(ready):
            m.d.sync += valid.eq(0)
        with m.If(take):
            m.d.sync += part.eq(Mux(part == max(per_beat, per_word) - 1, 0, part + 1))
            with m.If(last):
                m.d.comb += beat.ready.eq(1)
                m.d.sync += [left.eq(left - 1), active.eq(left != 1)]
        with m.If(write):
            m.d.sync += address.eq(address + 1)
            with m.If(address < depth):
                m.d.sync += [valid.eq(1), to.eq(address), data.eq(word)]
            with m.Else():
                m.d.sync += self.fault.eq(Error.ADDRESS)
        with m.If(start):
            m.d.sync += [left.eq(load.beats), active.eq(1), address.eq(load.target), part.eq(0)]
        return ~active & ~valid

    def _norm(
        self, m: Module, load: View[StructLayout], beat: stream.Interface, start: Signal
    ) -> Value:
        out = self.norm
        parts = self._config.param_row_bytes // BEAT_BYTES
        left, row, part = Signal.like(load.beats), Signal.like(load.target), Signal(range(parts))
        take, active = Signal(), Signal()  # active: left != 0
        m.d.comb += take.eq(
            (load.kind == LoadKind.NORM) & beat.valid & active & (~out.valid | out.ready)
        )
        with m.If(out.ready):
            m.d.sync += out.valid.eq(0)
        with m.If(take):
            m.d.comb += beat.ready.eq(1)
            m.d.sync += [left.eq(left - 1), active.eq(left != 1), part.eq(part + 1)]
            with m.If(part == parts - 1):
                m.d.sync += [part.eq(0), row.eq(row + 1)]
            with m.If(row < self._config.memory.norm_rows):
                m.d.sync += [
                    out.valid.eq(1),
                    out.payload.row.eq(row),
                    out.payload.part.eq(part),
                    out.payload.data.eq(beat.payload),
                ]
            with m.Else():
                m.d.sync += self.fault.eq(Error.ADDRESS)
        with m.If(start):
            m.d.sync += [left.eq(load.beats), active.eq(1), row.eq(load.target), part.eq(0)]
        return Value.cast(~active & ~out.valid)
