"""Base-2 exponential lanes: one octave in a table, octaves by a rounding shift.

The integers are those of quant/operators/exp2.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Value, unsigned
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from moevit.quant.formats import LOGIT
from moevit.quant.operators.exp2 import Exp2

from .component import Component
from .pipeline import Pipeline
from .storage import Bank, Memory

__all__ = ["LATENCY", "Exp2Lanes", "lanes", "tables"]

_SHARE = 2
"""Lanes that read one table: a block RAM has two ports."""
LATENCY = 3
"""Stages that :func:`lanes` adds to a pipeline."""


def tables(exp: Exp2, count: int) -> list[Bank]:
    """The tables of ``count`` lanes."""
    return [Bank(exp.table_bits, 1 << exp.frac, -(-count // _SHARE), initialised=True)]


def lanes(
    m: Module, p: Pipeline, exp: Exp2, distances: Sequence[Value], *, name: str
) -> list[Value]:
    """``exp.compute`` of each distance (unsigned, not negative), three stages further down ``p``.

    Two lanes share a table, sub-module ``name_n``. The largest distance gives 0.
    """
    ports = []
    for n in range(0, len(distances), _SHARE):
        m.submodules[f"{name}_{n}"] = table = Memory(
            shape=unsigned(exp.table_bits), depth=1 << exp.frac, init=exp.table
        )
        ports += [table.read_port() for _ in distances[n : n + _SHARE]]
    top = exp.max_shift - exp.guard  # more octaves leave nothing
    high = [d[exp.frac :] for d in distances]
    m.d.comb += [
        statement
        for port, distance in zip(ports, distances, strict=True)
        for statement in (port.en.eq(p.valid), port.addr.eq(distance[: exp.frac]))
    ]
    with p.step() as reg:
        octaves = [reg(h[: bits_for(top)], name="octaves") for h in high]
        zero = [reg(h > top, name="zero") for h in high]
    with p.step() as reg:
        doubled = [
            reg(Mux(z, 0, Cat(Const(0, 1), port.data)[exp.guard :] >> o), name="doubled")
            for port, o, z in zip(ports, octaves, zero, strict=True)
        ]
    with p.step() as reg:
        return [reg(((d + 1) >> 1)[: bits_for(exp.peak)], name="exponential") for d in doubled]


class Exp2Lanes(Component):
    """``exp.compute`` of ``count`` distances a cycle; see :func:`lanes`.

    Latency: ``LATENCY`` cycles. Throughput: one item a cycle. It cannot be stalled.

    Members
    -------
    valid, i:
        Distances, each of the width of a score (:data:`~moevit.quant.formats.LOGIT`), unsigned.
    done, o:
        Their exponentials, 0 to ``exp.peak``.
    """

    latency = LATENCY

    def __init__(self, exp: Exp2, *, count: int = 1) -> None:
        if not isinstance(exp, Exp2):
            raise TypeError(f"Parameters must be an Exp2, not {exp!r}")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"Lanes must be a positive integer, not {count!r}")
        self._exp, self._count = exp, count
        super().__init__(
            {
                "valid": In(1),
                "i": In(ArrayLayout(unsigned(LOGIT.width), count)),
                "done": Out(1),
                "o": Out(ArrayLayout(unsigned(bits_for(exp.peak)), count)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = Pipeline(m, valid=self.valid)
        values = lanes(m, p, self._exp, [self.i[n] for n in range(self._count)], name="table")
        m.d.comb += [self.o[n].eq(value) for n, value in enumerate(values)]
        m.d.comb += self.done.eq(p.valid)
        return m
