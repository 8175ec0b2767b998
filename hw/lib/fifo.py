"""Typed queues: `amaranth.lib.fifo` with the payload's shape kept, in memory banks of 64 bits."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from .component import Component
from .storage import BANK_BITS, Memory

__all__ = ["MemoryFifo"]


class MemoryFifo(Component):
    """A first-in first-out queue of any payload.

    ``depth`` entries lie in a memory with a synchronous read port, one more in its output register.
    Latency is two cycles from ``i`` to ``o``; throughput is one entry a cycle. ``i.ready`` and
    ``o.valid`` depend on registers only, so that a queue cuts every path between its two sides.

    Parameters
    ----------
    shape:
        Payload of both streams, any Amaranth shape.
    depth:
        Entries in the memory, at least 1.

    Members
    -------
    i, o:
        In and Out(stream of ``shape``).
    clear:
        In(1). Drops all entries and whatever is offered in the same cycle.
    empty:
        Out(1). No entry anywhere.

    Raises
    ------
    ValueError
        If ``depth`` is not a positive integer or the payload is empty.
    """

    latency = 2

    def __init__(self, shape: Any, *, depth: int) -> None:
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
            raise ValueError(f"Depth must be a positive integer, not {depth!r}")
        self._width = Shape.cast(shape).width
        if self._width < 1:
            raise ValueError(f"A queue needs a payload of at least one bit, not {shape!r}")
        self._depth = depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "clear": In(1),
                "empty": Out(1),
            }
        )

    @property
    def depth(self) -> int:
        """Entries in the memory."""
        return self._depth

    def elaborate(self, platform: object) -> Module:
        m = Module()
        write_at, read_at = Signal(range(self._depth)), Signal(range(self._depth))
        stored = Signal(range(self._depth + 1))
        write, read = Signal(), Signal()

        m.d.comb += [
            self.i.ready.eq(stored != self._depth),
            self.empty.eq((stored == 0) & ~self.o.valid),
            write.eq(self.i.valid & self.i.ready),
            read.eq((stored != 0) & (~self.o.valid | self.o.ready)),
        ]
        source = Value.cast(self.i.payload)
        words = []
        for low in range(0, self._width, BANK_BITS):
            piece = source[low : low + BANK_BITS]
            m.submodules[f"bank{low // BANK_BITS}"] = bank = Memory(
                shape=piece.shape(), depth=self._depth, init=[]
            )
            write_port, read_port = bank.write_port(), bank.read_port()
            m.d.comb += [
                write_port.en.eq(write),
                write_port.addr.eq(write_at),
                write_port.data.eq(piece),
                read_port.en.eq(read),
                read_port.addr.eq(read_at),
            ]
            words.append(read_port.data)
        m.d.comb += Value.cast(self.o.payload).eq(Cat(words))

        with m.If(write):
            m.d.sync += write_at.eq(_next(write_at, self._depth))
        with m.If(read):
            m.d.sync += [read_at.eq(_next(read_at, self._depth)), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.sync += stored.eq(stored + write - read)
        with m.If(self.clear):
            m.d.sync += [write_at.eq(0), read_at.eq(0), stored.eq(0), self.o.valid.eq(0)]
        return m


def _next(pointer: Signal, depth: int) -> Value:
    """``pointer + 1``, modulo ``depth``."""
    if depth & (depth - 1) == 0:
        return (pointer + 1)[: len(pointer)]
    return Mux(pointer == depth - 1, 0, pointer + 1)
