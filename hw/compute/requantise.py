"""Sums to 16-bit values: bias and per-channel scale, or the scale of an attention row."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Value, signed
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import ACCUMULATOR, SHIFT_BITS, VALUE

from ..config import AcceleratorConfig
from ..interfaces import finished_tiles, param_row, row_scales
from ..lib.component import Component
from ..lib.pipeline import Pipeline, coarse_shift, fine_shift, round_saturate

__all__ = ["Requantise"]


class Requantise(Component):
    """``sat16(round((sum + bias) * mult / 2**shift))`` of a row of O sums.

    Latency: :attr:`latency` cycles. Throughput: one row a cycle. It cannot be stalled.

    Members
    -------
    valid, tiles, odd, slot, attention, scales : In
        A row of tile ``odd`` enters; attention takes its row's scale and no bias.
    params : In
        Parameters of the row that entered a cycle ago.
    values : Out
        O values.
    """

    latency = 5

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "tiles": In(finished_tiles(config)),
                "odd": In(1),
                "slot": In(range(config.array.tokens)),
                "attention": In(1),
                "scales": In(row_scales(config)),
                "params": In(param_row(config)),
                "values": Out(ArrayLayout(signed(VALUE.width), config.array.outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array = self._config.array
        p = Pipeline(m, valid=self.valid, attention=self.attention)

        def chosen(o: int) -> Value:
            rows: list[Value] = [
                Array(tile[t][o] for t in range(array.tokens))[self.slot] for tile in self.tiles
            ]
            return rows[0] if len(rows) == 1 else Mux(self.odd, rows[1], rows[0]).as_signed()

        with p.step() as reg:
            sums = [reg(chosen(o), name="sum") for o in range(array.outputs)]
            scale = self.scales[self.slot]
            row_mult, row_shift = reg(scale.mult, name="mult"), reg(scale.shift, name="shift")
        attention, channels = p.tag["attention"], list(self.params)
        with p.step() as reg:
            biased = [
                reg((v + Mux(attention, 0, c.bias))[: ACCUMULATOR.width].as_signed(), name="biased")
                for v, c in zip(sums, channels, strict=True)
            ]
            mult = [reg(Mux(attention, row_mult, c.mult), name="mult") for c in channels]
            shift = [
                reg(Mux(attention, row_shift, c.shift[:SHIFT_BITS]), name="shift") for c in channels
            ]
        p.drop("attention")
        with p.step() as reg:
            product = [reg(v * n, name="product") for v, n in zip(biased, mult, strict=True)]
            shift = [reg(n, name="shift") for n in shift]
        with p.step() as reg:
            shifted = [
                reg(coarse_shift(v, n, VALUE.width), name="shifted")
                for v, n in zip(product, shift, strict=True)
            ]
        with p.step() as reg:
            values = [
                reg(
                    round_saturate(m, fine_shift(v, VALUE.width), VALUE, name="value"), name="value"
                )
                for v in shifted
            ]
        m.d.comb += [out.eq(value) for out, value in zip(self.values, values, strict=True)]
        return m
