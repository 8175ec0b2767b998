"""Primitives of AMD UltraScale and UltraScale+ devices: packed products in DSP48E2 slices.

A slice multiplies a pair of tokens by one weight: its pre-adder makes ``(a1 << 18) + a0``, its 27 x
18 multiplier ``(a1*w << 18) + a0*w``. Slices of a chain add their products on the way from PCIN to
PCOUT, each a cycle behind the one before, so the operands of place n are delayed by n cycles (shift
registers in LUTs). The first slice adds ``2**17`` (RND): while the lower sum stays within 18 bits,
which the array's bound of eight products guarantees (``hw/compute/dot.py``), ``P[17:0]`` is then
the lower sum plus ``2**17``, never negative, and ``P[35:18]`` exactly the upper one: no borrow to
undo.

All registers of the slice on the way are used: operands (A2, D, B1), pair and weight (AD, B2),
product (M), sum (P). Facts of the primitive are from UG579; ``dsp48e2.v`` is our model of the
subset that is used here, for tests and proofs only.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value, signed

from moevit.hw.compute.dot import DotProducts, Pipeline

__all__ = ["LANE", "MODEL", "Platform", "chain", "lanes", "slice_instance", "tree"]

MODEL = "dsp48e2.v"
"""Beside this file: a behavioural model of the subset of DSP48E2 that is used."""

LANE = 18
"""Bits of the lower sum."""

_FROM_PRODUCT = 0b00_000_01_01  # X, Y: the product
_FROM_CASCADE = 0b00_001_00_00  # Z: PCIN
_FROM_RND = 0b10_000_00_00  # W: the constant RND


class Platform:
    """One clock: a slice does two products a cycle.

    Given to :func:`moevit.hw.verilog.generate`, builds the array of DSP48E2 slices.
    """

    def dot_products(self, dot: DotProducts) -> Module:
        """What drives ``dot.o``: ``tokens * inputs * outputs / 2`` slices and adders."""
        m = Module()
        array, shape = dot.array, Pipeline(inputs=dot.array.inputs)
        a = [_skewed(m, dot.a[t], shape.length, f"a_{t}") for t in range(array.tokens)]
        w = [_skewed(m, dot.w[o], shape.length, f"w_{o}") for o in range(array.outputs)]
        for t in range(0, array.tokens, 2):
            for o in range(array.outputs):
                low, high = [], []
                for start in range(0, array.inputs, shape.length):
                    places = range(start, start + shape.length)
                    operands = [(a[t][i], a[t + 1][i], w[o][i], i) for i in places]
                    sums = lanes(chain(m, f"dsp_{t}_{o}", operands))
                    low.append(sums[0])
                    high.append(sums[1])
                m.d.comb += [
                    dot.o[t][o].eq(tree(m, low, f"sum_{t}_{o}")),
                    dot.o[t + 1][o].eq(tree(m, high, f"sum_{t + 1}_{o}")),
                ]
        return m


def _skewed(m: Module, operands: Any, length: int, name: str) -> list[Value]:
    """Each operand delayed by its place in its chain."""
    out = []
    for i, value in enumerate(operands):
        for n in range(i % length):
            later = Signal(signed(8), name=f"{name}_{i}_{n}", reset_less=True)
            m.d.sync += later.eq(value)
            value = later
        out.append(value)
    return out


def lanes(p: Value) -> tuple[Value, Value]:
    """The lower and the upper sum of a chain whose last slice holds ``p``."""
    # Without its 2**17 the lower sum has its top bit inverted.
    low = Cat(p[: LANE - 1], ~p[LANE - 1]).as_signed()
    return low, p[LANE : 2 * LANE].as_signed()


def chain(
    m: Module, name: str, operands: list[tuple[Value, Value, Value, int]], domain: str = "sync"
) -> Value:
    """P of the last of the slices that multiply ``(low, high, weight, number)``, of the clock of
    ``domain``."""
    cascade, p = None, Signal(48, name=f"{name}_p")
    for low, high, weight, number in operands:
        p = Signal(48, name=f"{name}_{number}_p")
        following = Signal(48, name=f"{name}_{number}_pcout")
        m.submodules[f"{name}_{number}"] = slice_instance(
            low=low,
            high=high,
            weight=weight,
            cascade=cascade,
            p=p,
            following=following,
            domain=domain,
        )
        cascade = following
    return p


def tree(m: Module, values: list[Value], name: str, domain: str = "sync") -> Value:
    """The values' sum, a register of ``domain`` behind each level."""
    level = 0
    while len(values) > 1:
        added: list[Value] = []
        for n in range(0, len(values), 2):
            wider = signed(LANE + level + 1)
            total = Signal(wider, name=f"{name}_{level}_{n}", reset_less=True)
            m.d[domain] += total.eq(sum(values[n + 1 : n + 2], values[n]))
            added.append(total)
        values, level = added, level + 1
    return values[0]


