"""Reciprocal and reciprocal square root: a normaliser and a table of chords.

The integers are those of quant/operators/pwl.py.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, unsigned
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from moevit.quant.operators.pwl import Pwl

from .component import Component
from .pipeline import Pipeline
from .storage import Memory, Style

__all__ = [
    "RESULT_BITS",
    "Inverse",
    "PiecewiseLinear",
    "exponent_bits",
    "inverse_latency",
    "mantissa_bits",
]

RESULT_BITS = 16
"""A table's value (``Pwl``: at most 16 bits)."""


def mantissa_bits(pwl: Pwl) -> int:
    """Width of the table's argument."""
    return pwl.frac_bits + bits_for(pwl.first + pwl.segments - 1)


class PiecewiseLinear(Component):
    """``Pwl.compute``: one table read, one small multiplication.

    Latency: :attr:`latency` cycles. Throughput: one value a cycle. It cannot be stalled.

    Parameters
    ----------
    pwl:
        The table.

    Members
    -------
    valid, mantissa:
        The argument, inside the table's range.
    done, value:
        The result, ``latency`` cycles later.
    """

    latency = 3

    def __init__(self, pwl: Pwl):
        if not isinstance(pwl, Pwl):
            raise TypeError(f"Table must be a Pwl, not {pwl!r}")
        self._pwl = pwl
        super().__init__(
            {
                "valid": In(1),
                "mantissa": In(mantissa_bits(pwl)),
                "done": Out(1),
                "value": Out(RESULT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, pwl = Module(), self._pwl
        entry = StructLayout(
            {"base": unsigned(RESULT_BITS), "slope": unsigned(bits_for(max(pwl.slope)))}
        )
        rows = [{"base": b, "slope": s} for b, s in zip(pwl.base, pwl.slope, strict=True)]
        # Of logic: out of a block RAM there would be no time left for the multiplication.
        m.submodules.table = table = Memory(
            shape=entry, depth=pwl.segments, init=rows, ram_style=Style.LOGIC
        )
        read = table.read_port()

        p = Pipeline(m, valid=self.valid)
        index = Signal(ceil_log2(pwl.segments))
        m.d.comb += [
            index.eq((self.mantissa >> pwl.frac_bits) - pwl.first),
            read.addr.eq(index),
            read.en.eq(p.valid),
        ]
        with p.step() as reg:
            frac = reg(self.mantissa[: pwl.frac_bits], name="frac")
        with p.step() as reg:
            base = reg(read.data.base, name="base")
            fall = reg(read.data.slope * frac, name="fall")
        with p.step() as reg:
            half = 1 << (pwl.frac_bits - 1)
            value = reg((base - ((fall + half) >> pwl.frac_bits))[:RESULT_BITS], name="value")
        m.d.comb += [self.value.eq(value), self.done.eq(p.valid)]
        return m


def _levels(pwl: Pwl, width: int) -> tuple[int, int]:
    """Bits that the normaliser counts in (1, of a square root 2), and its conditional shifts."""
    step = {-1.0: 1, -0.5: 2}[pwl.power]
    return step, max(1, ceil_log2(-(-width // step)))


def exponent_bits(pwl: Pwl, width: int) -> int:
    """Width of an :class:`Inverse`'s exponent."""
    return _levels(pwl, width)[1]


def inverse_latency(pwl: Pwl, width: int) -> int:
    """Cycles that an :class:`Inverse` takes."""
    return -(-_levels(pwl, width)[1] // 2) + PiecewiseLinear.latency


class Inverse(Component):
    """``quant.softmax.reciprocal`` or ``quant.layernorm.rsqrt`` of a positive integer.

    The leading one (of the square root: the leading pair of bits) is moved to the mantissa's top by
    conditional shifts of falling powers of two, two to a stage; which were made is the exponent.

    Latency: :attr:`latency` cycles. Throughput: one value a cycle. It cannot be stalled.

    Parameters
    ----------
    pwl:
        ``RECIPROCAL`` or ``RSQRT``.
    width:
        Bits of the argument.

    Members
    -------
    valid, i:
        The argument, greater than 0.
    done, value, exponent:
        ``(r, e)`` of the reference, ``latency`` cycles later.
    """

    def __init__(self, pwl: Pwl, width: int):
        if not isinstance(pwl, Pwl):
            raise TypeError(f"Table must be a Pwl, not {pwl!r}")
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"Width must be a positive integer, not {width!r}")
        self._pwl = pwl
        self._step, self._levels = _levels(pwl, width)
        self._mantissa = mantissa_bits(pwl)
        self.latency = inverse_latency(pwl, width)
        super().__init__(
            {
                "valid": In(1),
                "i": In(width),
                "done": Out(1),
                "value": Out(RESULT_BITS),
                "exponent": Out(self._levels),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, step = Module(), self._step
        m.submodules.chords = unit = PiecewiseLinear(self._pwl)
        width = step << self._levels
        p = Pipeline(m, valid=self.valid)
        value = Signal(width, name="value_0")
        exponent: list[Value] = []
        m.d.comb += value.eq(self.i)
        levels = list(reversed(range(self._levels)))
        for pair in range(0, len(levels), 2):
            for level in levels[pair : pair + 2]:
                amount = step << level
                shifted = Signal(width, name=f"shifted_{level}")
                stays = Signal(name=f"stays_{level}")
                m.d.comb += [
                    stays.eq(value[width - amount :].any()),
                    shifted.eq(value),
                ]
                with m.If(~stays):
                    m.d.comb += shifted.eq(Cat(Const(0, amount), value[: width - amount]))
                value, exponent = shifted, [stays, *exponent]
            with p.step() as reg:
                value = reg(value, name="value")
                exponent = [reg(Cat(*exponent), name="exponent")]
        missing = max(0, self._mantissa - width)
        p.add(exponent=exponent[0])
        m.d.comb += [
            unit.valid.eq(p.valid),
            unit.mantissa.eq(Cat(Const(0, missing), value)[-self._mantissa :]),
        ]
        p.delay(unit.latency)
        m.d.comb += [
            self.done.eq(unit.done),
            self.value.eq(unit.value),
            self.exponent.eq(p.tag["exponent"]),
        ]
        return m
