"""Sequencer: checks a program, hands its instructions to the engines, and ends the frame.

While the engines end a frame, the header of the next one that waits is read, its weight stream is
started behind the frame's own, and its first instructions are fetched: it then begins at once.

Every way in which a frame can fail ends here: the engines are told to give up, their bus
transactions
are awaited, everything is reset, and the device is idle with an error code.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import AcceleratorConfig
from ..interfaces import INSTRUCTION, code_word, damage_place, dial
from ..isa import Opcode
from ..lib.component import Component
from ..registers import DAMAGE_BITS, Error
from .look_ahead import LookAhead, frame_bases, header_layout

__all__ = ["QUEUES", "Sequencer"]

QUEUES: dict[str, tuple[Opcode, ...]] = {
    "load": (Opcode.LOAD,),
    "store": (Opcode.STORE,),
    "norm": (Opcode.NORM,),
    "compute": (Opcode.GEMM, Opcode.ATTENTION, Opcode.SYNC),
    "fetch": (Opcode.FETCH,),
}
"""Engine queues and the instructions that go into each."""

_PREPARED = (
    *("header_start", "header_address"),
    *("code_start", "code_address", "code_count"),
    *("stream_start", "stream_base", "stream_beats"),
)
"""What LookAhead asks for."""


class Sequencer(Component):
    """One instruction a cycle goes to its engine's queue while there is room.

    Latency: a frame starts with one header read. Back-pressure: dispatch is in program order, so a
    full queue holds back the instructions behind it.

    Members
    -------
    frames : In(stream of frame_bases)
        Frames to run; one leaves the stream when its first instruction is handed out.
    abort_request : In
        Pulse from the control registers.
    program, image, output : Out(32)
        Bases of the frame whose instructions are handed out.
    dial : Out
        Its dial.
    header_start, header_valid, header_data, header_damaged, header_address
        Header read of the data engine.
    code_start, code_address, code_count : Out
        Starts the instruction prefetcher.
    code : In(stream of code_word)
    stream_start, stream_base, stream_beats : Out
        Starts the weight stream, while ``stream_ready``.
    load, store, norm, compute, fetch : Out(stream of 256 bits)
    engines_busy, stream_busy, progress : In
        Anything unfinished but streams; a stream is; something advanced in this cycle.
    fault, place : In
        Error code of an engine, 0 if none; what of a program it found damaged.
    quiet : In
        No bus transaction in flight.
    cancel, reset : Out
        Engines give up (level); engines are reset (pulse of a few cycles).
    between : Out
        What is streamed belongs to the next frame.
    clean : Out
        Pulse between two frames without a reset: what a program may leave behind goes.
    busy, done, failed, error, damage : Out
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "frames": In(stream.Signature(frame_bases)),
                "abort_request": In(1),
                "program": Out(32),
                "image": Out(32),
                "output": Out(32),
                "dial": Out(dial),
                "header_start": Out(1),
                "header_address": Out(32),
                "header_valid": In(1),
                "header_data": In(header_layout),
                "header_damaged": In(1),
                "code_start": Out(1),
                "code_address": Out(32),
                "code_count": Out(32),
                "code": In(stream.Signature(code_word)),
                "stream_start": Out(1),
                "stream_ready": In(1),
                "stream_base": Out(32),
                "stream_beats": Out(32),
                **{name: Out(INSTRUCTION) for name in QUEUES},
                "engines_busy": In(1),
                "stream_busy": In(1),
                "progress": In(1),
                "fault": In(4),
                "place": In(damage_place),
                "quiet": In(1),
                "cancel": Out(1),
                "reset": Out(1),
                "clean": Out(1),
                "between": Out(1),
                "busy": Out(1),
                "done": Out(1),
                "failed": Out(1),
                "error": Out(4),
                "damage": Out(damage_place),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ahead = LookAhead(self._config)
        m.submodules.ahead = ResetInserter(self.cancel | self.reset)(ahead)
        connect(m, flipped(self.frames), ahead.frames)
        m.d.comb += [
            ahead.header_valid.eq(self.header_valid),
            ahead.header_data.eq(self.header_data),
            ahead.header_damaged.eq(self.header_damaged),
            ahead.stream_ready.eq(self.stream_ready),
            self.between.eq(ahead.streaming),
            *(getattr(self, name).eq(getattr(ahead, name)) for name in _PREPARED),
        ]
        looking, begin, ready, wrong = ahead.looking, ahead.begin, ahead.ready, ahead.wrong
        error = Signal(4)
        settle = Signal(5)
        limit = self._config.watchdog_cycles
        idle_cycles = Signal(range(limit + 1))
        dispatched = Signal()
        number = Signal(DAMAGE_BITS)  # of the instruction to be handed out
        running = Signal()
        aborting = Signal()  # a request may come while the header is read

        opcode = self.code.payload.word[:4]
        sound = Signal()
        m.d.comb += sound.eq(self.code.valid & ~self.code.payload.damaged)
        known, taken, halting = Signal(), Signal(), Signal()
        for name, opcodes in QUEUES.items():
            queue = getattr(self, name)
            mine = Signal(name=f"to_{name}")
            m.d.comb += [
                mine.eq(sum((opcode == int(o) for o in opcodes), start=0) != 0),
                queue.payload.eq(self.code.payload.word),
                queue.valid.eq(running & sound & mine),
            ]
            with m.If(mine):
                m.d.comb += [known.eq(1), taken.eq(running & queue.ready)]
        m.d.comb += [
            dispatched.eq(sound & taken),
            self.code.ready.eq(taken | halting),
            self.error.eq(error),
            self.busy.eq(1),
        ]
        with m.If(begin):
            m.d.sync += [
                getattr(self, name).eq(self.frames.payload[name])
                for name in ("program", "image", "output", "dial")
            ]
        with m.If(begin):
            m.d.sync += number.eq(0)
        with m.Elif(dispatched):
            m.d.sync += number.eq(number + 1)
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
                with m.If(self.frames.valid):
                    m.d.sync += [error.eq(0), self.damage.eq(0)]
                    m.next = "CLEAN"
            with m.State("CLEAN"):
                m.d.comb += self.reset.eq(1)
                m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += looking.eq(1)
                with m.If((failure != 0) | (ready & (wrong != 0))):
                    m.d.sync += [
                        error.eq(Mux(failure != 0, failure, wrong)),
                        self.damage.eq(self.place),
                    ]
                    m.next = "CANCEL"
                with m.Elif(ready):
                    m.d.comb += begin.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(failure != 0):
                    m.d.sync += [error.eq(failure), self.damage.eq(self.place)]
                    m.next = "CANCEL"
                with m.Elif(self.code.valid & self.code.payload.damaged):
                    m.d.sync += [error.eq(int(Error.CODE)), self.damage.block.eq(number)]
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
                # The instructions are all handed out, so that the next frame's may be fetched.
                m.d.comb += looking.eq(1)
                # Idle for a while: a word on its way between two engines shows up as busy.
                unfinished = self.engines_busy | (self.stream_busy & ~ahead.streaming)
                m.d.sync += settle.eq(Mux(unfinished, 0, settle + 1))
                with m.If(failure != 0):
                    m.d.sync += [
                        error.eq(failure),
                        self.damage.eq(self.place),
                        settle.eq(0),
                    ]
                    m.next = "CANCEL"
                with m.Elif(settle == 15):
                    m.next = "DONE"
            with m.State("DONE"):
                # Credits that a program left over must not reach the next frame.
                m.d.comb += [self.done.eq(1), self.clean.eq(self.frames.valid)]
                m.next = "IDLE"
                with m.If(self.frames.valid):
                    m.next = "HEADER"
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