def slice_instance(
    *,
    low: Value,
    high: Value,
    weight: Value,
    cascade: Value | None,
    p: Value,
    following: Value,
    domain: str = "sync",
) -> Instance:
    """One slice: ``p = following = previous + ((high << 18) + low) * weight``.

    ``low``, ``high``, ``weight``: int8. ``cascade``: PCOUT of the slice before; without one
    ``previous`` is ``2**17``. Latency: 4 cycles from the operands, 1 from ``cascade``.
    """
    first = cascade is None
    opmode = _FROM_PRODUCT | (_FROM_RND if first else _FROM_CASCADE)
    registers = {"AREG": 1, "ACASCREG": 1, "BREG": 2, "BCASCREG": 2, "DREG": 1, "ADREG": 1}
    registers |= {"MREG": 1, "PREG": 1, "CREG": 0}
    for control in ("ALUMODE", "CARRYIN", "CARRYINSEL", "INMODE", "OPMODE"):
        registers[f"{control}REG"] = 0  # constants
    enables = {"CEA2", "CEB1", "CEB2", "CED", "CEAD", "CEM", "CEP"}
    disabled = {"CEA1", "CEC", "CEALUMODE", "CECARRYIN", "CECTRL", "CEINMODE"}
    resets = ("A", "B", "C", "D", "M", "P", "ALLCARRYIN", "ALUMODE", "CTRL", "INMODE")
    return Instance(
        "DSP48E2",
        **{f"p_{name}": value for name, value in registers.items()},
        p_USE_MULT="MULTIPLY",
        p_USE_SIMD="ONE48",
        p_A_INPUT="DIRECT",
        p_B_INPUT="DIRECT",
        p_AMULTSEL="AD",
        p_BMULTSEL="B",
        p_PREADDINSEL="A",
        p_RND=Const(1 << (LANE - 1) if first else 0, 48),
        i_CLK=ClockSignal(domain),
        **{f"i_{name}": Const(1) for name in sorted(enables)},
        **{f"i_{name}": Const(0) for name in sorted(disabled)},
        **{f"i_RST{name}": Const(0) for name in resets},
        i_A=_extended(low, 30),
        i_D=Cat(Const(0, LANE), _extended(high, 27 - LANE)),
        i_B=_extended(weight, 18),
        i_C=Const(0, 48),
        i_ACIN=Const(0, 30),
        i_BCIN=Const(0, 18),
        i_PCIN=Const(0, 48) if cascade is None else cascade,
        i_CARRYIN=Const(0),
        i_CARRYCASCIN=Const(0),
        i_MULTSIGNIN=Const(0),
        i_CARRYINSEL=Const(0, 3),
        i_INMODE=Const(0b00100, 5),  # A2 plus D, B2
        i_OPMODE=Const(opmode, 9),
        i_ALUMODE=Const(0, 4),  # Z + W + X + Y
        o_P=p,
        o_PCOUT=following,
    )


def _extended(value: Value, width: int) -> Value:
    return Cat(value, value[-1].replicate(width - len(value)))
