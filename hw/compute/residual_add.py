"""Values to 16-bit words: added to the residual stream, weighted by an expert's score, or as is."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, signed, unsigned
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import RESIDUAL, SCORE, VALUE

from ..config import AcceleratorConfig
from ..interfaces import residual_word
from ..isa import Destination, Gemm
from ..lib.component import Component
from ..lib.pipeline import Pipeline, double_shift
from .activation import saturate

__all__ = ["ResidualAdd"]


class ResidualAdd(Component):
    """``sat16(x + v)``, ``sat16(x + round(v * score / 2**15))`` for EXPERT, ``v`` for ACT16.

    Latency: :attr:`latency` cycles. Throughput: one row a cycle. It cannot be stalled.

    Members
    -------
    valid, mode, values, score, residual : In
        A row of O values and the residual word that they are added to.
    words : Out
        O values of 16 bits.
    """

    latency = 4

    def __init__(self, config: AcceleratorConfig) -> None:
        outputs = config.array.outputs
        super().__init__(
            {
                "valid": In(1),
                "mode": In(Gemm.shape("mode")),
                "values": In(ArrayLayout(signed(VALUE.width), outputs)),
                "score": In(unsigned(SCORE.width)),
                "residual": In(residual_word(config)),
                "words": Out(residual_word(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = Pipeline(
            m,
            valid=self.valid,
            weighs=self.mode == Destination.EXPERT,
            plain=self.mode == Destination.ACT16,
            residual=self.residual,
        )
        values = list(self.values)
        with p.step() as reg:
            weighted = [reg(v * self.score, name="weighted") for v in values]
            values = [reg(v, name="value") for v in values]
        with p.step() as reg:
            halves_up = [(double_shift(v, SCORE.frac) + 1) >> 1 for v in weighted]
            added = [
                reg(Mux(p.tag["weighs"], w, v)[: VALUE.width].as_signed(), name="added")
                for w, v in zip(halves_up, values, strict=True)
            ]
        p.drop("weighs")
        with p.step() as reg:
            x = p.tag["residual"]
            total = [
                reg(v + x.word_select(n, RESIDUAL.width).as_signed(), name="total")
                for n, v in enumerate(added)
            ]
            values = [reg(v, name="value") for v in added]
        p.drop("residual")
        with p.step() as reg:
            for out, v, t in zip(self.words, values, total, strict=True):
                word = Mux(p.tag["plain"], v, saturate(t, RESIDUAL.min, RESIDUAL.max))
                m.d.comb += out.eq(reg(word[: RESIDUAL.width].as_signed(), name="word"))
        return m
