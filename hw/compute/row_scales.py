"""Requantisation of attention rows: one reciprocal of the weights' sum a row."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for, ceil_log2

from moevit.quant.formats import MULTIPLIER_BITS, SHIFT_BITS
from moevit.quant.operators.exp2 import SOFTMAX_EXP
from moevit.quant.operators.pwl import RECIPROCAL

from ..config import AcceleratorConfig
from ..interfaces import row_scales
from ..lib.component import Component
from ..lib.fifo import MemoryFifo
from ..lib.pipeline import Pipeline
from ..lib.pwl import Inverse

__all__ = ["OUTPUT_SCALE", "WAITING", "RowScales", "key_tiles"]

WAITING = 4
"""Query tiles whose row scales can wait for the epilogue or be under way."""

OUTPUT_SCALE = StructLayout({"mult": MULTIPLIER_BITS, "shift": SHIFT_BITS})
"""Of the instruction: sum of weighted values to output."""


def key_tiles(config: AcceleratorConfig) -> int:
    """Most key tiles of a query tile."""
    return -(-config.limits.tokens // config.array.outputs)


class RowScales(Component):
    """Row sums from those of the key tiles, then ``quant.softmax.Softmax.row`` of each.

    Throughput: a query tile every T cycles, one row a cycle. It cannot be stalled: at most
    ``WAITING`` query tiles are under way or wait in ``rows``.

    Members
    -------
    valid, pair, first, finish, sums : In
        Sums of two rows' weights of a key tile; which pair of rows; the query tile's first and last
        key tile.
    output : In(stream of ``OUTPUT_SCALE``)
        Of each query tile; taken with its last row.
    rows : Out(stream of row_scales)
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        a = config.array
        part = SOFTMAX_EXP.peak * a.outputs
        self._most = part * key_tiles(config)
        super().__init__(
            {
                "valid": In(1),
                "pair": In(ceil_log2(a.tokens // 2)),
                "first": In(1),
                "finish": In(1),
                "sums": In(ArrayLayout(unsigned(bits_for(part)), 2)),
                "output": In(stream.Signature(OUTPUT_SCALE)),
                "rows": Out(stream.Signature(row_scales(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tokens = self._config.array.tokens
        shape = range(self._most + 1)
        sums = [Signal(shape, name=f"sum_{t}", reset_less=True) for t in range(tokens)]
        total = [Signal(shape, name=f"total_{t}", reset_less=True) for t in range(tokens)]
        with m.If(self.valid):
            for t in range(tokens):
                with m.If(self.pair == t // 2):
                    value = Mux(self.first, 0, sums[t]) + self.sums[t % 2]
                    m.d.sync += sums[t].eq(value)
                    with m.If(self.finish):
                        m.d.sync += total[t].eq(value)

        row, serving = Signal(range(tokens)), Signal()
        with m.If(self.valid & self.finish & (self.pair == 0)):
            m.d.sync += [serving.eq(1), row.eq(0)]
        with m.Elif(serving):
            m.d.sync += row.eq(row + 1)
            with m.If(row == tokens - 1):
                m.d.sync += serving.eq(0)
        m.submodules.inverse = inverse = Inverse(RECIPROCAL, bits_for(self._most))
        p = Pipeline(m, valid=serving, row=row)
        m.d.comb += [inverse.valid.eq(serving), inverse.i.eq(Array(total)[row])]
        p.delay(inverse.latency)
        scale: Any = self.output.payload
        m.d.comb += self.output.ready.eq(p.valid & (p.tag["row"] == tokens - 1))
        with p.step() as reg:
            product = reg(inverse.value * scale.mult, name="mult")
            shift = reg(inverse.exponent + scale.shift, name="shift")
        # Beyond the largest shift nothing is left of a sum, so a larger one is the same.
        m.submodules.waiting = waiting = MemoryFifo(row_scales(self._config), depth=WAITING)
        entry: Any = Signal(row_scales(self._config), reset_less=True)
        largest = (1 << SHIFT_BITS) - 1
        with m.If(p.valid):
            for t in range(tokens):
                with m.If(p.tag["row"] == t):
                    m.d.sync += [
                        entry[t].mult.eq(product[MULTIPLIER_BITS:]),
                        entry[t].shift.eq(Mux(shift > largest, largest, shift)),
                    ]
        m.d.sync += waiting.i.valid.eq(p.valid & (p.tag["row"] == tokens - 1))
        m.d.comb += waiting.i.payload.eq(entry)
        connect(m, waiting.o, flipped(self.rows))
        return m
