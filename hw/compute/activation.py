"""The epilogue's second product: an activation times its output's scale, or a value times a score.

Every function is ReLU less a correction that depends on the magnitude alone and vanishes from some
magnitude on (quant/operators/activations.py): a table.
"""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import SCORE, VALUE

from ..config import AcceleratorConfig
from ..isa import ACTIVATED, Destination, Gemm
from ..lib.component import Component
from ..lib.pipeline import Pipeline
from ..lib.storage import Memory, Style

__all__ = ["Activate", "products"]

_PART_BITS = 8
"""A table's part has 2**8 entries: what the multiplexers of a slice choose among."""


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
                # parts of the tables, or 0 beyond them and for a function without one.
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
        """Of each part of each table: the entry, and whether it is the one that counts."""
        size = Signal(VALUE.width, name=f"size_{lane}")
        m.d.comb += size.eq(Mux(value < 0, -value, value))
        found = []
        for destination, function in ACTIVATED.items():
            index = size >> function.step_bits
            for part in range(len(function.table) >> _PART_BITS):
                table = function.table[part << _PART_BITS :][: 1 << _PART_BITS]
                rom = Memory(
                    shape=unsigned(function.entry_bits),
                    depth=len(table),
                    init=table,
                    ram_style=Style.LOGIC,
                )
                m.submodules[f"{destination.name.lower()}_{lane}_{part}"] = rom
                read = rom.read_port(domain="comb")
                m.d.comb += read.addr.eq(index)
                here = (index >> _PART_BITS == part) & (self.mode == destination)
                found.append((read.data, here))
        return found
