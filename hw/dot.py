"""The multipliers: T x O dot products of I int8 pairs, pipelined.

This is the component that a board replaces by DSP primitives of the same latency; everything that
multiplies weights by activations goes through it.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import Component, In, Out

from .config import AcceleratorConfig

__all__ = ["DotProducts"]

_GROUP = 4
"""Products summed before the first register."""


class DotProducts(Component):
    """``o[t][k] = sum(a[t][i] * w[k][i] for i)`` for int8 ``a`` and ``w``.

    Latency: ``latency`` cycles. Throughput: one set of operands a cycle. No back-pressure.

    Members
    -------
    a : In(T x I int8)
    w : In(O x I int8)
    o : Out(T x O signed sums)
    """

    latency = 2

    def __init__(self, config: AcceleratorConfig) -> None:
        shape = config.array
        self._array = shape
        self.sum_bits = 16 + (shape.inputs - 1).bit_length()
        super().__init__(
            {
                "a": In(ArrayLayout(ArrayLayout(signed(8), shape.inputs), shape.tokens)),
                "w": In(ArrayLayout(ArrayLayout(signed(8), shape.inputs), shape.outputs)),
                "o": Out(
                    ArrayLayout(ArrayLayout(signed(self.sum_bits), shape.outputs), shape.tokens)
                ),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape = self._array
        a = [
            [Signal(signed(8), name=f"a_{t}_{i}") for i in range(shape.inputs)]
            for t in range(shape.tokens)
        ]
        w = [
            [Signal(signed(8), name=f"w_{o}_{i}") for i in range(shape.inputs)]
            for o in range(shape.outputs)
        ]
        m.d.comb += [
            a[t][i].eq(self.a[t][i]) for t in range(shape.tokens) for i in range(shape.inputs)
        ]
        m.d.comb += [
            w[o][i].eq(self.w[o][i]) for o in range(shape.outputs) for i in range(shape.inputs)
        ]
        for t in range(shape.tokens):
            for o in range(shape.outputs):
                partial = []
                for start in range(0, shape.inputs, _GROUP):
                    total = sum(
                        a[t][i] * w[o][i] for i in range(start, min(start + _GROUP, shape.inputs))
                    )
                    group = Signal(signed(18), name=f"p_{t}_{o}_{start}", reset_less=True)
                    m.d.sync += group.eq(total)
                    partial.append(group)
                result = Signal(signed(self.sum_bits), name=f"s_{t}_{o}", reset_less=True)
                m.d.sync += result.eq(sum(partial))
                m.d.comb += self.o[t][o].eq(result)
        return m
