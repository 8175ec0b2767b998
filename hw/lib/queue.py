"""A small typed first-in first-out queue in distributed RAM."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Shape, Signal, Value
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from .component import Component
from .storage import Memory

__all__ = ["SmallFifo"]


class SmallFifo(Component):
    """First-in first-out queue of ``depth`` payloads of ``shape``.

    Latency: one cycle from ``i`` to ``o``. Throughput: one payload a cycle. The oldest
    payload is in a register, which an empty queue fills from ``i``: ``o`` and ``i.ready`` come
    straight from flip-flops, and no path leads through a queue.

    Parameters
    ----------
    shape : ShapeLike
        Payload.
    depth : int
        Payloads held, at least 1.

    Raises
    ------
    ValueError
        If ``depth`` is not a positive integer.
    """

    def __init__(self, shape: Any, depth: int) -> None:
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"Depth must be a positive integer, not {depth!r}")
        self._shape, self._depth = shape, depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.storage = storage = Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")
        put, get = Signal(range(self._depth)), Signal(range(self._depth))
        level = Signal(range(self._depth + 1))  # payloads held
        push, load = Signal(), Signal()  # load: the output register takes the next payload
        room, stored = Signal(init=1), Signal()  # not full; something is in the memory
        oldest = Signal(Shape.cast(self._shape), name="oldest", reset_less=True)
        into_memory, from_memory = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(room),
            push.eq(self.i.valid & room),
            load.eq(~self.o.valid | self.o.ready),
            into_memory.eq(push & ~(load & ~stored)),
            from_memory.eq(load & stored),
            write.en.eq(into_memory),
            write.addr.eq(put),
            write.data.eq(self.i.payload),
            read.addr.eq(get),
            Value.cast(self.o.payload).eq(oldest),
        ]
        last = self._depth - 1
        with m.If(into_memory):
            m.d.sync += put.eq(Mux(put == last, 0, put + 1))
        with m.If(from_memory):
            m.d.sync += get.eq(Mux(get == last, 0, get + 1))
        with m.If(load):
            m.d.sync += [
                self.o.valid.eq(stored | push),
                oldest.eq(Mux(stored, read.data, self.i.payload)),
            ]
        pop = self.o.valid & self.o.ready
        with m.If(push & ~pop):
            m.d.sync += [level.eq(level + 1), room.eq(level != last)]
        with m.Elif(pop & ~push):
            m.d.sync += [level.eq(level - 1), room.eq(1)]
        with m.If(into_memory & ~from_memory):
            m.d.sync += stored.eq(1)
        with m.Elif(from_memory & ~into_memory):
            m.d.sync += stored.eq(level > 2)  # one of them is in the register
        return m
