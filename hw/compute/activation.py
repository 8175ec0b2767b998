"""Values to bytes: an activation function with its output's scale, or the value as it is.

Every function is ReLU less a correction that depends on the magnitude alone and vanishes from some
magnitude on (quant/operators/gelu.py): a table. So another one is an entry of :data:`TABLES`.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from moevit.quant.formats import ACTIVATION, VALUE
from moevit.quant.operators.gelu import GELU, Gelu

from ..config import AcceleratorConfig
from ..isa import ACTIVATED, TO_BYTES, Destination, Gemm
from ..lib.component import Component
from ..lib.pipeline import Pipeline, double_shift
from ..lib.storage import Memory, Style

__all__ = ["TABLES", "Activate", "saturate"]

TABLES: dict[Destination, Gelu] = {Destination.GELU8: GELU}
"""Corrections of the functions that have one."""

_FAR_BITS = 12
"""Of twice an int8 value before it is saturated: 1,023 is out of reach with any zero point."""


def saturate(value: Value, low: int, high: int) -> Value:
    """``value`` limited to ``low .. high``."""
    bottom, top = Const(low, value.shape()), Const(high, value.shape())
    return Mux(value < bottom, bottom, Mux(value > top, top, value)).as_signed()


def _limit(value: Value, width: int) -> Value:
    """``value`` limited to ``width`` bits, signed, give or take the last bit."""
    outside = value[width - 1 : -1] != value[-1].replicate(len(value) - width)
    edge = Cat((~value[-1]).replicate(width - 1), value[-1])
    return Mux(outside, edge, value[:width]).as_signed()


class Activate(Component):
    """``sat8(round(f(v) * mult / 2**shift) + zero_point)``, or ``sat8(v + zero_point)``.

    Latency: :attr:`latency` cycles. Throughput: one row a cycle. It cannot be stalled.

    Members
    -------
    valid, mode, values, mult, shift, zero_point : In
        A row of O values. Only destinations that take bytes of activations have a zero point.
    bytes : Out
        O bytes.
    """

    latency = 4

    def __init__(self, config: AcceleratorConfig) -> None:
        outputs = config.array.outputs
        super().__init__(
            {
                "valid": In(1),
                "mode": In(Gemm.shape("mode")),
                "values": In(ArrayLayout(signed(VALUE.width), outputs)),
                "mult": In(Gemm.shape("mult")),
                "shift": In(Gemm.shape("shift")),
                "zero_point": In(Gemm.shape("zero_point")),
                "bytes": Out(ArrayLayout(signed(ACTIVATION.width), outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = Pipeline(
            m,
            valid=self.valid,
            mult=self.mult,
            shift=self.shift,
            zero=Mux(self.mode.matches(*TO_BYTES), self.zero_point, 0),
            activated=self.mode.matches(*ACTIVATED),
        )
        values = list(self.values)
        entries = []
        with p.step() as reg:
            for n, v in enumerate(values):
                positive = reg(Mux(v < 0, 0, v[:-1]), name="positive")
                # A subtraction for the pre-adder of a DSP block, which also chooses among the
                # parts of the tables, or 0 beyond them.
                parts = [(reg(e), reg(here)) for e, here in self._corrections(m, v, n)]
                entries.append((positive, parts))
            values = [reg(v, name="value") for v in values]
        with p.step() as reg:
            product = []
            for positive, parts in entries:
                correction: Value = Const(0, 1)
                for entry, here in parts:
                    correction |= Mux(here, entry, 0)
                product.append(reg((positive - correction) * p.tag["mult"], name="product"))
            values = [reg(v, name="value") for v in values]
        p.drop("mult")
        with p.step() as reg:  # twice the value, the function's or as it came
            chosen, shift = p.tag["activated"], p.tag["shift"]
            twice = [
                reg(Mux(chosen, double_shift(f, shift), v << 1), name="twice")
                for f, v in zip(product, values, strict=True)
            ]
        p.drop("activated", "shift")
        with p.step() as reg:
            # Limited to far more than a byte can hold even after the zero point, so that the carry
            # runs over few bits; then twice the value, its rounding bit and twice the zero point.
            addend = Cat(Const(1, 1), p.tag["zero"]).as_signed()
            for out, v in zip(self.bytes, twice, strict=True):
                far, narrow = Signal(signed(_FAR_BITS)), Signal(signed(_FAR_BITS))
                m.d.comb += [far.eq(_limit(v, _FAR_BITS)), narrow.eq((far + addend) >> 1)]
                limited = saturate(narrow, ACTIVATION.min, ACTIVATION.max)
                m.d.comb += out.eq(reg(limited[: ACTIVATION.width].as_signed(), name="byte"))
        return m

    def _corrections(self, m: Module, value: Value, lane: int) -> list[tuple[Value, Value]]:
        """Of each half of each table: the entry, and whether it is the one that counts."""
        size = Signal(VALUE.width, name=f"size_{lane}")
        m.d.comb += size.eq(Mux(value < 0, -value, value))
        found = []
        for destination, function in TABLES.items():
            half_bits = ceil_log2(len(function.table)) - 1
            index = size >> function.step_bits
            for part in range(2):
                table = function.table[part << half_bits :][: 1 << half_bits]
                rom = Memory(
                    shape=unsigned(function.entry_bits),
                    depth=len(table),
                    init=table,
                    ram_style=Style.LOGIC,
                )
                m.submodules[f"{destination.name.lower()}_{lane}_{part}"] = rom
                read = rom.read_port(domain="comb")
                m.d.comb += read.addr.eq(index)
                here = (index >> half_bits == part) & (self.mode == destination)
                found.append((read.data, here))
        return found
