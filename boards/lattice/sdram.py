"""Controller of a 16-bit SDR SDRAM whose clock is the core's.

A beat of a memory port is one burst of eight 16-bit words, so a row that is open gives two bytes a
cycle. Rows stay open, one a bank, until another row of the bank or a refresh is due.

Commands leave their registers on the falling edge, half a cycle before the chip's rising one, and
words are taken by a register of the rising edge (docs/ulx3s.md has the times).
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out, Signature

from moevit.hw.config import BEAT_BYTES
from moevit.hw.lib.component import Component

__all__ = ["ADDRESS_BITS", "CAPACITY", "Command", "Pads", "Sdram", "Timing", "access"]

_WORDS = BEAT_BYTES // 2
"""Words of a burst."""
_COLUMN_BITS, _BANK_BITS, _ROW_BITS = 9, 2, 13
ADDRESS_BITS = _COLUMN_BITS + _BANK_BITS + _ROW_BITS - 3
"""Of a beat."""
CAPACITY = BEAT_BYTES << ADDRESS_BITS
"""Bytes: 32 MB. Of a larger chip the rest stays unused."""
_CAS_LATENCY = 2
_MODE = _CAS_LATENCY << 4 | 0b011
"""Mode register: bursts of eight, sequential, written and read."""

access = StructLayout(
    {"address": ADDRESS_BITS, "write": 1, "data": 8 * BEAT_BYTES, "mask": BEAT_BYTES}
)
"""A beat to read, or one to write where ``mask`` is 1."""

Pads = Signature(
    {
        "command": Out(3),
        "ba": Out(_BANK_BITS),
        "a": Out(_ROW_BITS),
        "dqm": Out(2),
        "dq_o": Out(16),
        "dq_oe": Out(1),
        "dq_i": In(16),
    }
)
"""The chip's pins but clock, clock enable and select, which are constant. ``command``: RAS, CAS and
WE, active high, RAS first. Outputs change on the falling edge of the core's clock."""


