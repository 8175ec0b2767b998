"""Program header and instruction prefetch of the data engine."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import enum, stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..config import BEAT_BYTES
from ..image import HEADER_BYTES
from ..interfaces import code_word
from ..isa import INSTRUCTION_BYTES
from ..lib import fifo
from ..lib.component import Component
from . import bursts

__all__ = ["BURST", "CAPACITY", "CodeStart", "Prefetcher"]

CAPACITY = 16 * INSTRUCTION_BYTES // BEAT_BYTES
"""Beats of the instructions that wait for the sequencer, those on their way included."""
BURST = CAPACITY // 2
"""One half is refilled while the other is used."""

CodeStart = StructLayout({"start": 1, "address": 32, "count": 32})
"""Pulse, address and number of instructions."""


_INSTRUCTION_SHIFT = ceil_log2(INSTRUCTION_BYTES // BEAT_BYTES)


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
    instruction every two cycles.

    Members
    -------
    program, header_start, header_valid, header_data:
        In(32), In pulse, Out(1), Out(512). The 64 bytes at ``program``; ``header_valid`` stays
        until the next start.
    code, code_o:
        In(:data:`CodeStart`), Out(stream of ``sequencer.code_word``). ``last`` marks the
        ``count``-th. None come for a count of 0.
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
        m.d.comb += [
            queue.i.valid.eq(self.beat),
            queue.i.payload.eq(self.data),
            self.freed.eq(beat.valid & beat.ready),
            self.code_o.payload.word.eq(Cat(low, beat.payload)),
            self.code_o.payload.last.eq(last),
            self.job.payload.beats.eq(Mux(header, left, left << _INSTRUCTION_SHIFT)),
        ]
        address = Signal(32)
        m.d.comb += self.job.payload.address.eq(address)

        with m.Switch(state):
            with m.Case(_State.CLEAR):
                m.d.comb += [self.cancel.eq(1), queue.clear.eq(1)]
                m.d.sync += some.eq(0)
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
                        m.d.sync += [self.header_valid.eq(1), state.eq(_State.IDLE)]
            with m.Case(_State.CODE):
                m.d.comb += [
                    beat.ready.eq(~some | self.code_o.ready),
                    self.code_o.valid.eq(some & beat.valid),
                ]
                with m.If(beat.valid & beat.ready):
                    m.d.sync += some.eq(~some)
                    with m.If(~some):
                        m.d.sync += low.eq(beat.payload)
                    with m.Else():
                        m.d.sync += [left.eq(left - 1), last.eq(left == 2)]

        # A start goes before everything else.
        with m.If(self.header_start):
            m.d.sync += [
                state.eq(_State.CLEAR),
                header.eq(1),
                self.header_valid.eq(0),
                address.eq(self.program),
                left.eq(HEADER_BYTES // BEAT_BYTES),
            ]
        with m.Elif(self.code.start):
            m.d.sync += [
                state.eq(_State.CLEAR),
                header.eq(0),
                address.eq(self.code.address),
                left.eq(self.code.count),
            ]
        return m
