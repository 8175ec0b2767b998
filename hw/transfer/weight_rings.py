"""Rings of rows: wide memories of which each weight port writes some columns."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Value, unsigned
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ..config import BEAT_BYTES
from ..interfaces import ReadPort
from ..lib.component import Component
from ..lib.storage import BANK_BITS, Memory

__all__ = ["Ring", "RowWrite"]


def RowWrite(*, rows: int, beats: int, lanes: int = 1) -> Signature:  # noqa: N802 (a signature)
    """Up to ``lanes`` neighbouring beats of one port's share of a row.

    ``en`` has one bit for each of the ``beats`` of a share; beat b is in lane ``b % lanes``.
    """
    return Signature(
        {"en": Out(beats), "row": Out(ceil_log2(rows)), "data": Out(8 * BEAT_BYTES * lanes)}
    )


class Ring(Component):
    """``rows`` rows of ``ports * beats`` beats in banks of 64 bits.

    A row may be read from the cycle after its last write. Port p writes bytes ``16 * p * beats ..``
    of every row, up to ``lanes`` beats a cycle.

    Members
    -------
    write:
        In(:func:`RowWrite`).array(ports), any number of ports in a cycle.
    read:
        In(ReadPort of a whole row), data one cycle after ``en``.
    """

    def __init__(self, *, rows: int, beats: int, ports: int, lanes: int = 1) -> None:
        self._rows, self._beats, self._lanes = rows, beats, lanes
        super().__init__(
            {
                "write": In(RowWrite(rows=rows, beats=beats, lanes=lanes)).array(ports),
                "read": In(ReadPort(ceil_log2(rows), 8 * BEAT_BYTES * beats * ports)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words: list[Value] = []
        for write in self.write:
            for beat in range(self._beats):
                lane = 8 * BEAT_BYTES * (beat % self._lanes)
                for low in range(lane, lane + 8 * BEAT_BYTES, BANK_BITS):
                    m.submodules[f"bank{len(words)}"] = bank = Memory(
                        shape=unsigned(BANK_BITS), depth=self._rows, init=[]
                    )
                    write_port, read_port = bank.write_port(), bank.read_port()
                    m.d.comb += [
                        write_port.en.eq(write.en[beat]),
                        write_port.addr.eq(write.row),
                        write_port.data.eq(write.data[low : low + BANK_BITS]),
                        read_port.en.eq(self.read.en),
                        read_port.addr.eq(self.read.addr),
                    ]
                    words.append(read_port.data)
        m.d.comb += self.read.data.eq(Cat(words))
        return m
