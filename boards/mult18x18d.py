"""Primitives of Lattice ECP5 devices: two int8 products in one MULT18X18D.

A multiplier takes two outputs' weights at once, ``W = (w1 << 10) + w0``, which fit its 18 bits
while weights are within +-127, and a token's activation ``a``: ``P = (w1 a << 10) + w0 a``. The
lower product has 15 bits, so five of them, ``h``, lie under the upper product's lowest five. These
are ``t = w1 a mod 32``, a small product of the operands' lowest five bits in look-up tables, and
``h = (P >> 10) - t mod 32``, signed. Nothing else need be taken apart, because a dot product adds:

    sum(w0 a) = sum(P mod 1024) + (sum(h) << 10)
    sum(w1 a) = sum(P >> 10) - sum(h)

Registers of the primitive: operands, product, result. The device has no other use of it that
nextpnr knows: no 9 x 9 multipliers, and no adders that Yosys fills. Facts of the primitive are from
Lattice's FPGA-TN-02205 (sysDSP usage guide); ``mult18x18d.v`` is our model of the subset that is
used here, for tests only.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value, signed, unsigned

from moevit.hw.compute.dot import DotProducts

__all__ = ["MODEL", "Platform"]

MODEL = "mult18x18d.v"
"""Beside this file: a behavioural model of the subset of MULT18X18D that is used."""

_CUT = 10
"""Place of the upper weight."""
_HIDDEN = 5
"""Bits of the lower product from ``_CUT`` on."""
_PRIMITIVE = 3
"""Registers in a multiplier."""
_LEAST = 8
"""Inputs from which on the adders fit ``DotProducts.latency``."""


class Platform:
    """Given to :func:`moevit.hw.verilog.generate`, builds the array of MULT18X18D."""

    def dot_products(self, dot: DotProducts) -> Module:
        """What drives ``dot.o``: ``tokens * inputs * outputs / 2`` multipliers, and adders.

        Raises ``ValueError`` for fewer than 8 inputs, whose sums would be late.
        """
        m = Module()
        array = dot.array
        if array.inputs < _LEAST:
            raise ValueError(f"ArrayConfig.inputs must be {_LEAST} or more, not {array.inputs}")
        for o in range(0, array.outputs, 2):
            packed = [
                _register(m, (dot.w[o + 1][i] << _CUT) + dot.w[o][i], signed(18), name=f"w_{o}_{i}")
                for i in range(array.inputs)
            ]
            for t in range(array.tokens):
                name = f"{t}_{o}"
                high: list[Value] = []
                low: list[Value] = []
                hidden: list[Value] = []
                for i in range(array.inputs):
                    p = self._multiply(m, f"mult_{name}_{i}", packed[i], dot.a[t][i])
                    tail = _tail(m, f"{name}_{i}", dot.w[o + 1][i], dot.a[t][i])
                    high.append(p[_CUT:].as_signed())
                    low.append(p[:_CUT])
                    h = (p[_CUT : _CUT + _HIDDEN] - tail)[:_HIDDEN].as_signed()
                    hidden.append(_register(m, h, signed(_HIDDEN), name=f"h_{name}_{i}"))
                upper, levels = _tree(m, high, f"high_{name}")
                lower, _ = _tree(m, low, f"low_{name}")
                under, _ = _tree(m, hidden, f"hidden_{name}")
                # The hidden bits are a cycle late.
                upper = _register(m, upper, upper.shape(), name=f"upper_{name}")
                lower = _register(m, lower, lower.shape(), name=f"lower_{name}")
                results = (lower + (under << _CUT), upper - under)
                made = 1 + _PRIMITIVE + 1 + levels + 1
                for n, total in enumerate(results):
                    value = _register(m, total, signed(dot.sum_bits), name=f"sum_{t}_{o + n}")
                    for _ in range(dot.latency - made):
                        value = _register(m, value, value.shape(), name=f"sum_{t}_{o + n}")
                    m.d.comb += dot.o[t][o + n].eq(value)
        return m

    def _multiply(self, m: Module, name: str, packed: Value, a: Value) -> Value:
        """26 bits of a product, ``_PRIMITIVE`` cycles behind ``packed``, four behind ``a``."""
        p = Signal(36, name=f"{name}_p")
        later = _register(m, a, signed(8), name=f"{name}_a")
        m.submodules[name] = _instance(packed, later, p)
        return p[: _CUT + 16]


def _register(m: Module, value: Any, shape: Any, *, name: str) -> Signal:
    register = Signal(shape, name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register


def _tail(m: Module, name: str, w: Value, a: Value) -> Value:
    """``w * a mod 32``, four cycles later."""
    w, a = w[:_HIDDEN], a[:_HIDDEN]
    w = _register(m, w, unsigned(_HIDDEN), name=f"tail_w_{name}")
    a = _register(m, a, unsigned(_HIDDEN), name=f"tail_a_{name}")
    # Plain logic throughout: Yosys would make a multiplier of `w * a`.
    tail: Value = Const(0, _HIDDEN)
    for n in range(_HIDDEN):
        row = Cat(Const(0, n), a & w[n].replicate(_HIDDEN))[:_HIDDEN]
        tail = _added(m, tail, row, f"tail_{name}_{n}")
    for _ in range(_PRIMITIVE):
        tail = _register(m, tail, unsigned(_HIDDEN), name=f"tail_{name}")
    return tail


def _added(m: Module, x: Value, y: Value, name: str) -> Value:
    """The sum without a carry chain, of as many bits as ``x``."""
    width = len(x)
    carry, half = Signal(width + 1, name=f"{name}_carry"), Signal(width, name=f"{name}_half")
    total = Signal(width, name=f"{name}_sum")
    m.d.comb += [
        half.eq(x ^ y),
        carry.eq(Cat(Const(0, 1), (x & y) | (carry[:width] & half))),
        total.eq(half ^ carry[:width]),
    ]
    return total


def _tree(m: Module, values: list[Value], name: str) -> tuple[Value, int]:
    """The values' sum, a register behind each level; and the levels."""
    level = 0
    while len(values) > 1:
        added = []
        for n in range(0, len(values), 2):
            total = values[n] + values[n + 1]
            added.append(_register(m, total, total.shape(), name=f"{name}_{level}_{n}"))
        values, level = list(added), level + 1
    return values[0], level


