"""Tables of a resource report, for the terminal and for docs/resources.md."""

from __future__ import annotations

import datetime

from .cells import CLOCK_TO_Q, LEVEL, SETUP, UNCERTAINTY
from .fanout import MOST
from .parts import RESOURCES, primitives
from .resources import Report

__all__ = ["fan_out", "figures", "levels", "page"]

_NETS = 24
"""Rows of the table of nets."""

_MADE_OF = {
    "dsp48e2": "slices that do two int8 products a cycle (boards/dsp48e2.py)",
    "dsp48e2x2": "slices at twice the clock, which do four int8 products a cycle of the slow one "
    "(boards/dsp48e2x2.py)",
}

Rows = list[tuple[str, ...]]
"""A table with its headings first."""


def figures(report: Report) -> Rows:
    """Resources by block, the sum, the budget and the board; the first row is the heading."""
    rows: Rows = [("block", *RESOURCES)]
    rows += [(block.name, *_amounts(block.uses)) for block in report.blocks]
    part, uses = report.part, report.uses
    rows += [
        ("sum", *_amounts(uses)),
        ("of the board", *(f"{uses[r] / part.has[r]:.0%}" for r in RESOURCES)),
        ("budget", *_amounts({r: float(part.budget[r]) for r in RESOURCES})),
        ("board", *_amounts({r: float(part.has[r]) for r in RESOURCES})),
    ]
    return rows


def _amounts(uses: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{uses[r]:,.1f}".removesuffix(".0") for r in RESOURCES)


def levels(report: Report) -> Rows:
    """The longest path that begins or ends in each block, or crosses it; longest first."""
    rows: Rows = [("block", "ns", "slack", "LUT", "CARRY4", "through", "from", "to")]
    timed = [(block.path, block) for block in report.blocks if block.path is not None]
    for path, block in sorted(timed, key=lambda item: -item[0].ns):
        rows.append(
            (
                block.name,
                f"{path.ns:.2f}",
                f"{path.slack(block.clock_mhz):+.2f}",
                str(path.luts),
                str(path.carries),
                ", ".join(path.marks),
                path.start,
                path.end,
            )
        )
    return rows


def fan_out(report: Report) -> Rows:
    """The nets that drive most in the whole accelerator, most first."""
    rows: Rows = [("net", "loads", "driver", "block", "drives")]
    nets = [(net, block.name) for block in report.blocks for net in block.nets]
    for net, name in sorted(nets, key=lambda item: -item[0].loads)[:_NETS]:
        drives = ", ".join(f"{count:,} {pin}" for pin, count in list(net.drives.items())[:4])
        rows.append((net.name, f"{net.loads:,}", net.driver, name, drives))
    return rows


def _markdown(rows: Rows) -> str:
    head, *body = rows
    numbers = {n for row in body for n, text in enumerate(row) if text[:1] in "+-0123456789"}
    rule = tuple("---:" if n in numbers else "---" for n in range(len(head)))
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def _fast(report: Report) -> str:
    clock = report.config.clock_mhz
    fast = [f"`{b.name}` {b.clock_mhz:g} MHz" for b in report.blocks if b.clock_mhz != clock]
    return ", ".join([*fast, f"{'all others' if fast else 'all'} {clock:g} MHz"])


def _wide(report: Report) -> str:
    return ", ".join(f"`{net.name}` ({block})" for block, net in report.wide) or "none"


def page(report: Report) -> str:
    """docs/resources.md."""
    config = report.config
    period = 1e3 / config.clock_mhz
    most = int((period - UNCERTAINTY - CLOCK_TO_Q - SETUP) / LEVEL)
    long = [block.name for block in report.blocks if report.too_long(block)]
    return f"""# Resources and logic depth

Made by `moevit resources --preset {config.name} --docs docs/resources.md` on
{datetime.date.today().isoformat()}, configuration {config.hash:#018x}. Do not edit.

Yosys (`synth_xilinx -family xcup`) maps the real top block by block: each engine and memory of the
core by itself, and what is left of the core and of the top (`core`, `moevit`). The multipliers
(`array.dot`) are {_MADE_OF[primitives(config.name)]}.
All figures are **estimated**: nothing is placed or routed. Yosys takes no registers into the other
multipliers and packs no two small look-up tables into one, so a vendor's tool should need fewer of
both.

## {report.part.device}{report.part.speed}, preset `{config.name}`

{_markdown(figures(report))}

Over the budget: {", ".join(report.over) or "nothing"}. The budget is 75 % of the LUTs, 90 % of
block and ultra RAM, and 1,350 DSPs.

## Levels of logic at {config.clock_mhz:g} MHz

An **estimate by rules of thumb** of the longest path between registers in each block; `core` and
`moevit` are those that cross blocks, through the blocks' ports. Only place and route proves a
clock. A period of {period:.2f} ns less {UNCERTAINTY:.2f} of uncertainty, {CLOCK_TO_Q:.2f} from
clock to output and {SETUP:.2f} of set-up leaves {most} look-up tables in a row, at {LEVEL:.2f} ns
each with its net, on a -2 part. A path out of block RAM begins with 1.5 ns, out of ultra RAM with
1.8; a multiplier costs 1.9 (boards/cells.py has all, with sources and assumptions). `slack` is
what is left of the period of a block's fastest clock: {_fast(report)}.

{_markdown(levels(report))}

Longer than allowed: {", ".join(long) or "none"}.

## Nets of highest fan-out

What each drives: look-up tables (LUT.I), or a cell's pin (CE is a flip-flop's enable). Clocks are
left out; a net counts in the block of its driver with all that it drives in others. Most is {MOST}
loads, but for resets.

{_markdown(fan_out(report))}

Over {MOST} loads: {_wide(report)}.
"""
