"""The multipliers: T x O dot products of I int8 pairs, pipelined.

Everything that multiplies weights by activations goes through this component, which a board may
build of DSP primitives: the platform object that :func:`moevit.hw.verilog.generate` is given may
have a method ``dot_products(component)`` that returns what drives ``component.o``
(``boards/dsp48e2.py``). Without one it is the twin below, which multiplies and adds at once and
delays the sums, so that both take the same cycles and the twin simulates fast.

The primitives' shape is in :class:`Pipeline`: two tokens share a weight in a multiplier, and the
products of up to ``CHAIN`` inputs are added on the way through a chain of them. A sum of eight
products stays in its 18 bits because weights, keys and values, with attention weights 0..127, are
within +-127 (``quant.formats.WEIGHT``): 8 * 127 * 128 < 2**17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Signal, signed
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..config import ArrayConfig
from ..lib.component import Component

__all__ = ["CHAIN", "DotProducts", "Pipeline"]

CHAIN = 8
"""Most products added along a chain of multipliers."""

_MULTIPLIER = 4
"""Stages of a multiplier: operands, packed pair, product, sum."""

_GROUP = 4
"""Products that the twin sums before its first register."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Stages of a dot product of ``inputs`` pairs.

    Each place of a chain is one cycle behind the place before it; the chains' sums meet in a tree
    of adders with a register behind each level.
    """

    inputs: int

    @property
    def length(self) -> int:
        """Multipliers in a chain."""
        return min(self.inputs, CHAIN)

    @property
    def chains(self) -> int:
        """Chains of a dot product."""
        return -(-self.inputs // self.length)

    @property
    def levels(self) -> int:
        """Levels of the tree that adds the chains' sums."""
        return ceil_log2(self.chains)

    @property
    def latency(self) -> int:
        """Cycles from operands to sum."""
        return _MULTIPLIER + self.length - 1 + self.levels

    @property
    def sum_bits(self) -> int:
        """Bits of a sum, signed."""
        return 16 + (self.inputs - 1).bit_length()


class DotProducts(Component):
    """``o[t][k] = sum(a[t][i] * w[k][i] for i)`` for int8 ``a`` and ``w``, one of them within
    +-127.

    Latency: ``latency`` cycles. Throughput: one set of operands a cycle. No back-pressure.

    Members
    -------
    a : In(T x I int8)
    w : In(O x I int8)
    o : Out(T x O signed sums)
    """

    def __init__(self, array: ArrayConfig) -> None:
        self.array = array
        shape = Pipeline(inputs=array.inputs)
        self.latency, self.sum_bits = shape.latency, shape.sum_bits
        super().__init__(
            {
                "a": In(ArrayLayout(ArrayLayout(signed(8), array.inputs), array.tokens)),
                "w": In(ArrayLayout(ArrayLayout(signed(8), array.inputs), array.outputs)),
                "o": Out(
                    ArrayLayout(ArrayLayout(signed(self.sum_bits), array.outputs), array.tokens)
                ),
            }
        )

    def elaborate(self, platform: Any) -> Any:
        if hasattr(platform, "dot_products"):
            return platform.dot_products(self)
        m = Module()
        shape = self.array
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
                result = sum(partial)
                for stage in range(1, self.latency):
                    name = f"s_{t}_{o}_{stage}"
                    later = Signal(signed(self.sum_bits), name=name, reset_less=True)
                    m.d.sync += later.eq(result)
                    result = later
                m.d.comb += self.o[t][o].eq(result)
        return m
