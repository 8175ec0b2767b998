"""The STORE half of the data engine: rows of words to write bursts."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..config import BEAT_BYTES, AcceleratorConfig
from ..interfaces import ActivationRead, AxiWrite, GiveSignature, ResidualRead, TakeSignature
from ..lib import fifo
from ..lib.component import Component
from ..registers import Error
from . import bursts

__all__ = ["StoreEngine", "Writer"]

_BEAT = 8 * BEAT_BYTES
_BEAT_SHIFT = ceil_log2(BEAT_BYTES)
_OPEN_BURSTS = 15
_AHEAD = 4
"""Words read ahead of the bus, rows asked for ahead of the bursts, bursts ahead of their data."""


class Writer(Component):
    """Writes jobs as bursts that end at multiples of ``burst`` beats, several open at a time.

    Members
    -------
    job:
        In(stream of :data:`bursts.Job`).
    i:
        In(stream of a beat). The data of the jobs, in order.
    cancel:
        In(1). No further burst; those already issued are completed with no byte enabled. Held until
        reset.
    idle, quiet:
        Out(1). No job and nothing in flight; nothing in flight.
    error:
        Out(1), held. A burst was answered with an error.
    axi:
        Out(AxiWrite).
    """

    def __init__(self, *, burst: int) -> None:
        self._burst = burst
        super().__init__(
            {
                "job": In(stream.Signature(bursts.Job)),
                "i": In(stream.Signature(unsigned(_BEAT))),
                "cancel": In(1),
                "idle": Out(1),
                "quiet": Out(1),
                "error": Out(1),
                "axi": Out(AxiWrite),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, burst, job = self.axi, self._burst, self.job
        m.submodules.lengths = lengths = fifo.MemoryFifo(unsigned(ceil_log2(burst)), depth=_AHEAD)

        # Addresses: measure a burst, then issue it together with its length for the data.
        address, left = Signal(32 - _BEAT_SHIFT), Signal(32)
        active, measured = Signal(), Signal()
        length, edge = Signal(range(burst + 1)), Signal(range(burst + 1))
        opened = Signal(range(_OPEN_BURSTS + 1))
        issue, answered = Signal(), Signal()
        m.d.comb += [
            job.ready.eq(~active & ~self.cancel),
            edge.eq(burst - address[: ceil_log2(burst)]),
            issue.eq(
                measured
                & (~axi.awvalid | axi.awready)
                & lengths.i.ready
                & (opened != _OPEN_BURSTS)
                & ~self.cancel
            ),
            lengths.i.valid.eq(issue),
            lengths.i.payload.eq(length - 1),
            axi.bready.eq(1),
            answered.eq(axi.bvalid),
            self.quiet.eq(opened == 0),
            self.idle.eq(~active & self.quiet),
        ]
        m.d.sync += opened.eq(opened + issue - answered)
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(active & ~measured):
            m.d.sync += [length.eq(Mux(left < edge, left, edge)), measured.eq(1)]
        with m.If(issue):
            m.d.sync += [
                axi.awvalid.eq(1),
                axi.awaddr.eq(Cat(Const(0, _BEAT_SHIFT), address)),
                axi.awlen.eq(length - 1),
                address.eq(address + length),
                left.eq(left - length),
                active.eq(left != length),
                measured.eq(0),
            ]
        with m.If(job.valid & job.ready):
            m.d.sync += [
                address.eq(job.payload.address[_BEAT_SHIFT:]),
                left.eq(job.payload.beats),
                active.eq(job.payload.beats != 0),
            ]
        with m.If(axi.bvalid & axi.bresp[1]):
            m.d.sync += self.error.eq(1)

        # Data: a beat waits in registers, so that what is offered never changes.
        beats, sending, load = Signal(ceil_log2(burst)), Signal(), Signal()  # beats after this one
        m.d.comb += [
            load.eq(sending & (self.i.valid | self.cancel) & (~axi.wvalid | axi.wready)),
            self.i.ready.eq(sending & (~axi.wvalid | axi.wready)),
            lengths.o.ready.eq(~sending | (load & (beats == 0))),
        ]
        with m.If(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        with m.If(load):
            m.d.sync += [
                axi.wvalid.eq(1),
                axi.wdata.eq(self.i.payload),
                axi.wstrb.eq(Mux(self.cancel, 0, -1)),
                axi.wlast.eq(beats == 0),
                beats.eq(beats - 1),
            ]
        with m.If(lengths.o.ready):
            m.d.sync += [sending.eq(lengths.o.valid), beats.eq(lengths.o.payload)]
        return m


class StoreEngine(Component):
    """Executes STOREs one after the other; the next begins when all answers have come.

    Words are read ahead while the bus is busy, only when ``grant`` is given. A row's bursts are
    asked for when the credit of its tile has been taken. Throughput: a word or a beat a cycle, less
    one cycle a row.

    Members
    -------
    i:
        In(stream of ``isa.Store.layout()``).
    output:
        In(32). Base.
    take, give:
        Out. One credit is given when the last answer has come.
    a_read, a_grant, x_read, x_grant:
        Out(ReadPort), In(1): the word is read in a cycle in which both ``en`` and the grant are 1.
    axi:
        Out(AxiWrite).
    cancel, quiet, busy:
        In(1), Out(1), Out(1), as in :class:`Writer`; ``busy`` includes waiting instructions.
    fault:
        Out(Error). FIELD, ADDRESS or WRITE; held.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._word_bytes = (config.array.inputs, 2 * config.array.outputs)  # of A and of X
        super().__init__(
            {
                "i": In(stream.Signature(isa.Store.layout())),
                "output": In(32),
                "take": Out(TakeSignature),
                "give": Out(GiveSignature),
                "a_read": Out(ActivationRead(config)),
                "a_grant": In(1),
                "x_read": Out(ResidualRead(config)),
                "x_grant": In(1),
                "axi": Out(AxiWrite),
                "cancel": In(1),
                "quiet": Out(1),
                "busy": Out(1),
                "fault": Out(Error),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, store, take = self._config, self.i.payload, self.take
        m.submodules.writer = writer = Writer(burst=bursts.longest(config))
        m.submodules.rows = rows = fifo.MemoryFifo(bursts.Job, depth=_AHEAD)
        m.submodules.words = words = fifo.MemoryFifo(
            unsigned(8 * max(self._word_bytes)), depth=_AHEAD
        )
        wiring.connect(m, rows.o, writer.job)
        wiring.connect(m, wiring.flipped(self.axi), writer.axi)
        m.d.comb += [
            writer.cancel.eq(self.cancel),
            self.quiet.eq(writer.quiet),
            self.busy.eq(self.i.valid | ~writer.idle),
        ]
        with m.If(writer.error & (self.fault == Error.NONE)):
            m.d.sync += self.fault.eq(Error.WRITE)

        address = Signal(isa.ADDRESS_BITS)
        want, granted, outside = Signal(), Signal(), Signal()
        reserved = Signal(range(_AHEAD + 1))
        self._read(m, address, want, granted, outside, reserved, words)
        self._beats(m, words.o, writer.i)
        row_beats, bad_words = self._row_beats(m)
        row_at, row_address = Signal.like(address), Signal(32)
        rows_left, words_left = Signal.like(store.rows), Signal.like(store.words)
        in_tile, first = Signal(range(config.array.tokens)), Signal()
        m.d.comb += [
            take.id.eq(store.wait),
            take.count.eq(Mux(store.wait_count == 0, 1, store.wait_count)),
            self.give.id.eq(store.signal),
            self.give.count.eq(1),
            rows.i.payload.address.eq(row_address),
            rows.i.payload.beats.eq(row_beats),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.i.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):  # the sizes are registered
                m.d.sync += [
                    row_at.eq(store.source),
                    row_address.eq(self.output + store.address),
                    rows_left.eq(store.rows),
                    in_tile.eq(0),
                    first.eq(1),
                ]
                m.next = "TILE"
                with m.If(
                    (store.words == 0)
                    | (store.rows == 0)
                    | bad_words
                    | store.address[:_BEAT_SHIFT].any()
                    | store.pitch[:_BEAT_SHIFT].any()
                ):
                    m.d.sync += self.fault.eq(Error.FIELD)
                    m.next = "BAD"
            with m.State("TILE"):
                m.d.sync += first.eq(0)
                with m.If((store.wait != 0) & ((store.wait_count == 0) | first)):
                    m.d.comb += take.valid.eq(1)
                    with m.If(take.ready):
                        m.next = "ROW"
                    with m.Else():
                        m.d.sync += first.eq(first)
                with m.Else():
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.comb += rows.i.valid.eq(1)
                m.d.sync += [address.eq(row_at), words_left.eq(store.words)]
                with m.If(rows.i.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += want.eq((reserved != _AHEAD) & ~outside & ~self.cancel)
                with m.If(outside):
                    m.d.sync += self.fault.eq(Error.ADDRESS)
                    m.next = "BAD"
                with m.If(granted):
                    m.d.sync += [address.eq(address + 1), words_left.eq(words_left - 1)]
                    with m.If(words_left == 1):
                        m.d.sync += [
                            row_at.eq(row_at + store.stride),
                            row_address.eq(row_address + store.pitch),
                            rows_left.eq(rows_left - 1),
                            in_tile.eq(in_tile + 1),
                        ]
                        m.next = "ROW"
                        with m.If(in_tile == config.array.tokens - 1):
                            m.d.sync += in_tile.eq(0)
                            m.next = "TILE"
                        with m.If(rows_left == 1):
                            m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(rows.empty & writer.idle & (reserved == 0)):
                    m.d.comb += [self.i.ready.eq(1), self.give.valid.eq(store.signal != 0)]
                    m.next = "IDLE"
            with m.State("BAD"):
                pass
        return m

    def _read(
        self,
        m: Module,
        address: Signal,
        want: Signal,
        granted: Signal,
        outside: Signal,
        reserved: Signal,
        words: fifo.MemoryFifo,
    ) -> None:
        """A granted word goes to the queue one cycle later."""
        store, config, got = self.i.payload, self._config, Signal()
        depths = (config.memory.activation_words, config.memory.residual_words)
        m.d.comb += [
            outside.eq(address >= Mux(store.residual, depths[1], depths[0])),
            self.a_read.en.eq(want & ~store.residual),
            self.x_read.en.eq(want & store.residual),
            self.a_read.addr.eq(address),
            self.x_read.addr.eq(address),
            granted.eq(want & Mux(store.residual, self.x_grant, self.a_grant)),
            words.i.valid.eq(got),
            words.i.payload.eq(Mux(store.residual, Value.cast(self.x_read.data), self.a_read.data)),
        ]
        m.d.sync += [
            got.eq(granted),
            reserved.eq(reserved + granted - (words.o.valid & words.o.ready)),
        ]

    def _row_beats(self, m: Module) -> tuple[Signal, Signal]:
        """Beats of a row, and whether its words are no whole beats."""
        store = self.i.payload
        row_beats, bad_words = Signal(len(store.words) + 8), Signal()
        sizes = [
            (
                (store.words * size) >> _BEAT_SHIFT,
                store.words[: ceil_log2(BEAT_BYTES // size)].any()
                if size < BEAT_BYTES
                else Const(0, 1),
            )
            for size in self._word_bytes
        ]
        m.d.sync += [
            row_beats.eq(Mux(store.residual, sizes[1][0], sizes[0][0])),
            bad_words.eq(Mux(store.residual, sizes[1][1], sizes[0][1])),
        ]
        return row_beats, bad_words

    def _beats(self, m: Module, word: stream.Interface, beat: stream.Interface) -> None:
        """Several words to a beat, or one or more beats from a word."""
        part = Signal(4)
        with m.If(beat.valid & beat.ready):
            m.d.sync += part.eq(part + 1)
            with m.If(word.ready):
                m.d.sync += part.eq(0)
        with m.Switch(self.i.payload.residual):
            for kind, size in enumerate(self._word_bytes):
                with m.Case(kind):
                    if size < BEAT_BYTES:
                        per_beat, bits = BEAT_BYTES // size, 8 * size
                        place = Signal(range(per_beat), name=f"place_{kind}")
                        earlier = Signal(_BEAT - bits, name=f"earlier_{kind}")
                        whole = Cat(earlier, word.payload[:bits])
                        last = place == per_beat - 1
                        m.d.comb += [
                            beat.payload.eq(whole),
                            beat.valid.eq(word.valid & last),
                            word.ready.eq(~last | beat.ready),
                        ]
                        with m.If(word.valid & word.ready):
                            m.d.sync += [
                                place.eq(Mux(last, 0, place + 1)),
                                earlier.eq(whole[bits:]),
                            ]
                    else:
                        count = size // BEAT_BYTES
                        m.d.comb += [
                            beat.payload.eq(
                                word.payload.word_select(part[: ceil_log2(count)], _BEAT)
                                if count > 1
                                else word.payload
                            ),
                            beat.valid.eq(word.valid),
                            word.ready.eq(beat.ready & (part == count - 1)),
                        ]
