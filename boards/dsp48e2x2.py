"""DSP48E2 slices at twice the clock of everything else: four int8 products a slice and cycle.

A weight stays at its slice for two fast cycles, while two pairs of tokens pass (``dsp48e2.py`` has
the slice and its chain). Only what is in here runs at the fast clock, and it takes as many cycles
of the slow one as :class:`moevit.hw.compute.dot.Pipeline` says, the twin's latency, with registers
to spare: they stand where a net is long.

- A register of the slow clock behind the operands, then one of the fast clock, which takes the
  tokens of the first pair in the first half of a slow cycle, those of the second in the second.
- The delay of a place in its chain in shift registers, with a flip-flop behind each, since the way
  out of a shift register is slow; of tokens that is the root of a tree whose leaves drive
  ``_FAN_OUT`` slices each.
- A register behind P, the adders of the fast clock, and two registers a sum, which the slow clock
  takes together.

No register is reset: which half it is follows from a flip-flop that changes at every edge of the
slow clock and one that follows it at every edge of the fast one, from any state within two cycles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, signed

from moevit.hw.clocks import Clock
from moevit.hw.compute.dot import DotProducts, Pipeline
from moevit.hw.lib.storage import KEEP

from .dsp48e2 import LANE, chain, lanes, tree

__all__ = ["Platform", "Stages"]

_FAN_OUT = 4
"""Slices that a token's register drives."""

_CHOICES = 64
"""Bits of operands for which a register says which half of the slow cycle it is."""

_KEEP = {**KEEP, "shreg_extract": "no"}
"""Attributes of a flip-flop that is no part of a shift register and merged with no other."""

