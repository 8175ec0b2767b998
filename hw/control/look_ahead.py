"""Header of the frame that comes next: read, checked, and its streams started."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..image import PROGRAM_MAGIC, PROGRAM_VERSION
from ..interfaces import dial
from ..lib.component import Component
from ..registers import Error

__all__ = ["LookAhead", "frame_bases", "header_layout"]

frame_bases = StructLayout(
    {
        "program": unsigned(32),
        "image": unsigned(32),
        "output": unsigned(32),
        "dial": dial,
        "bad": unsigned(1),
    }
)
"""A frame to run; ``bad``: an address is not aligned as it must be."""

header_layout = StructLayout(
    {
        "magic": unsigned(32),
        "version": unsigned(32),
        "hash": unsigned(64),
        "code_offset": unsigned(32),
        "code_count": unsigned(32),
        "stream_offset": unsigned(32),
        "stream_beats": unsigned(32),
        "reserved": unsigned(224),
        "check": unsigned(32),
    }
)
"""The beginning of a program (hw/image.py)."""


class LookAhead(Component):
    """Prepares the oldest frame that waits, up to its first instruction.

    Between two frames nobody asks for instructions, and weights run on from one stream to the next.
    A reset drops what was prepared.

    Members
    -------
    frames : In(stream of frame_bases)
        The frame stays until ``begin``.
    looking : In
        The prefetcher is free for a header and code.
    begin : In
        Pulse while ``ready``: the frame's instructions are handed out from now on.
    ready, wrong : Out
        The header has been looked at; an error code, or 0 and its streams are started.
    streaming : Out
        A weight stream that belongs to this frame has been started.
    header_start, header_address, header_valid, header_data, header_damaged
        Header read of the data engine.
    code_start, code_address, code_count : Out
        Starts the instruction prefetcher.
    stream_start, stream_ready, stream_base, stream_beats
        Starts the weight stream.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "frames": In(stream.Signature(frame_bases)),
                "looking": In(1),
                "begin": In(1),
                "ready": Out(1),
                "wrong": Out(4),
                "streaming": Out(1),
                "header_start": Out(1),
                "header_address": Out(32),
                "header_valid": In(1),
                "header_data": In(header_layout),
                "header_damaged": In(1),
                "code_start": Out(1),
                "code_address": Out(32),
                "code_count": Out(32),
                "stream_start": Out(1),
                "stream_ready": In(1),
                "stream_base": Out(32),
                "stream_beats": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        frame = self.frames.payload
        header: Any = Signal(header_layout, reset_less=True)
        m.d.comb += [
            self.frames.ready.eq(self.begin),
            self.header_address.eq(frame.program),
            self.code_address.eq(frame.program + header.code_offset),
            self.code_count.eq(header.code_count),
            self.stream_base.eq(frame.program + header.stream_offset),
            self.stream_beats.eq(header.stream_beats),
        ]
        with m.FSM():
            with m.State("WAIT"):
                m.d.sync += self.wrong.eq(0)
                with m.If(self.looking & self.frames.valid):
                    m.next = "READ"
                    with m.If(frame.bad):
                        m.d.sync += self.wrong.eq(int(Error.FIELD))
                        m.next = "READY"
            with m.State("READ"):
                m.d.comb += self.header_start.eq(1)
                m.next = "HEADER"
            with m.State("HEADER"):
                m.d.sync += header.eq(self.header_data)
                with m.If(self.header_valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "READY"
                wrong_kind = (header.magic != PROGRAM_MAGIC) | (header.version != PROGRAM_VERSION)
                with m.If(wrong_kind | self.header_damaged):
                    m.d.sync += self.wrong.eq(int(Error.HEADER))
                with m.Elif(header.hash != self._config.hash):
                    m.d.sync += self.wrong.eq(int(Error.HASH))
                with m.Elif(header.code_count == 0):
                    m.d.sync += self.wrong.eq(int(Error.TRUNCATED))
                with m.Else():
                    m.next = "START"
            with m.State("START"):
                some = header.stream_beats != 0
                with m.If(self.stream_ready | ~some):
                    m.d.comb += [self.stream_start.eq(some), self.code_start.eq(1)]
                    m.d.sync += self.streaming.eq(some)
                    m.next = "READY"
            with m.State("READY"):
                m.d.comb += self.ready.eq(1)
                with m.If(self.begin):
                    m.d.sync += self.streaming.eq(0)
                    m.next = "WAIT"
        return m
