"""Which expert saw which patch: maps over the picture, queue lengths, misses and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import ColorBar, ColumnDataSource, LinearColorMapper

from moevit.bench.explain import Explanation
from moevit.quant.golden import Routing
from moevit.quant.network import Geometry
from moevit.quant.operators.gate import NOBODY

from .style import chart, expert_colours, ink

__all__ = ["expert_maps", "queues"]

_TIPS = [("patch", "@row, @column"), ("experts", "@experts"), ("scores", "@scores")]
_SCORE = 1 << 15
_WIDTH, _LEAST = 1230, 14
"""Pixels that the maps of all tasks share, and that a patch has at least."""


def _picture(pixels: Any) -> Any:
    """In grey, RGBA as Bokeh wants it: 32-bit words."""
    grey = pixels.astype(np.float32).mean(axis=2)
    layers = np.dstack([grey, grey, grey, np.full(grey.shape, 255)]).astype(np.uint8)
    words: Any = np.ascontiguousarray(layers).view(np.uint32).reshape(grey.shape)
    return words


def expert_maps(found: Explanation) -> Any:
    """A row a MoE block, a column a task: each patch's first expert, with its number."""
    if not any(result.routing for result in found.golden.values()):
        return None
    geometry = found.real.program.geometry
    rows, columns = geometry.grid
    picture = ColumnDataSource({"image": [_picture(found.image.pixels)]})
    blocks = [routing.block for routing in found.golden[found.tasks[0]].routing]
    cell = max((_WIDTH // len(found.tasks) - 12) // columns, _LEAST)
    grid = []
    for block in blocks:
        line = []
        for task in found.tasks:
            routing = next(r for r in found.golden[task].routing if r.block == block)
            made = chart(
                f"block {block}, {task}",
                height=cell * rows + 40,
                width=cell * columns + 10,
                sizing_mode="fixed",
                tips=_TIPS,
                tools="save",
                x_range=(0, columns),
                y_range=(rows, 0),
            )
            made.image_rgba("image", source=picture, x=0, y=0, dw=columns, dh=rows)
            data = _cells(routing, geometry)
            made.rect(
                source=data, x="x", y="y", width=1, height=1, fill_color="colour", fill_alpha=0.5,
                line_color="white", line_width=0.4,
            )  # fmt: skip
            made.text(
                source=data,
                x="x",
                y="y",
                text="first",
                text_align="center",
                text_baseline="middle",
                text_font_size=f"{min(cell - 5, 12)}px",
                background_fill_color="white",
                background_fill_alpha=0.45,
                padding=1,
            )
            made.axis.visible = False
            made.grid.visible = False
            line.append(made)
        grid.append(line)
    return gridplot(grid, toolbar_location=None, merge_tools=False)


def _cells(routing: Routing, geometry: Geometry) -> ColumnDataSource:
    """The patches' tokens, in front of which are the class token and others of its kind."""
    columns, patches = geometry.grid[1], slice(geometry.front, geometry.tokens)
    indices, scores = routing.indices[patches], routing.scores[patches] / _SCORE
    colours = expert_colours(routing.experts)
    y, x = np.divmod(np.arange(len(indices)), columns)
    chosen = [[int(e) for e in each if e != NOBODY] for each in indices]
    return ColumnDataSource(
        {
            "x": x + 0.5,
            "y": y + 0.5,
            "row": y,
            "column": x,
            "first": [str(each[0]) if each else "" for each in chosen],
            "colour": [colours[each[0]] if each else "#ffffff" for each in chosen],
            "experts": [", ".join(map(str, each)) for each in chosen],
            "scores": [", ".join(f"{s:.2f}" for s in each) for each in scores],
        }
    )


def queues(found: Explanation) -> Any:
    """A heat map a MoE block, task by expert: tokens, and their mean score; misses are marked."""
    if not any(result.routing for result in found.golden.values()):
        return None
    on_demand = {
        (task, schedule.layer): set(schedule.on_demand)
        for task in found.tasks
        for schedule in found.real.program.schedules(task)
    }
    grid = []
    for number, routing in enumerate(found.golden[found.tasks[0]].routing):
        block, experts = routing.block, routing.experts
        mine = [found.golden[task].routing[number] for task in found.tasks]
        counts = np.array([r.counts for r in mine])
        scores = np.array([_means(r) for r in mine])
        missed = np.array(
            [
                [e in on_demand.get((task, block), ()) and counts[t, e] > 0 for e in range(experts)]
                for t, task in enumerate(found.tasks)
            ]
        )
        texts = np.where(missed, np.char.add(counts.astype(str), "*"), counts.astype(str))
        grid.append(
            [
                _heat(f"block {block}: tokens in each expert's queue (* fetched on demand)",
                      counts, texts, found.tasks, float(counts.max())),
                _heat(f"block {block}: mean score of the tokens sent to each expert",
                      scores, np.char.mod("%.2f", scores), found.tasks, 1.0),
            ]
        )  # fmt: skip
    return gridplot(grid, toolbar_location=None, merge_tools=False, sizing_mode="stretch_width")


def _means(routing: Routing) -> list[float]:
    return [
        float(routing.scores[routing.indices == e].mean() / _SCORE)
        if (routing.indices == e).any()
        else 0.0
        for e in range(routing.experts)
    ]


def _heat(title: str, values: Any, texts: Any, tasks: Sequence[str], most: float) -> Any:
    experts = [str(e) for e in range(values.shape[1])]
    colours = LinearColorMapper(palette="Viridis256", low=0, high=max(most, 1e-9))
    made = chart(
        title, height=36 * len(tasks) + 70, tools="save", x_range=experts,
        y_range=list(reversed(tasks)),
    )  # fmt: skip
    palette = expert_colours(256)
    level = np.clip(values / max(most, 1e-9) * 255, 0, 255).astype(int)
    data = ColumnDataSource(
        {
            "x": experts * len(tasks),
            "y": [task for task in tasks for _ in experts],
            "value": values.ravel(),
            "text": texts.ravel().tolist(),
            "ink": [ink(palette[n]) for n in level.ravel()],
        }
    )
    made.rect(source=data, x="x", y="y", width=1, height=1,
              fill_color={"field": "value", "transform": colours}, line_color="white")  # fmt: skip
    made.text(source=data, x="x", y="y", text="text", text_color="ink", text_align="center",
              text_baseline="middle", text_font_size="11px")  # fmt: skip
    made.xaxis.axis_label = "expert"
    made.grid.visible = False
    made.add_layout(ColorBar(color_mapper=colours, width=10), "right")
    return made
