"""The ends of the epilogue: values to bytes, and values to words of the residual stream."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import ACTIVATION, RESIDUAL, SCORE, VALUE

from ..config import AcceleratorConfig
from ..interfaces import residual_word
from ..isa import ACTIVATED, TO_BYTES, Destination, Gemm
from ..lib.component import Component
from ..lib.pipeline import Pipeline, double_shift
from .activation import products

__all__ = ["ResidualAdd", "ToBytes"]

_FAR_BITS = 12
"""Of twice an int8 value before it is saturated: 1,023 is out of reach with any zero point."""


def _saturate(value: Value, low: int, high: int) -> Value:
    """``value`` limited to ``low .. high``."""
    bottom, top = Const(low, value.shape()), Const(high, value.shape())
    return Mux(value < bottom, bottom, Mux(value > top, top, value)).as_signed()


def _limit(value: Value, width: int) -> Value:
    """``value`` limited to ``width`` bits, signed, give or take the last bit."""
    outside = value[width - 1 : -1] != value[-1].replicate(len(value) - width)
    edge = Cat((~value[-1]).replicate(width - 1), value[-1])
    return Mux(outside, edge, value[:width]).as_signed()


class ToBytes(Component):
    """``sat8(round(product / 2**shift) + zero_point)``, or ``sat8(v + zero_point)`` without one.

    Latency: :attr:`latency` cycles. Throughput: one row a cycle. It cannot be stalled.

    Members
    -------
    valid, mode, values, products, shift, zero_point : In
        A row of O values. Only destinations that take bytes of activations have a zero point.
    bytes : Out
    """

    latency = 2

    def __init__(self, config: AcceleratorConfig) -> None:
        outputs = config.array.outputs
        super().__init__(
            {
                "valid": In(1),
                "mode": In(Gemm.shape("mode")),
                "values": In(ArrayLayout(signed(VALUE.width), outputs)),
                "products": In(products(config)),
                "shift": In(Gemm.shape("shift")),
                "zero_point": In(Gemm.shape("zero_point")),
                "bytes": Out(ArrayLayout(signed(ACTIVATION.width), outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        has_zero, activated = self.mode.matches(*TO_BYTES), self.mode.matches(*ACTIVATED)
        p = Pipeline(m, valid=self.valid, zero=Mux(has_zero, self.zero_point, 0))
        with p.step() as reg:  # twice the value, the function's or as it came
            twice = [
                reg(Mux(activated, double_shift(product, self.shift), v << 1), name="twice")
                for product, v in zip(self.products, self.values, strict=True)
            ]
        with p.step() as reg:
            # Limited to far more than a byte can hold even after the zero point, so that the carry
            # runs over few bits; then twice the value, its rounding bit and twice the zero point.
            addend = Cat(Const(1, 1), p.tag["zero"]).as_signed()
            for out, v in zip(self.bytes, twice, strict=True):
                far, narrow = Signal(signed(_FAR_BITS)), Signal(signed(_FAR_BITS))
                m.d.comb += [far.eq(_limit(v, _FAR_BITS)), narrow.eq((far + addend) >> 1)]
                limited = _saturate(narrow, ACTIVATION.min, ACTIVATION.max)
                m.d.comb += out.eq(reg(limited[: ACTIVATION.width].as_signed(), name="byte"))
        return m


class ResidualAdd(Component):
    """``sat16(x + v)``, ``sat16(x + round(product / 2**15))`` for EXPERT, ``v`` for ACT16.

    Latency: :attr:`latency` cycles. Throughput: one row a cycle. It cannot be stalled.

    Members
    -------
    valid, mode, values, products, residual : In
        A row of O values, their products with the score, and the word that they are added to.
    words : Out
        O values of 16 bits.
    """

    latency = 2

    def __init__(self, config: AcceleratorConfig) -> None:
        outputs = config.array.outputs
        super().__init__(
            {
                "valid": In(1),
                "mode": In(Gemm.shape("mode")),
                "values": In(ArrayLayout(signed(VALUE.width), outputs)),
                "products": In(products(config)),
                "residual": In(residual_word(config)),
                "words": Out(residual_word(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weighs, cut = self.mode == Destination.EXPERT, SCORE.frac
        p = Pipeline(m, valid=self.valid, plain=self.mode == Destination.ACT16)
        with p.step() as reg:
            values = [reg(v, name="value") for v in self.values]
            total = []
            for v, product, x in zip(self.values, self.products, self.residual, strict=True):
                # The bit below the cut rounds, halves upwards: a carry into the one addition.
                weighted = product[cut : cut + VALUE.width].as_signed()
                total.append(
                    reg(x + Mux(weighs, weighted, v) + (weighs & product[cut - 1]), name="total")
                )
        with p.step() as reg:
            for out, v, t in zip(self.words, values, total, strict=True):
                word = Mux(p.tag["plain"], v, _saturate(t, RESIDUAL.min, RESIDUAL.max))
                m.d.comb += out.eq(reg(word[: RESIDUAL.width].as_signed(), name="word"))
        return m
