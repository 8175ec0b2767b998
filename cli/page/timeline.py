"""The page's timeline: every unit's instructions beside the estimate's, the array's states, levels.

An instruction is a bar; what the array does within is added up over short times, so that the page
stays small. Every cycle by itself is in the trace of `moevit run --trace`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, FactorRange, Range1d, RangeTool

from moevit.bench.explain import Explanation
from moevit.compiler.timeline import State, Timeline

from .style import KINDS, STATES, chart, kind_of, legend_below

__all__ = ["timeline"]

_BINS = 1500
_AT_ONCE = 8
"""Cycles in which an instruction that was taken asks for its first credit."""
_TIPS = [
    ("", "@note"),
    ("instruction", "#@index, @kind"),
    ("task", "@task"),
    ("unit", "@unit"),
    ("cycles", "@cycles{0,0} from @left{0,0}"),
    ("waits", "@waits"),
]


def _bars(made: Timeline, side: str) -> dict[str, list[Any]]:
    """The instructions of all units; the estimate's are thinner and lie below."""
    found: dict[str, list[Any]] = {
        name: [] for name in ("left", "right", "top", "bottom", "colour", "note", "index", "kind",
                              "task", "unit", "cycles", "waits")
    }  # fmt: skip
    order = list(reversed(_units(made)))
    for unit, about in made.units.items():
        if unit not in order:
            continue
        place = order.index(unit)
        low, high = (0.38, 0.92) if side == "real" else (0.1, 0.34)
        stretches, at = about.stretches, 0
        for work in about.works:
            waits: dict[str, int] = {}
            begin = work.start
            while at < len(stretches) and stretches[at].end <= work.start:
                at += 1
            for s in stretches[at:]:
                if s.start >= work.end:
                    break
                if s.state.startswith("waits"):
                    cycles = min(s.end, work.end) - max(s.start, work.start)
                    waits[s.state] = waits.get(s.state, 0) + cycles
                if s.state == State.CREDITS and s.start <= begin + _AT_ONCE:
                    begin = min(s.end, work.end - 1)  # it waits for its first operands
            note = made.note(work)
            kind = kind_of(note)
            for name, value in (
                ("left", begin), ("right", work.end), ("bottom", place + low),
                ("top", place + high), ("colour", KINDS[kind][1]), ("note", note),
                ("index", work.index), ("kind", kind if side == "real" else f"{kind} (estimate)"),
                ("task", made.frames[work.frame].task), ("unit", unit),
                ("cycles", work.end - begin),
                ("waits", ", ".join(f"{n:,} {s}" for s, n in waits.items()) or "none"),
            ):  # fmt: skip
                found[name].append(value)
    return found


def _units(made: Timeline) -> list[str]:
    return [unit for unit in made.units if made.units[unit].works and unit != "load"]


def _shares(real: Timeline, edges: Any) -> dict[str, Any]:
    """The share of each of the array's states between two edges."""
    found = {}
    for state in STATES:
        mine = [s for s in real.units["array"].stretches if s.state == state]
        starts = np.array([s.start for s in mine], np.int64)
        ends = np.array([s.end for s in mine], np.int64)
        lengths = np.concatenate(([0], np.cumsum(ends - starts)))

        def until(times: Any, starts: Any = starts, ends: Any = ends, done: Any = lengths) -> Any:
            """Cycles in the state before some times."""
            n = np.searchsorted(starts, times, side="right")
            over = np.where(n > 0, np.maximum(ends[np.maximum(n - 1, 0)] - times, 0), 0)
            return done[n] - over

        cycles = np.diff(until(edges)) if len(mine) else np.zeros(len(edges) - 1)
        found[state.value] = np.round(cycles / np.diff(edges), 3).astype(np.float32)
    return found