def _instance(a: Value, b: Value, p: Signal) -> Instance:
    """``p = a * b`` of two signed operands, ``_PRIMITIVE`` cycles later."""
    registers = {
        **{f"p_REG_INPUT{x}_{what}": value for x in "AB" for what, value in _CLOCKED.items()},
        **{f"p_REG_PIPELINE_{what}": value for what, value in _CLOCKED.items()},
        **{f"p_REG_OUTPUT_{what}": value for what, value in _CLOCKED.items()},
    }
    return Instance(
        "MULT18X18D",
        **registers,
        p_SOURCEB_MODE="B_SHIFT",
        p_MULT_BYPASS="DISABLED",
        p_CLK0_DIV="ENABLED",
        p_GSR="DISABLED",
        p_RESETMODE="SYNC",
        **{f"i_A{n}": bit for n, bit in enumerate(_wide(a))},
        **{f"i_B{n}": bit for n, bit in enumerate(_wide(b))},
        i_SIGNEDA=Const(1),
        i_SIGNEDB=Const(1),
        i_SOURCEA=Const(0),
        i_SOURCEB=Const(0),
        i_CLK0=ClockSignal("sync"),
        i_CE0=Const(1),
        i_RST0=Const(0),
        **{f"o_P{n}": p[n] for n in range(36)},
    )


_CLOCKED = {"CLK": "CLK0", "CE": "CE0", "RST": "RST0"}


def _wide(value: Value) -> Value:
    return Cat(value, value[-1].replicate(18 - len(value)))