class Command:
    """``command``: RAS, CAS, WE from bit 0 on."""

    NOP = 0b000
    ACTIVATE = 0b001
    READ = 0b010
    WRITE = 0b110
    PRECHARGE = 0b101
    REFRESH = 0b011
    MODE = 0b111


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Cycles of a clock: of MT48LC16M16A2-7E, AS4C32M16SB-7 and slower ones, in ns."""

    start: int
    refresh: int
    after_precharge: int
    after_activate: int
    after_refresh: int
    after_write: int

    @classmethod
    def at(cls, hz: float) -> Timing:
        """For a core at ``hz``."""

        def cycles(ns: float) -> int:
            return max(1, -(-int(ns * hz) // 10**9))

        return cls(
            start=cycles(200_000),
            refresh=cycles(7_700) - 40,  # less than a burst and a row late
            after_precharge=cycles(21),
            after_activate=cycles(21),
            after_refresh=cycles(70),
            after_write=cycles(15) + 1,
        )


class Sdram(Component):
    """Beats one after the other, in order; refreshes between them.

    Latency: 14 cycles from a read to its data where its row is open. Throughput: a beat every eight
    cycles along an open row. ``data`` cannot be stalled.

    Members
    -------
    i : In(stream of access)
    valid, data : Out
        The beats that were read, in the order in which they were asked for.
    pads : Out(Pads)
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        super().__init__(
            {
                "i": In(stream.Signature(access)),
                "valid": Out(1),
                "data": Out(8 * BEAT_BYTES),
                "pads": Out(Pads),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timing, access_ = self._timing, self.i.payload
        column = Cat(Const(0, 3), access_.address[: _COLUMN_BITS - 3])
        bank = access_.address[_COLUMN_BITS - 3 : _COLUMN_BITS - 3 + _BANK_BITS]
        row = access_.address[-_ROW_BITS:]
        opened = Signal(1 << _BANK_BITS)
        rows = Array(Signal(_ROW_BITS, name=f"row_{n}") for n in range(1 << _BANK_BITS))
        # Of the access at the front, looked up a cycle ahead of its use.
        is_open, hit = Signal(), Signal()
        command, a, ba = Signal(3), Signal(_ROW_BITS), Signal(_BANK_BITS)
        wait, turn = Signal(range(max(timing.start, 32) + 1), init=timing.start), Signal(4)
        due, until = Signal(), Signal(range(timing.refresh + 1), init=timing.refresh)
        looked = Signal()  # the access was there a cycle ago, so what is known is of it
        m.d.sync += looked.eq(self.i.valid & ~self.i.ready)
        m.d.comb += [is_open.eq(opened.bit_select(bank, 1)), hit.eq(is_open & (rows[bank] == row))]
        known, known_hit = Signal(), Signal()  # registers of these two
        m.d.sync += [known.eq(is_open), known_hit.eq(hit), command.eq(Command.NOP)]
        m.d.sync += [
            until.eq(Mux(until == 0, timing.refresh, until - 1)),
            turn.eq(turn - (turn != 0)),
        ]
        with m.If(until == 0):
            m.d.sync += due.eq(1)
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)

        begin_read, begin_write = Signal(), Signal()
        with m.FSM():
            # Each state acts when the chip is free, and says how long it is not then.
            for n, (name, code, after) in enumerate(
                (
                    ("START", Command.PRECHARGE, timing.after_precharge),
                    ("START_1", Command.REFRESH, timing.after_refresh),
                    ("START_2", Command.REFRESH, timing.after_refresh),
                    ("START_3", Command.MODE, 2),
                )
            ):
                with m.State(name):
                    with m.If(wait == 0):
                        m.d.sync += [
                            command.eq(code),
                            a.eq(_MODE if code == Command.MODE else 1 << 10),  # all banks
                            ba.eq(0),
                            wait.eq(after),
                        ]
                        m.next = f"START_{n + 1}" if n < 3 else "LOOK"
            with m.State("LOOK"):  # what is known is of the rows as they are now
                m.next = "READY"
            with m.State("READY"):
                with m.If(wait != 0):
                    pass
                with m.Elif(due):
                    m.d.sync += [
                        command.eq(Command.PRECHARGE),
                        a.eq(1 << 10),
                        opened.eq(0),
                        wait.eq(timing.after_precharge),
                        due.eq(0),
                    ]
                    m.next = "REFRESH"
                with m.Elif(~looked):
                    pass
                with m.Elif(known_hit & (~access_.write | (turn == 0))):
                    m.d.comb += [
                        self.i.ready.eq(1),
                        begin_read.eq(~access_.write),
                        begin_write.eq(access_.write),
                    ]
                    m.d.sync += [
                        command.eq(Mux(access_.write, Command.WRITE, Command.READ)),
                        a.eq(column),
                        ba.eq(bank),
                        wait.eq(_WORDS - 1 + Mux(access_.write, timing.after_write, 0)),
                        # Words that were read leave the bus before others are written to it.
                        turn.eq(Mux(access_.write, 0, _WORDS + _CAS_LATENCY + 1)),
                    ]
                with m.Elif(~known_hit & known):
                    m.d.sync += [
                        command.eq(Command.PRECHARGE),
                        a.eq(0),
                        ba.eq(bank),
                        opened.bit_select(bank, 1).eq(0),
                        wait.eq(timing.after_precharge),
                    ]
                    m.next = "LOOK"
                with m.Elif(~known_hit):
                    m.d.sync += [
                        command.eq(Command.ACTIVATE),
                        a.eq(row),
                        ba.eq(bank),
                        opened.bit_select(bank, 1).eq(1),
                        rows[bank].eq(row),
                        wait.eq(timing.after_activate),
                    ]
                    m.next = "LOOK"
            with m.State("REFRESH"):
                with m.If(wait == 0):
                    m.d.sync += [command.eq(Command.REFRESH), wait.eq(timing.after_refresh)]
                    m.next = "LOOK"
        self._words(m, begin_read, begin_write, command, a, ba)
        return m

    def _words(
        self,
        m: Module,
        begin_read: Signal,
        begin_write: Signal,
        command: Signal,
        a: Signal,
        ba: Signal,
    ) -> None:
        """Words out with a WRITE and behind it; words in, ``_CAS_LATENCY`` behind a READ."""
        access_, pads = self.i.payload, self.pads
        out, mask = Signal(8 * BEAT_BYTES, reset_less=True), Signal(BEAT_BYTES)
        driving = Signal(_WORDS)
        m.d.sync += [out.eq(out >> 16), mask.eq(mask >> 2), driving.eq(driving >> 1)]
        with m.If(begin_write):
            m.d.sync += [
                out.eq(access_.data),
                mask.eq(~access_.mask),
                driving.eq((1 << _WORDS) - 1),
            ]
        m.d.half += [
            pads.command.eq(command),
            pads.a.eq(a),
            pads.ba.eq(ba),
            pads.dq_o.eq(out[:16]),
            pads.dq_oe.eq(driving[0]),
            pads.dqm.eq(mask[:2]),
        ]
        # READ is at the chip one edge after its register, its first word two more, and in `taken`
        # then.
        taken = Signal(16, reset_less=True)
        ahead = Signal(_CAS_LATENCY + 2 + _WORDS)
        word = Signal(range(_WORDS))
        m.d.sync += [taken.eq(pads.dq_i), ahead.eq(Cat(begin_read, ahead))]
        coming = ahead[_CAS_LATENCY + 1 : _CAS_LATENCY + 1 + _WORDS].any()
        m.d.sync += self.valid.eq(0)
        with m.If(coming):
            m.d.sync += [
                self.data.eq(Cat(self.data[16:], taken)),
                word.eq(word + 1),
                self.valid.eq(word == _WORDS - 1),
            ]