def timeline(found: Explanation) -> Any:
    """All frames, one behind the other; the first fills the chart at first."""
    real = found.real
    first, last = real.frames[0], real.frames[-1]
    x = Range1d(first.start, first.end, bounds=(first.start - 1, last.end + 1))
    order = list(reversed(_units(real)))
    bars = chart(
        "Instructions of every unit: wide bars the accelerator, thin bars below the estimate",
        height=44 * len(order) + 60,
        x_range=x,
        y_range=FactorRange(*order),
        tips=_TIPS,
        output_backend="canvas",
    )
    for kind, (_, colour) in KINDS.items():
        data = {side: _bars(made, side) for side, made in _sides(found)}
        for side, rows in data.items():
            keep = [n for n, k in enumerate(rows["kind"]) if k.removesuffix(" (estimate)") == kind]
            if keep:
                bars.quad(
                    source=ColumnDataSource({k: [v[n] for n in keep] for k, v in rows.items()}),
                    left="left", right="right", top="top", bottom="bottom",
                    fill_color=colour, line_color="white", line_width=0.3,
                    fill_alpha=1.0 if side == "real" else 0.7, legend_label=kind,
                )  # fmt: skip
    legend_below(bars)
    edges = np.linspace(first.start, last.end, _BINS * len(real.frames) + 1).round().astype(int)
    edges = np.unique(edges)
    shares = _shares(real, edges)
    states = chart("What the array does (share of cycles)", height=200, x_range=x, y_range=(0, 1))
    between = {"left": edges[:-1].astype(np.int32), "right": edges[1:].astype(np.int32)}
    below = np.zeros(len(edges) - 1, np.float32)
    for state, (colour, hatch) in STATES.items():
        top = below + shares[state.value]
        if not shares[state.value].any():
            continue
        states.quad(
            source=ColumnDataSource({**between, "bottom": below, "top": top}),
            left="left", right="right", bottom="bottom", top="top", fill_color=colour,
            line_color=None, legend_label=state.value,
            hatch_pattern=hatch or None, hatch_alpha=0.25, hatch_color="black",
        )  # fmt: skip
        below = top
    legend_below(states)
    parts = [bars, states, _levels(real, x)]
    whole = chart("All frames: drag the window", height=110, x_range=(first.start, last.end),
                  y_range=(0, 1), tools="")  # fmt: skip
    whole.quad(
        left=[f.start for f in real.frames], right=[f.end for f in real.frames], bottom=0, top=1,
        fill_color=["#dbe9f4", "#ffffff"] * (len(real.frames) // 2) + ["#dbe9f4"] * (
            len(real.frames) % 2), line_color="#888888",
    )  # fmt: skip
    whole.text(
        x=[(f.start + f.end) / 2 for f in real.frames], y=0.5, text=[f.task for f in real.frames],
        text_align="center", text_baseline="middle", text_font_size="12px",
    )  # fmt: skip
    whole.yaxis.visible = False
    whole.min_border_left, whole.min_border_right = 95, 15
    whole.add_tools(RangeTool(x_range=x))
    for each in (*parts, whole):
        each.xaxis.formatter.use_scientific = False
        each.xaxis.axis_label = "cycle"
    return column(whole, *parts, sizing_mode="stretch_width")


def _sides(found: Explanation) -> list[tuple[str, Timeline]]:
    return [("real", found.real), ("estimate", found.expected)]


def _levels(real: Timeline, x: Range1d) -> Any:
    """Bytes of the ports together, and rows in the weight ring, as shares of what there can be."""
    config = real.program.config
    made = chart("Weight ring and ports", height=180, x_range=x, y_range=(0, 1.02))
    made.yaxis.axis_label = "share of full"
    beat = 16 * config.memory.ports
    reads = [level for level in real.levels if level.name.endswith(" read")]
    if reads:
        times = np.unique(np.concatenate([np.asarray(level.times) for level in reads]))
        total = np.zeros(len(times))
        for level in reads:
            at = np.searchsorted(level.times, times, side="right") - 1
            total += np.where(at >= 0, np.asarray(level.values)[np.maximum(at, 0)], 0)
        made.step(times, np.round(total / beat, 3), mode="after", color="#D55E00",
                  legend_label="bytes read, all ports", line_width=1)  # fmt: skip
    for level in real.levels:
        if level.name == "weight ring":
            share = np.round(np.asarray(level.values) / config.memory.ring_rows, 3)
            made.step(level.times, share, mode="after", color="#0072B2", line_dash="dashed",
                      legend_label="rows in the weight ring", line_width=1.5)  # fmt: skip
    return legend_below(made)
