"""A small typed first-in first-out queue in distributed RAM."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from .storage import Memory

__all__ = ["Queue"]


class Queue(Component):
    """First-in first-out queue of ``depth`` payloads of ``shape``.

    Latency: one cycle from ``i`` to ``o``. Throughput: one payload a cycle. ``level`` counts
    payloads.

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
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.storage = storage = Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")
        put, get = Signal(range(self._depth)), Signal(range(self._depth))
        push, pop = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(self.level != self._depth),
            self.o.valid.eq(self.level != 0),
            push.eq(self.i.valid & self.i.ready),
            pop.eq(self.o.valid & self.o.ready),
            write.en.eq(push),
            write.addr.eq(put),
            write.data.eq(self.i.payload),
            read.addr.eq(get),
            self.o.payload.eq(read.data),
        ]
        last = self._depth - 1
        with m.If(push):
            m.d.sync += put.eq(Mux(put == last, 0, put + 1))
        with m.If(pop):
            m.d.sync += get.eq(Mux(get == last, 0, get + 1))
        m.d.sync += self.level.eq(self.level + push - pop)
        return m
