"""Tiles of sums between the array and its readers, the epilogue and the softmax unit."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib.data import ArrayLayout, StructLayout

from moevit.quant.formats import ACCUMULATOR

from ..config import FINISHED_TILES, AcceleratorConfig
from ..lib.storage import Memory

__all__ = ["Finished", "accumulators", "score_tile"]


def accumulators(config: AcceleratorConfig) -> ArrayLayout:
    """One tile of sums: T x O."""
    a = config.array
    return ArrayLayout(ArrayLayout(signed(ACCUMULATOR.width), a.outputs), a.tokens)


def score_tile(config: AcceleratorConfig) -> StructLayout:
    """What the softmax unit needs beside the sums."""
    return StructLayout(
        {
            "last": unsigned(1),
            "valid": range(config.array.outputs + 1),
            "mult": unsigned(16),
            "shift": unsigned(6),
            "out_mult": unsigned(16),
            "out_shift": unsigned(6),
        }
    )


class Finished:
    """Finished tiles in distributed RAM: one small memory for each accumulator.

    ``rows[t][o]`` is the oldest tile; the user moves ``get`` on.
    """

    def __init__(self, m: Module, name: str, sums: list[list[Signal]], push: Signal) -> None:
        width = ACCUMULATOR.width
        put, self.get = (
            Signal(range(FINISHED_TILES), name=f"{name}_put"),
            Signal(range(FINISHED_TILES), name=f"{name}_get"),
        )
        with m.If(push):
            m.d.sync += put.eq(put + 1)
        self.rows: list[list[Signal]] = []
        for t, line in enumerate(sums):
            row = []
            for o, value in enumerate(line):
                memory = Memory(shape=signed(width), depth=FINISHED_TILES, init=[])
                m.submodules[f"{name}_{t}_{o}"] = memory
                write, read = memory.write_port(), memory.read_port(domain="comb")
                m.d.comb += [
                    write.en.eq(push),
                    write.addr.eq(put),
                    write.data.eq(value),
                    read.addr.eq(self.get),
                ]
                row.append(read.data)
            self.rows.append(row)
