"""Sequencer: checks a program, hands its instructions to the engines, and ends the frame.

Every way in which a frame can fail ends here: the engines are told to give up, their bus
transactions
are awaited, everything is reset, and the device is idle with an error code.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..image import PROGRAM_MAGIC, PROGRAM_VERSION
from ..interfaces import INSTRUCTION, code_word
from ..isa import Opcode
from ..lib.component import Component
from ..registers import Error

__all__ = ["QUEUES", "Sequencer"]

QUEUES: dict[str, tuple[Opcode, ...]] = {
    "load": (Opcode.LOAD,),
    "store": (Opcode.STORE,),
    "norm": (Opcode.NORM,),
    "compute": (Opcode.GEMM, Opcode.ATTENTION, Opcode.SYNC),
    "fetch": (Opcode.FETCH,),
}
"""Engine queues and the instructions that go into each."""

_HEADER = StructLayout(
    {
        "magic": unsigned(32),
        "version": unsigned(32),
        "hash": unsigned(64),
        "code_offset": unsigned(32),
        "code_count": unsigned(32),
        "stream_offset": unsigned(32),
        "stream_beats": unsigned(32),
        "reserved": unsigned(256),
    }
)


class Sequencer(Component):
    """One instruction a cycle goes to its engine's queue while there is room.

    Latency: a frame starts with one header read. Back-pressure: dispatch is in program order, so a
    full queue holds back the instructions behind it.

    Members
    -------
    start, abort_request : In
        Pulses from the control registers.
    program : In(32)
    header_start, header_valid, header_data
        Header read of the data engine.
    code_start, code_address, code_count : Out
        Starts the instruction prefetcher.
    code : In(stream of code_word)
    stream_start, stream_base, stream_beats : Out
        Starts the weight stream.
    load, store, norm, compute, fetch : Out(stream of 256 bits)
    engines_busy, progress : In
        Anything unfinished; something advanced in this cycle.
    fault : In
        Error code of an engine, 0 if none.
    quiet : In
        No bus transaction in flight.
    cancel, reset : Out
        Engines give up (level); engines are reset (pulse of a few cycles).
    busy, done, failed, error : Out
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "abort_request": In(1),
                "bad_base": In(1),
                "program": In(32),
                "header_start": Out(1),
                "header_valid": In(1),
                "header_data": In(_HEADER),
                "code_start": Out(1),
                "code_address": Out(32),
                "code_count": Out(32),
                "code": In(stream.Signature(code_word)),
                "stream_start": Out(1),
                "stream_base": Out(32),
                "stream_beats": Out(32),
                **{name: Out(INSTRUCTION) for name in QUEUES},
                "engines_busy": In(1),
                "progress": In(1),
                "fault": In(4),
                "quiet": In(1),
                "cancel": Out(1),
                "reset": Out(1),
                "busy": Out(1),
                "done": Out(1),
                "failed": Out(1),
                "error": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        header: Any = Signal(_HEADER, reset_less=True)
        error = Signal(4)
        settle = Signal(5)
        limit = self._config.watchdog_cycles
        idle_cycles = Signal(range(limit + 1))
        dispatched = Signal()
        running = Signal()
        aborting = Signal()  # a request may come while the header is read

        opcode = self.code.payload.word[:4]
        known, taken, halting = Signal(), Signal(), Signal()
        for name, opcodes in QUEUES.items():
            queue = getattr(self, name)
            mine = Signal(name=f"to_{name}")
            m.d.comb += [
                mine.eq(sum((opcode == int(o) for o in opcodes), start=0) != 0),
                queue.payload.eq(self.code.payload.word),
                queue.valid.eq(running & self.code.valid & mine),
            ]
            with m.If(mine):
                m.d.comb += [known.eq(1), taken.eq(running & queue.ready)]
        m.d.comb += [
            dispatched.eq(self.code.valid & taken),
            self.code.ready.eq(taken | halting),
            self.error.eq(error),
            self.code_address.eq(self.program + header.code_offset),
            self.code_count.eq(header.code_count),
            self.stream_base.eq(self.program + header.stream_offset),
            self.stream_beats.eq(header.stream_beats),
            self.busy.eq(1),
        ]
        failure = Signal(4)
        with m.If(self.fault != 0):
            m.d.comb += failure.eq(self.fault)
        with m.Elif(self.abort_request | aborting):
            m.d.comb += failure.eq(int(Error.ABORTED))
        with m.Elif(idle_cycles == limit):
            m.d.comb += failure.eq(int(Error.HANG))
        # A frame that is given up has the watchdog's time once more, from then on.
        giving_up = (failure != 0) & ~self.cancel
        m.d.sync += [
            idle_cycles.eq(Mux(self.progress | dispatched | giving_up, 0, idle_cycles + 1)),
            aborting.eq(aborting | self.abort_request),
            settle.eq(0),
        ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.busy.eq(0)
                m.d.sync += [idle_cycles.eq(0), aborting.eq(0)]
                with m.If(self.start):
                    m.d.sync += error.eq(0)
                    with m.If(self.bad_base):
                        m.d.sync += error.eq(int(Error.FIELD))
                        m.next = "CANCEL"
                    with m.Else():
                        m.next = "CLEAN"
            with m.State("CLEAN"):
                # Credits that a program left over must not reach this frame.
                m.d.comb += self.reset.eq(1)
                m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.header_start.eq(1)
                m.next = "HEADER"
            with m.State("HEADER"):
                m.d.sync += header.eq(self.header_data)
                with m.If(failure != 0):
                    m.d.sync += error.eq(failure)
                    m.next = "CANCEL"
                with m.Elif(self.header_valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "CANCEL"
                with m.If((header.magic != PROGRAM_MAGIC) | (header.version != PROGRAM_VERSION)):
                    m.d.sync += error.eq(int(Error.HEADER))
                with m.Elif(header.hash != self._config.hash):
                    m.d.sync += error.eq(int(Error.HASH))
                with m.Elif(header.code_count == 0):
                    m.d.sync += error.eq(int(Error.TRUNCATED))
                with m.Else():
                    m.d.comb += [
                        self.code_start.eq(1),
                        self.stream_start.eq(header.stream_beats != 0),
                    ]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(failure != 0):
                    m.d.sync += error.eq(failure)
                    m.next = "CANCEL"
                with m.Elif(self.code.valid & (opcode == int(Opcode.HALT))):
                    m.d.comb += halting.eq(1)
                    m.next = "DRAIN"
                    with m.If(~self.code.payload.last):
                        m.d.sync += error.eq(int(Error.OPCODE))
                        m.next = "CANCEL"
                with m.Elif(self.code.valid & ~known):
                    m.d.sync += error.eq(int(Error.OPCODE))
                    m.next = "CANCEL"
                with m.Elif(dispatched & self.code.payload.last):
                    m.d.sync += error.eq(int(Error.TRUNCATED))
                    m.next = "CANCEL"
            with m.State("DRAIN"):
                # Idle for a while: a word on its way between two engines shows up as busy.
                m.d.sync += settle.eq(Mux(self.engines_busy, 0, settle + 1))
                with m.If(failure != 0):
                    m.d.sync += [error.eq(failure), settle.eq(0)]
                    m.next = "CANCEL"
                with m.Elif(settle == 15):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
            with m.State("CANCEL"):
                # A bus that never answers must not keep the device busy for ever.
                m.d.comb += self.cancel.eq(1)
                m.d.sync += settle.eq(Mux(self.quiet, settle + 1, 0))
                with m.If((settle == 15) | (idle_cycles == limit)):
                    m.d.sync += settle.eq(0)
                    m.next = "RESET"
            with m.State("RESET"):
                m.d.comb += [self.reset.eq(1), self.cancel.eq(1)]
                m.d.sync += settle.eq(settle + 1)
                with m.If(settle == 3):
                    m.d.comb += self.failed.eq(1)
                    m.next = "IDLE"
        return m
