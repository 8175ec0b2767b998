"""The page's other charts: costs by block, accuracy by layer, memories over time."""

from __future__ import annotations

from typing import Any

from bokeh.layouts import column
from bokeh.models import ColumnDataSource, FactorRange
from bokeh.palettes import Colorblind8

from moevit.bench.explain import Explanation
from moevit.bench.memory_map import SHOWN, memory_map
from moevit.compiler.check.accesses import Memory, memory_words

from .style import KINDS, STATES, chart, kind_of, legend_below

__all__ = ["accuracy", "costs", "memories", "traffic"]

_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x", "star")
_DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
_NAMES = {
    Memory.ACTIVATIONS: "activation memory",
    Memory.RESIDUAL: "residual memory",
    Memory.KEY_VALUES: "key/value memory",
}


def costs(found: Explanation) -> Any:
    """Cycles of the array by task and part, stacked by what it did, beside the estimate."""
    factors = [
        (cost.task, part) for cost in found.costs for part in cost.parts if part != "program"
    ]
    made = chart("Cycles by part, and the estimate (black lines)", height=360,
                 x_range=FactorRange(*factors), tips=[("", "@x"), ("state", "$name"),
                                                      ("cycles", "@$name{0,0}")])  # fmt: skip
    data: dict[str, Any] = {"x": factors}
    for state in STATES:
        data[state.value] = [
            cost.parts[part].states.get(state, 0)
            for cost in found.costs
            for part in cost.parts
            if part != "program"
        ]
    names = [state.value for state in STATES if any(data[state.value])]
    made.vbar_stack(
        names, x="x", width=0.85, source=ColumnDataSource(data), line_color="white",
        line_width=0.3, fill_color=[STATES[s][0] for s in STATES if s.value in names],
        legend_label=names,
    )  # fmt: skip
    made.scatter(
        x=factors,
        y=[c.parts[p].estimated for c in found.costs for p in c.parts if p != "program"],
        marker="dash", size=22, color="black", line_width=2.5, legend_label="estimate",
    )  # fmt: skip
    return _by_part(made, "cycles")


def traffic(found: Explanation) -> Any:
    """Bytes by task and part."""
    factors = [(cost.task, part) for cost in found.costs for part in cost.parts if part != "end"]
    names = {"streamed": "weights, streamed", "fetched": "weights, on demand", "moved": "data"}
    colours = ["#0072B2", "#D55E00", "#E69F00"]
    made = chart("Bytes by part", height=330, x_range=FactorRange(*factors),
                 tips=[("", "@x"), ("", "$name"), ("bytes", "@{$name}{0,0}")])  # fmt: skip
    data: dict[str, Any] = {"x": factors}
    for name, label in names.items():
        data[label] = [
            getattr(c.parts[p], name) for c in found.costs for p in c.parts if p != "end"
        ]
    made.vbar_stack(
        list(names.values()), x="x", width=0.85, source=ColumnDataSource(data),
        line_color="white", line_width=0.3, fill_color=colours, legend_label=list(names.values()),
    )  # fmt: skip
    return _by_part(made, "bytes")


def _by_part(made: Any, label: str) -> Any:
    made.xaxis.major_label_orientation = 1.1
    made.xaxis.group_text_font_size = "12px"
    made.yaxis.axis_label = label
    made.yaxis.formatter.use_scientific = False
    made.y_range.start = 0
    made.xgrid.visible = False
    return legend_below(made)


def accuracy(found: Explanation) -> Any:
    """What quantising each part alone costs, and how the integers' noise grows along the way."""
    about = found.accuracy
    if about is None:
        return None
    parts = about["sensitivity"]
    names = list(parts)
    kinds = list(dict.fromkeys(part["kind"] for part in parts.values()))
    colour = {kind: Colorblind8[n % 8] for n, kind in enumerate(kinds)}
    scored = all("delta_m" in part for part in parts.values())
    tips = [("", "@name"), ("signal to noise", "@sqnr{0.0} dB")]
    tips += [("change of the scores", "@delta{+0.00} %")] if scored else []
    first = chart(
        f"Sensitivity: signal to noise of the outputs when one part alone is integer "
        f"({about['images']} images; the lower, the more it costs)",
        height=380, x_range=names, tips=tips,
    )  # fmt: skip
    first.vbar(
        source=ColumnDataSource({
            "name": names,
            "sqnr": [part["sqnr_db"] for part in parts.values()],
            "delta": [part.get("delta_m", 0.0) for part in parts.values()],
            "colour": [colour[part["kind"]] for part in parts.values()],
        }),
        x="name", top="sqnr", width=0.8, fill_color="colour", line_color="white",
    )  # fmt: skip
    sites = about["order"]
    second = chart(
        "Integer error along the network: signal to noise against floats",
        height=350,
        x_range=sites,
        tips=[("", "@task"), ("", "@site"), ("", "@db{0.0} dB")],
    )
    for n, (task, each) in enumerate(about["comparison"]["tasks"].items()):
        data = ColumnDataSource(
            {
                "site": [site for site in sites if site in each["decibels"]],
                "db": [each["decibels"][site] for site in sites if site in each["decibels"]],
                "task": [task] * len([site for site in sites if site in each["decibels"]]),
            }
        )
        second.line(source=data, x="site", y="db", color=Colorblind8[n % 8], line_width=2,
                    line_dash=_DASHES[n % len(_DASHES)], legend_label=task)  # fmt: skip
        second.scatter(source=data, x="site", y="db", color=Colorblind8[n % 8], size=8,
                       marker=_MARKERS[n % len(_MARKERS)], legend_label=task)  # fmt: skip
    legend_below(second)
    for made in (first, second):
        made.xaxis.major_label_orientation = "vertical"
        made.xaxis.major_label_text_font_size = "9px"
        made.yaxis.axis_label = "dB"
        made.xgrid.visible = False
    return column(first, second, sizing_mode="stretch_width")


def memories(found: Explanation) -> Any:
    """Words of each memory over the first frame: by whom written, until when they are read."""
    real = found.real
    sizes = memory_words(real.program.config, real.program.output_bytes)
    held = memory_map(real, 0)
    frame = real.frames[0]
    notes = real.program.entry(frame.task).notes
    charts = []
    x = None
    for memory in SHOWN:
        options: dict[str, Any] = {} if x is None else {"x_range": x}
        used = max((h.high for h in held if h.memory == memory), default=1)
        made = chart(
            f"{_NAMES[memory]}, task {frame.task}: {used:,} of {sizes[memory]:,} words in use",
            height=270, y_range=(0, used),
            tips=[("", "@note"), ("words", "@bottom to @top"), ("cycles", "@left to @right")],
            **options,
        )  # fmt: skip
        if x is None:
            x = made.x_range
            x.start, x.end = 0, frame.end - frame.start
        for kind, (_, colour) in KINDS.items():
            mine = [h for h in held if h.memory == memory and kind_of(notes[h.index]) == kind]
            if mine:
                made.quad(
                    source=ColumnDataSource({
                        "left": [h.start for h in mine], "right": [h.end for h in mine],
                        "bottom": [h.low for h in mine], "top": [h.high for h in mine],
                        "note": [notes[h.index] for h in mine],
                    }),
                    left="left", right="right", bottom="bottom", top="top", fill_color=colour,
                    fill_alpha=0.75, line_color="white", line_width=0.4, legend_label=kind,
                )  # fmt: skip
        legend_below(made)
        made.xaxis.axis_label = "cycle of the frame"
        made.yaxis.axis_label = "word"
        made.xaxis.formatter.use_scientific = False
        charts.append(made)
    return column(*charts, sizing_mode="stretch_width")
