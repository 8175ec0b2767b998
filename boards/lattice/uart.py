"""A serial line, 8 bits, no parity, one stop bit."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from moevit.hw.lib.component import Component

__all__ = ["Receiver", "Transmitter"]

_BITS = 8


class Receiver(Component):
    """Bytes of a line, ``divisor`` cycles a bit. A byte without its stop bit is dropped.

    Members
    -------
    line : In
        From the pin; it is synchronised here.
    valid, byte : Out
        A byte has come. It cannot be refused.
    """

    def __init__(self, divisor: int) -> None:
        if divisor < 4:
            raise ValueError(f"A bit must last 4 cycles or more, not {divisor}")
        self._divisor = divisor
        super().__init__({"line": In(1), "valid": Out(1), "byte": Out(_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        early, line = Signal(init=1), Signal(init=1)
        timer, left = Signal(range(2 * self._divisor)), Signal(range(_BITS + 2))
        m.d.sync += [early.eq(self.line), line.eq(early), self.valid.eq(0)]
        with m.If(left == 0):
            with m.If(~line):  # to the middle of the first bit
                m.d.sync += [left.eq(_BITS + 1), timer.eq(self._divisor + self._divisor // 2 - 2)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divisor - 1), left.eq(left - 1)]
            with m.If(left == 1):
                m.d.sync += self.valid.eq(line)
            with m.Else():
                m.d.sync += self.byte.eq(Cat(self.byte[1:], line))
        return m


class Transmitter(Component):
    """Bytes to a line, ``divisor`` cycles a bit.

    Members
    -------
    i : In(stream of bytes)
    line : Out
    """

    def __init__(self, divisor: int) -> None:
        self._divisor = divisor
        super().__init__(
            {
                "i": In(stream.Signature(unsigned(_BITS))),
                "line": Out(1, init=1),  # type: ignore[call-arg]  # not in the stubs
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer, left = Signal(range(self._divisor)), Signal(range(_BITS + 3))
        bits = Signal(_BITS + 1, init=-1)
        m.d.comb += self.i.ready.eq(left == 0)
        m.d.sync += self.line.eq(bits[0])
        with m.If(left == 0):
            with m.If(self.i.valid):
                m.d.sync += [
                    bits.eq(Cat(Const(0, 1), self.i.payload)),
                    left.eq(_BITS + 2),
                    timer.eq(self._divisor - 1),
                ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self._divisor - 1),
                left.eq(left - 1),
                bits.eq(Cat(bits[1:], Const(1, 1))),
            ]
        return m
