"""Finished tiles of sums between the array and its readers, the epilogue and the softmax unit."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Signal, Value, signed
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import ACCUMULATOR

from ..config import FINISHED_TILES, AcceleratorConfig
from ..interfaces import accumulators
from ..lib.component import Component
from ..lib.storage import Memory

__all__ = ["FinishedTiles"]


class FinishedTiles(Component):
    """First-in first-out, one small memory for each accumulator; places are reserved beforehand.

    ``shown``: tiles that can be seen and leave at a time, 1 or 2. Two lie in memories of their own,
    even ones in the first.

    Members
    -------
    reserve : In
        A tile is begun that will come here; only while ``room``.
    push, sums : In
        It is there.
    room : Out
        A tile may be begun. From a register: it may be 0 for a cycle while there is room.
    valid, tiles, pop
        There is one; the oldest, in the place of its memory; it leaves.
    second, odd, pop_second
        Of two: there is another; ``tiles[odd]`` is the older; both leave. 0 with one.
    empty : Out
        No place is taken or reserved.
    """

    def __init__(self, config: AcceleratorConfig, *, shown: int = 1) -> None:
        self._shown = shown
        super().__init__(
            {
                "reserve": In(1),
                "push": In(1),
                "sums": In(accumulators(config)),
                "room": Out(1, init=1),  # type: ignore[call-arg]  # not in the stubs
                "valid": Out(1),
                "second": Out(1),
                "odd": Out(1),
                "tiles": Out(ArrayLayout(accumulators(config), shown)),
                "pop": In(1),
                "pop_second": In(1),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        put, get = Signal(range(FINISHED_TILES)), Signal(range(FINISHED_TILES))
        places = Signal(range(FINISHED_TILES + 1), init=FINISHED_TILES)
        count = Signal(range(FINISHED_TILES + 1))
        two = self.pop_second if self._shown == 2 else Const(0)
        popped = self.pop + two
        m.d.comb += self.empty.eq(places == FINISHED_TILES)
        m.d.sync += [
            places.eq(places - self.reserve + popped),
            self.room.eq(self.pop | (places > 1) | ((places == 1) & ~self.reserve)),
            count.eq(count + self.push - popped),
            self.valid.eq(
                self.push | (count > 2) | ((count == 2) & ~two) | ((count == 1) & ~self.pop)
            ),
        ]
        with m.If(self.push):
            m.d.sync += put.eq(put + 1)
        with m.If(self.pop):
            m.d.sync += get.eq(get + popped)
        where: list[tuple[Value, Value, Value]] = [(self.push, put, get)]
        if self._shown == 2:
            m.d.comb += self.odd.eq(get[0])
            m.d.sync += self.second.eq(count + self.push - popped > 1)
            where = [
                (self.push & ~put[0], put[1:], (get + 1)[1 : len(get)]),
                (self.push & put[0], put[1:], get[1:]),
            ]
        for n, (here, to, oldest) in enumerate(where):
            self._sums(m, f"_{n}" if n else "", self.tiles[n], here, to, oldest)
        return m

    def _sums(self, m: Module, name: str, tile: Any, push: Value, put: Value, get: Value) -> None:
        """The memories of one tile that is shown."""
        for t, (line, tile_line) in enumerate(zip(self.sums, tile, strict=True)):
            for o, (value, oldest) in enumerate(zip(line, tile_line, strict=True)):
                depth = FINISHED_TILES // self._shown
                memory = Memory(shape=signed(ACCUMULATOR.width), depth=depth, init=[])
                m.submodules[f"sum{name}_{t}_{o}"] = memory
                write, read = memory.write_port(), memory.read_port(domain="comb")
                m.d.comb += [
                    write.en.eq(push),
                    write.addr.eq(put),
                    write.data.eq(value),
                    read.addr.eq(get),
                    oldest.eq(read.data),
                ]
