"""Tables of a resource report, for the terminal and for docs/resources.md."""

from __future__ import annotations

import datetime

from .cells import CLOCK_TO_Q, LEVEL, SETUP, UNCERTAINTY
from .parts import RESOURCES
from .resources import Report

__all__ = ["figures", "levels", "page"]

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
    timed = [(block.path, block.name) for block in report.blocks if block.path is not None]
    for path, name in sorted(timed, key=lambda item: -item[0].ns):
        rows.append(
            (
                name,
                f"{path.ns:.2f}",
                f"{path.slack(report.config.clock_mhz):+.2f}",
                str(path.luts),
                str(path.carries),
                ", ".join(path.marks),
                path.start,
                path.end,
            )
        )
    return rows


def _markdown(rows: Rows) -> str:
    head, *body = rows
    rule = tuple("---" if n == 0 or n > 5 else "---:" for n in range(len(head)))
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


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
core by itself, and what is left of the core and of the top (`core`, `moevit`). Two int8 products
share a DSP48E2 (`array.dot`, boards/dsp48e2.py). All figures are **estimated**: nothing is placed
or routed. Yosys takes no registers into the other multipliers and packs no two small look-up tables
into one, so a vendor's tool should need fewer of both.

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
what is left of the period.

{_markdown(levels(report))}

Longer than allowed: {", ".join(long) or "none"}.
"""
