"""Finished tiles of sums between the array and its readers, the epilogue and the softmax unit."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import ACCUMULATOR

from ..config import FINISHED_TILES, AcceleratorConfig
from ..interfaces import accumulators
from ..lib.component import Component
from ..lib.storage import Memory

__all__ = ["FinishedTiles"]


class FinishedTiles(Component):
    """First-in first-out, one small memory for each accumulator; places are reserved beforehand.

    Members
    -------
    reserve : In
        A tile is begun that will come here; only while ``room``.
    push, sums : In
        It is there.
    room : Out
        A tile may be begun. From a register: it may be 0 for a cycle while there is room.
    valid, tile, pop
        The oldest tile; it leaves.
    empty : Out
        No place is taken or reserved.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "reserve": In(1),
                "push": In(1),
                "sums": In(accumulators(config)),
                "room": Out(1, init=1),  # type: ignore[call-arg]  # not in the stubs
                "valid": Out(1),
                "tile": Out(accumulators(config)),
                "pop": In(1),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        put, get = Signal(range(FINISHED_TILES)), Signal(range(FINISHED_TILES))
        places = Signal(range(FINISHED_TILES + 1), init=FINISHED_TILES)
        count = Signal(range(FINISHED_TILES + 1))
        m.d.comb += self.empty.eq(places == FINISHED_TILES)
        m.d.sync += [
            places.eq(places - self.reserve + self.pop),
            self.room.eq(self.pop | (places > 1) | ((places == 1) & ~self.reserve)),
            count.eq(count + self.push - self.pop),
            self.valid.eq(self.push | (count > 1) | ((count == 1) & ~self.pop)),
        ]
        with m.If(self.push):
            m.d.sync += put.eq(put + 1)
        with m.If(self.pop):
            m.d.sync += get.eq(get + 1)
        for t, (line, tile_line) in enumerate(zip(self.sums, self.tile, strict=True)):
            for o, (value, oldest) in enumerate(zip(line, tile_line, strict=True)):
                memory = Memory(shape=signed(ACCUMULATOR.width), depth=FINISHED_TILES, init=[])
                m.submodules[f"sum_{t}_{o}"] = memory
                write, read = memory.write_port(), memory.read_port(domain="comb")
                m.d.comb += [
                    write.en.eq(self.push),
                    write.addr.eq(put),
                    write.data.eq(value),
                    read.addr.eq(get),
                    oldest.eq(read.data),
                ]
        return m
