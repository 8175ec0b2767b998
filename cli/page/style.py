"""Colours and sizes of the page's charts, told apart by the colour-blind and in print."""

from __future__ import annotations

import re
from typing import Any

from bokeh.models import HoverTool
from bokeh.palettes import Colorblind8, Viridis256
from bokeh.plotting import figure

from moevit.compiler.timeline import State

__all__ = ["KINDS", "STATES", "chart", "expert_colours", "ink", "kind_of", "legend_below"]

# Okabe and Ito's colours ("Color universal design", 2008), as Bokeh has them.
_BLUE, _GREEN_BLUE, _SKY, _GREEN, _PINK, _RED, _YELLOW, _ORANGE = (
    *("#0072B2", "#009E73", "#56B4E9", "#117733", "#CC79A7", "#D55E00", "#F0E442", "#E69F00"),
)
assert Colorblind8[0].lower() == _BLUE.lower()

STATES: dict[State, tuple[str, str]] = {
    State.BUSY: (_BLUE, ""),
    State.OPERANDS: (_ORANGE, "/"),
    State.WEIGHTS: (_RED, "x"),
    State.DRAIN: (_PINK, "\\"),
    State.SOFTMAX: (_YELLOW, "."),
    State.NO_WORK: ("#cccccc", ""),
}
"""Colour and hatch of the array's states."""

KINDS: dict[str, tuple[str, str]] = {
    "attention": (r"attention|queries|keys|values|projection", _SKY),
    "experts": (r"expert", _RED),
    "router": (r"router", "#000000"),
    "dense MLP": (r"fc1|fc2", _ORANGE),
    "norm": (r"norm", _YELLOW),
    "embedding": (r"embedding|pixels|class token|tokens", _GREEN_BLUE),
    "heads": (r"head|result|stage", _PINK),
    "other": (r"", "#999999"),
}
"""Kinds of instructions by what their notes say, the first that fits, and their colours."""

_INK = "#222222"


def kind_of(note: str) -> str:
    """One of ``KINDS``."""
    return next(kind for kind, (pattern, _) in KINDS.items() if re.search(pattern, note))


def expert_colours(count: int) -> list[str]:
    """A colour an expert, spread over viridis; their numbers are in the cells as well."""
    last = len(Viridis256) - 1
    return [Viridis256[last * n // max(count - 1, 1)] for n in range(count)]


def ink(colour: str) -> str:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def legend_below(made: Any) -> Any:
    """Moves a chart's legend below it, so that charts one above the other have equal widths."""
    legend = made.legend[0]
    legend.orientation = "horizontal"
    legend.ncols = 8
    legend.border_line_color = None
    legend.padding = 2
    made.add_layout(legend, "below")
    made.min_border_left, made.min_border_right = 95, 15
    return made


def chart(title: str, *, height: int, tips: list[tuple[str, str]] | None = None, **options: Any):  # type: ignore[no-untyped-def]
    """An empty chart as wide as the page; ``tips``: what a pointer is told."""
    options.setdefault("tools", "xpan,xwheel_zoom,box_zoom,reset,save")
    options.setdefault("sizing_mode", "stretch_width")
    options.setdefault("active_drag", "box_zoom" if "box_zoom" in options["tools"] else None)
    made = figure(title=title, height=height, toolbar_location="above", **options)
    made.title.text_font_size = "13px"
    made.title.text_color = _INK
    made.axis.axis_label_text_font_style = "normal"
    made.axis.major_label_text_color = _INK
    made.grid.grid_line_color = "#e5e5e5"
    made.outline_line_color = None
    made.toolbar.logo = None
    if tips:
        made.add_tools(HoverTool(tooltips=tips, point_policy="follow_mouse"))
    return made
