"""The epilogue's second product: an activation times its output's scale, or a value times a score.

Every function is ReLU less a correction that depends on the magnitude alone and vanishes from some
magnitude on (quant/operators/activations.py): a table for each segment of magnitudes.
"""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from moevit.quant.formats import SCORE, VALUE

from ..config import AcceleratorConfig
from ..isa import ACTIVATED, Destination, Gemm
from ..lib.component import Component
from ..lib.pipeline import Pipeline
from ..lib.storage import Memory, Style

__all__ = ["Activate", "products"]


def products(config: AcceleratorConfig) -> ArrayLayout:
    """O products of a value, less a correction, and a factor."""
    bits = VALUE.width + Gemm.shape("mult").width + 1
    return ArrayLayout(signed(bits), config.array.outputs)


class Activate(Component):
    """``f(v) * mult`` for activation functions, ``v * score`` for EXPERT: one product for both.

    Latency: :attr:`latency` cycles. Throughput: one row a cycle. It cannot be stalled.

    Members
    -------
    valid, mode, values, mult, score : In
        A row of O values.
    products : Out
        O products; of other destinations they mean nothing.
    """

    latency = 2

    def __init__(self, config: AcceleratorConfig) -> None:
        outputs = config.array.outputs
        super().__init__(
            {
                "valid": In(1),
                "mode": In(Gemm.shape("mode")),
                "values": In(ArrayLayout(signed(VALUE.width), outputs)),
                "mult": In(Gemm.shape("mult")),
                "score": In(SCORE.width),
                "products": Out(products(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weighs = self.mode == Destination.EXPERT
        p = Pipeline(m, valid=self.valid, factor=Mux(weighs, self.score, self.mult))
        entries = []
        with p.step() as reg:
            for n, v in enumerate(self.values):
                base = reg(Mux((v < 0) & ~weighs, 0, v).as_signed(), name="base")
                # A subtraction for the pre-adder of a DSP block, which also chooses among the
                # segments, or 0 beyond them and for a function without tables.
                parts = [(reg(e), reg(here)) for e, here in self._corrections(m, v, n)]
                entries.append((base, parts))
        with p.step() as reg:
            for product, (base, parts) in zip(self.products, entries, strict=True):
                correction: Value = Const(0, 1)
                for entry, here in parts:
                    correction |= Mux(here, entry, 0)
                value = (base - correction) * p.tag["factor"]
                m.d.comb += product.eq(reg(value, name="product"))
        return m

    def _corrections(self, m: Module, value: Value, lane: int) -> list[tuple[Value, Value]]:
        """Of each segment of magnitudes: the function's entry, and whether it is the one that
        counts."""
        size = Signal(VALUE.width, name=f"size_{lane}")
        m.d.comb += size.eq(Mux(value < 0, -value, value))
        segments: dict[int, tuple[Value, Value]] = {}
        for destination, function in ACTIVATED.items():
            for k, (steps, table) in enumerate(function.tables):
                bits = ceil_log2(len(table))
                init = [0] * (1 << bits)
                for magnitude, entry in zip(steps, table, strict=True):
                    init[magnitude // steps.step % len(init)] = entry
                rom = Memory(
                    shape=unsigned(max(table).bit_length()),
                    depth=len(init),
                    init=init,
                    ram_style=Style.LOGIC,
                )
                m.submodules[f"{destination.name.lower()}_{lane}_{k}"] = rom
                read = rom.read_port(domain="comb")
                m.d.comb += read.addr.eq(size >> ceil_log2(steps.step))
                chosen = self.mode == destination
                inside = ~size[ceil_log2(steps.stop) :].any()
                if steps.start:
                    inside &= size[ceil_log2(steps.start) :].any()
                other, here = segments.get(k, (read.data, Const(0, 1)))
                segments[k] = Mux(chosen, read.data, other), here | (chosen & inside)
        return list(segments.values())