_SLICE = 4
"""Registers of a slice between operands and P."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Where the registers of a dot product of ``inputs`` pairs stand.

    ``slow_in``, ``slow_out``: of the slow clock, in front and behind. ``ends``: fast ones behind
    the shift registers, beside the delay of a place. ``behind``: fast ones behind P.
    """

    slow_in: int
    slow_out: int
    ends: int
    behind: int

    @classmethod
    def of(cls, pipeline: Pipeline) -> Stages:
        """Those that make up the latency of ``pipeline``.

        With ``fast`` registers of the fast clock between the first, which chooses, and the sum,
        the second half's sum is there ``2 + fast`` half cycles after the operands. A register of
        the slow clock takes both half a cycle later, so that ``3 + fast`` is twice the latency.
        """
        least = _SLICE + pipeline.length - 1 + pipeline.levels
        spare = 2 * pipeline.latency - 3 - least
        ends = min(2, spare & ~1)
        slow_in = min(1, (spare - ends) // 2)
        rest = spare - ends - 2 * slow_in
        behind = min(1, rest)
        ends += (rest - behind) % 2
        return cls(slow_in=slow_in, slow_out=(rest - behind) // 2, ends=ends, behind=behind)


class Platform:
    """Two clocks: a slice does four products a cycle of ``clk``.

    Given to :func:`moevit.hw.verilog.generate`, builds the array of DSP48E2 slices.
    """

    clocks = (Clock(domain="fast", port="clk_2x", times=2),)

    def dot_products(self, dot: DotProducts) -> Module:
        """What drives ``dot.o``: ``tokens * inputs * outputs / 4`` slices and adders.

        Raises ``ValueError`` unless tokens come in fours.
        """
        array, pipeline = dot.array, Pipeline(inputs=dot.array.inputs)
        if array.tokens % 4:
            raise ValueError(
                "Primitives dsp48e2x2: tokens must be a multiple of 4 (two pairs share a slice), "
                f"not {array.tokens}"
            )
        stages = Stages.of(pipeline)
        m = Module()
        first = _first_half(m, -(-4 * array.tokens * array.inputs // _CHOICES))
        weights = [_weights(m, dot.w[o], stages, f"w_{o}") for o in range(array.outputs)]
        for t in range(0, array.tokens, 4):
            operands = []
            for n in (t, t + 1):
                at = n // 4 * 2 + n % 2  # of half as many
                choice = [
                    first[8 * (at * array.inputs + i) // _CHOICES] for i in range(array.inputs)
                ]
                both = (dot.a[n], dot.a[n + 2])
                operands.append(_tokens(m, both, choice, stages, array.outputs, f"a_{n}"))
            for o in range(array.outputs):
                leaf = o // _FAN_OUT
                columns = zip(operands[0][leaf], operands[1][leaf], weights[o], strict=True)
                for n, sums in enumerate(_pair(m, list(columns), pipeline, stages, f"{t}_{o}")):
                    for late, value in zip((0, 2), sums, strict=True):
                        name = f"out_{t + n + late}_{o}"
                        total = _later(m.d.sync, value, 1 + stages.slow_out, name, _KEEP)
                        m.d.comb += dot.o[t + n + late][o].eq(total)
        return m


def _weights(m: Module, row: Any, stages: Stages, name: str) -> list[Value]:
    """An output's weights at their places in the chains, each for two fast cycles."""
    found = []
    for i, value in enumerate(row):
        value = _later(m.d.sync, value, stages.slow_in, f"{name}_{i}")
        value = _later(m.d.fast, value, 1, f"{name}_{i}_fast")
        delay = i % Pipeline(inputs=len(row)).length + stages.ends
        found.append(_ended(m, value, delay, f"{name}_{i}_end"))
    return found


def _tokens(
    m: Module,
    both: tuple[Any, Any],
    first: list[Signal],
    stages: Stages,
    loads: int,
    name: str,
) -> list[list[Value]]:
    """Two tokens' operands at their places in the chains, one token's after the other's; all of
    them once for every ``_FAN_OUT`` of ``loads`` slices."""
    copies = -(-loads // _FAN_OUT)
    found: list[list[Value]] = [[] for _ in range(copies)]
    for i, choice in enumerate(first):
        half = [
            _later(m.d.sync, token[i], stages.slow_in, f"{name}_{i}_{late}")
            for late, token in enumerate(both)
        ]
        value = Signal(signed(8), name=f"{name}_{i}_fast", reset_less=True)
        m.d.fast += value.eq(Mux(choice, *half))
        delay = i % Pipeline(inputs=len(first)).length + stages.ends
        if stages.ends < 2:
            leaves = [_later(m.d.fast, value, delay, f"{name}_{i}")] * copies
        else:
            root = _ended(m, value, delay - 1, f"{name}_{i}_root")
            leaves = [_ended(m, root, 1, f"{name}_{i}_leaf_{n}") for n in range(copies)]
        for copy, leaf in zip(found, leaves, strict=True):
            copy.append(leaf)
    return found


def _pair(
    m: Module,
    operands: list[tuple[Value, Value, Value]],
    pipeline: Pipeline,
    stages: Stages,
    name: str,
) -> list[tuple[Value, Value]]:
    """Of the slices' lower and upper token, the sums of the first half and of the second."""
    sums: tuple[list[Value], list[Value]] = ([], [])
    for start in range(0, pipeline.inputs, pipeline.length):
        places = [(*operands[i], i) for i in range(start, start + pipeline.length)]
        p = chain(m, f"dsp_{name}", places, "fast")
        p = _later(m.d.fast, p[: 2 * LANE], stages.behind, f"p_{name}_{start}")
        for lane, values in zip(lanes(p), sums, strict=True):
            values.append(lane)
    totals = [tree(m, values, f"sum_{name}_{n}", "fast") for n, values in enumerate(sums)]
    # The first half's sum waits for the second's.
    return [(_later(m.d.fast, v, 1, f"first_{name}_{n}"), v) for n, v in enumerate(totals)]


def _first_half(m: Module, copies: int) -> list[Signal]:
    """1 in the first half of a cycle of ``sync``, 0 in the second; registers of ``fast``."""
    turn, seen = (Signal(name=name, reset_less=True) for name in ("turn", "seen"))
    before = Signal(name="before_first", reset_less=True)  # 1 in the second half
    m.d.sync += turn.eq(~turn)
    m.d.fast += [seen.eq(turn), before.eq(turn ^ seen)]
    first = [Signal(name=f"first_{n}", reset_less=True, attrs=_KEEP) for n in range(copies)]
    m.d.fast += [copy.eq(before) for copy in first]
    return first


def _later(
    domain: Any, value: Value, cycles: int, name: str, attrs: dict[str, str] | None = None
) -> Value:
    """``value`` some cycles of a clock (``m.d`` of it) later."""
    for n in range(cycles):
        shape = Value.cast(value).shape()
        later = Signal(shape, name=f"{name}_{n}", reset_less=True, attrs=attrs or {})
        domain += later.eq(value)
        value = later
    return value


def _ended(m: Module, value: Value, cycles: int, name: str) -> Value:
    """``value`` some fast cycles later, the last in a flip-flop of its own."""
    if not cycles:
        return value
    value = _later(m.d.fast, value, cycles - 1, name)
    last = Signal(signed(8), name=name, reset_less=True, attrs=_KEEP)
    m.d.fast += last.eq(value)
    return last
