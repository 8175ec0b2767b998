"""First pass of a norm: a token's sums of values and squares, and the root of their spread."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for, ceil_log2

from moevit.quant.formats import VALUE
from moevit.quant.operators.pwl import RSQRT

from ..config import AcceleratorConfig
from ..interfaces import residual_word
from ..isa import Norm
from ..lib.component import Component
from ..lib.fifo import MemoryFifo
from ..lib.pipeline import Pipeline
from ..lib.pwl import RESULT_BITS, Inverse, exponent_bits, inverse_latency
from .norm_read import UNDER_WAY

__all__ = ["DIM_BITS", "NUMBER_BITS", "NormRoots", "longest_row", "token_root"]

DIM_BITS = 10
"""``dim`` is at most 1023: then ``D x - S`` has 27 bits and multiplies ``r`` in one DSP block."""
NUMBER_BITS = 27
"""``D x - S``, signed."""
_VARIANCE_BITS = 2 * DIM_BITS + 2 * (VALUE.width - 1)


def longest_row(config: AcceleratorConfig) -> int:
    """Most residual words of a token."""
    return min(config.limits.depth, 1 << DIM_BITS) // config.array.outputs


def token_root() -> StructLayout:
    """A token's sum ``S`` and the reciprocal root ``r * 2**-e``."""
    exponent = exponent_bits(RSQRT, _VARIANCE_BITS)
    return StructLayout({"s": signed(NUMBER_BITS - 1), "r": RESULT_BITS, "e": exponent})


class NormRoots(Component):
    """Sums of a word by trees, sums of the token, then ``D Q - S**2 + eps`` and its root.

    Latency: :meth:`latency` cycles from a token's last word. Throughput: a word a cycle. It cannot
    be stalled: at most ``UNDER_WAY`` tokens are in it.

    Members
    -------
    order : In
        The instruction.
    valid, first, last, words : In
        A word of a token, and whether it is the first or last.
    o : Out(stream of token_root)
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "order": In(Norm.layout()),
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "words": In(residual_word(config)),
                "o": Out(stream.Signature(token_root())),
            }
        )

    @staticmethod
    def latency(config: AcceleratorConfig) -> int:
        """Cycles from a token's last word to its root at ``o``."""
        return ceil_log2(config.array.outputs) + inverse_latency(RSQRT, _VARIANCE_BITS) + 9

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = Pipeline(m, valid=self.valid, first=self.first, last=self.last)
        with p.step() as reg:
            words = [reg(v, name="x") for v in self.words]
            square = [reg((v * v)[: 2 * VALUE.width - 1], name="square") for v in self.words]
        s_word, q_word = p.reduce(lambda a, b: a + b, words, square)
        channels = bits_for(longest_row(self._config) * self._config.array.outputs)
        s = Signal(signed(VALUE.width + channels), reset_less=True)
        q = Signal(2 * VALUE.width - 1 + channels, reset_less=True)
        total = Signal()
        with m.If(p.valid):
            m.d.sync += [
                s.eq(Mux(p.tag["first"], 0, s) + s_word),
                q.eq(Mux(p.tag["first"], 0, q) + q_word),
            ]
        m.d.sync += total.eq(p.valid & p.tag["last"])
        self._roots(m, total, s, q)
        return m

    def _roots(self, m: Module, total: Signal, s: Signal, q: Signal) -> None:
        order, dim = self.order, self.order.dim[:DIM_BITS]
        q_cut, s_cut = 26, 17  # what one DSP block multiplies
        width = max(len(q) + DIM_BITS, 2 * len(s)) + 2
        p = Pipeline(m, valid=total, s=s)
        with p.step() as reg:
            dq_low, dq_high = reg(dim * q[:q_cut], name="dq"), reg(dim * q[q_cut:], name="dq")
            ss_low, ss_high = (
                reg(s * s[:s_cut], name="ss"),
                reg(s * s[s_cut:].as_signed(), name="ss"),
            )
        with p.step() as reg:
            dq = reg(dq_low + (dq_high << q_cut), name="dq")
            ss = reg(ss_low + (ss_high << s_cut), name="ss")
        with p.step() as reg:
            spread = reg((dq - ss)[:width].as_signed(), name="spread")
        with p.step() as reg:
            variance = reg((spread + order.eps)[:width].as_signed(), name="variance")
        # Of a token with its channels inside dim: D Q >= S**2, and all below 2**50.
        with p.step() as reg:
            low = variance[:_VARIANCE_BITS] | ~variance[:_VARIANCE_BITS].any()
            positive = reg(Mux(variance[-1], 1, low), name="positive")
        m.submodules.root = root = Inverse(RSQRT, _VARIANCE_BITS)
        m.d.comb += [root.valid.eq(p.valid), root.i.eq(positive)]
        p.delay(root.latency)
        m.submodules.roots = roots = MemoryFifo(token_root(), depth=UNDER_WAY)
        m.d.comb += [
            roots.i.valid.eq(root.done),
            roots.i.payload.s.eq(p.tag["s"]),
            roots.i.payload.r.eq(root.value),
            roots.i.payload.e.eq(root.exponent),
        ]
        connect(m, roots.o, flipped(self.o))
