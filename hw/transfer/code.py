"""Program header and instruction prefetch of the data engine."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import enum, stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..checks import CODE_GROUP
from ..config import BEAT_BYTES
from ..image import HEADER_BYTES
from ..interfaces import code_word
from ..isa import INSTRUCTION_BYTES
from ..lib import fifo
from ..lib.component import Component
from ..lib.crc import CRC_BITS, BlockCheck, Fold
from ..registers import DAMAGE_BITS
from . import bursts

__all__ = ["BURST", "CAPACITY", "CodeStart", "Prefetcher"]

CAPACITY = 16 * INSTRUCTION_BYTES // BEAT_BYTES
"""Beats of the instructions that wait for the sequencer, those on their way included."""
BURST = CAPACITY // 2
"""One half is refilled while the other is used."""

CodeStart = StructLayout({"start": 1, "address": 32, "count": 32})
"""Pulse, address and number of instructions."""


_INSTRUCTION_SHIFT = ceil_log2(INSTRUCTION_BYTES // BEAT_BYTES)
_GROUP_SHIFT = ceil_log2(CODE_GROUP)
_GROUP_BEATS = 1 + (CODE_GROUP << _INSTRUCTION_SHIFT)
_HEADER_BEATS = HEADER_BYTES // BEAT_BYTES


class _State(enum.Enum):
    IDLE = 0
    CLEAR = 1
    """drop what is there and on its way"""
    ASK = 2
    HEADER = 3
    CODE = 4


class Prefetcher(Component):
    """Reads the program header, and then instructions ahead of the sequencer.

    Each start drops whatever was left of the one before, also beats that are still on their way. An
    instruction every two cycles, less one for each group's beat of checks (hw/checks.py). Checks
    are compared as the beats come: an instruction that is handed out has been looked at.

    Members
    -------
    program, header_start, header_valid, header_data, header_damaged:
        In(32), In pulse, Out(1), Out(512), Out(1). The 64 bytes at ``program``, and whether their
        CRC is another; ``header_valid`` stays until the next start.
    code, code_o:
        In(:data:`CodeStart`), Out(stream of ``sequencer.code_word``). ``last`` marks the
        ``count``-th, ``damaged`` one that is not to be executed, behind which none comes. None come
        for a count of 0.
    job, beat, data, freed, cancel, idle:
        One requester of a :class:`bursts.Reader`.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "program": In(32),
                "header_start": In(1),
                "header_valid": Out(1),
                "header_data": Out(8 * HEADER_BYTES),
                "header_damaged": Out(1),
                "code": In(CodeStart),
                "code_o": Out(stream.Signature(code_word)),
                "job": Out(stream.Signature(bursts.Job)),
                "beat": In(1),
                "data": In(8 * BEAT_BYTES),
                "freed": Out(1),
                "cancel": Out(1),
                "idle": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = fifo.MemoryFifo(unsigned(8 * BEAT_BYTES), depth=CAPACITY)
        beat = queue.o
        state, header = Signal(_State), Signal()
        left, last = Signal(32), Signal()  # beats of a header, or instructions
        low, some = (
            Signal(8 * BEAT_BYTES),
            Signal(),
        )  # an instruction's first beat, and there is one
        group = Signal(range(_GROUP_BEATS))  # the coming beat's place in its group
        is_checks = Signal()
        m.d.comb += is_checks.eq(group == 0)
        looked_at, some_good, damaged = self._check(m, state, header)
        complete = Signal()  # the header is
        m.d.comb += [
            queue.i.valid.eq(self.beat),
            queue.i.payload.eq(self.data),
            self.freed.eq(beat.valid & beat.ready),
            self.code_o.payload.word.eq(Cat(low, beat.payload)),
            self.code_o.payload.last.eq(last),
            self.code_o.payload.damaged.eq(~some_good),
            self.header_valid.eq(complete & looked_at),
        ]
        address, beats = Signal(32), Signal(32)
        m.d.comb += [self.job.payload.address.eq(address), self.job.payload.beats.eq(beats)]
        groups = (left + (CODE_GROUP - 1)) >> _GROUP_SHIFT

        with m.Switch(state):
            with m.Case(_State.CLEAR):
                m.d.comb += [self.cancel.eq(1), queue.clear.eq(1)]
                m.d.sync += [
                    some.eq(0),
                    group.eq(0),
                    beats.eq(Mux(header, left, (left << _INSTRUCTION_SHIFT) + groups)),
                ]
                with m.If(self.idle):
                    m.d.sync += state.eq(_State.ASK)
            with m.Case(_State.ASK):
                m.d.comb += self.job.valid.eq(1)
                m.d.sync += last.eq(left == 1)
                with m.If(self.job.ready):
                    m.d.sync += state.eq(Mux(header, _State.HEADER, _State.CODE))
            with m.Case(_State.HEADER):
                m.d.comb += beat.ready.eq(1)
                with m.If(beat.valid):
                    m.d.sync += [
                        self.header_data.eq(Cat(self.header_data, beat.payload)[8 * BEAT_BYTES :]),
                        left.eq(left - 1),
                    ]
                    with m.If(left == 1):
                        m.d.sync += [complete.eq(1), state.eq(_State.IDLE)]
            with m.Case(_State.CODE):
                passes = some_good | damaged
                m.d.comb += [
                    beat.ready.eq(~some | (self.code_o.ready & passes)),
                    self.code_o.valid.eq(some & beat.valid & passes),
                ]
                with m.If(beat.valid & beat.ready):
                    m.d.sync += group.eq(Mux(group == _GROUP_BEATS - 1, 0, group + 1))
                    with m.If(is_checks):
                        pass  # they have been used as they came
                    with m.Elif(~some):
                        m.d.sync += [low.eq(beat.payload), some.eq(1)]
                    with m.Else():
                        m.d.sync += [left.eq(left - 1), last.eq(left == 2), some.eq(0)]

        # A start goes before everything else.
        with m.If(self.header_start):
            m.d.sync += [
                state.eq(_State.CLEAR),
                header.eq(1),
                complete.eq(0),
                address.eq(self.program),
                left.eq(_HEADER_BEATS),
            ]
        with m.Elif(self.code.start):
            m.d.sync += [
                state.eq(_State.CLEAR),
                header.eq(0),
                address.eq(self.code.address),
                left.eq(self.code.count),
            ]
        return m

    def _check(self, m: Module, state: Signal, header: Signal) -> tuple[Signal, Signal, Signal]:
        """Compares CRCs on the way in: of the header, of each instruction.

        Returns "the header has been looked at", "a good instruction has not been handed out" and
        "behind the good ones comes a damaged one".
        """
        m.submodules.fold = fold = Fold()
        m.submodules.check = check = BlockCheck(unsigned(1))
        clear = state == _State.CLEAR
        place = Signal(range(_GROUP_BEATS))  # of the beat that comes: in its group, in the header
        checks = Signal(8 * BEAT_BYTES)  # of the instructions to come, the next one's first
        number = Signal(DAMAGE_BITS)
        is_last = Signal()
        starts = Signal()  # an instruction's first beat is folded
        m.d.comb += [
            fold.i.eq(self.data),
            check.folded.eq(fold.o),
            check.clear.eq(clear),
            check.checked.eq(1),
            check.expected.eq(Mux(header, 0, checks[:CRC_BITS] ^ number)),
        ]
        with m.If(header):
            m.d.comb += is_last.eq(place == _HEADER_BEATS - 1)
        with m.Else():
            m.d.comb += is_last.eq(~place[0])
        m.d.sync += [
            check.beat.eq(self.beat & (header | (place != 0))),
            check.last.eq(is_last),
            starts.eq(self.beat & ~header & place[0]),
        ]
        with m.If(self.beat):
            m.d.sync += place.eq(Mux(place == _GROUP_BEATS - 1, 0, place + 1))
        with m.If(self.beat & (place == 0)):
            m.d.sync += checks.eq(self.data)
        with m.Elif(starts):
            m.d.sync += [checks.eq(checks >> CRC_BITS), number.eq(number + 1)]

        good = Signal(range(CAPACITY + 1))  # instructions
        looked_at, some_good, damaged = Signal(), Signal(), Signal()
        handed, more = self.code_o.valid & self.code_o.ready, Signal()
        m.d.comb += [
            more.eq(check.done & ~check.damaged & ~damaged & ~header),
            some_good.eq(good != 0),
        ]
        m.d.sync += good.eq(good + more - (handed & some_good))
        with m.If(check.done):
            m.d.sync += looked_at.eq(1)
            with m.If(check.damaged):
                m.d.sync += damaged.eq(1)
        m.d.comb += self.header_damaged.eq(damaged)
        with m.If(clear | self.header_start | self.code.start):
            m.d.sync += [
                place.eq(0),
                number.eq(0),
                good.eq(0),
                looked_at.eq(0),
                damaged.eq(0),
                check.beat.eq(0),
                starts.eq(0),
            ]
        return looked_at, some_good, damaged
