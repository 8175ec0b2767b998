"""One image and everything that was predicted from it, as a panel.

A row a task: the device's prediction, the float model's, the truth where it is known, and what the
colours mean. All of a row share one scale, so that what looks different is different.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from moevit.colours import PALETTE, paint, value_range
from moevit.files import atomic_path
from moevit.model.kinds import TASK_KINDS, Colours
from moevit.quant.typing import Array

__all__ = ["Row", "draw", "save"]


_TITLE = 90  # characters
_CELL = 3.1  # inches: width of an image
_KEY = 1.75
_INK = "#222222"
_GREY = "#666666"


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One task: decoded predictions (:mod:`moevit.model.tasks`) of the image's size.

    ``columns`` pairs a heading with pixels, or None where there are none. ``classes`` names the
    labels of a segmentation; one without a name is not in the legend. ``note`` is a short line
    below the task's name.
    """

    task: str
    kind: str
    columns: Sequence[tuple[str, Array | None]]
    classes: Sequence[str] = ()
    note: str = ""


def _limits(row: Row) -> tuple[float, float]:
    """Of all columns together, so that equal colours are equal values."""
    return value_range(row.kind, *(p for _, p in row.columns if p is not None))


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")
        spine.set_linewidth(0.6)


def _bar(figure: Figure, axes: Axes, name: str, limits: tuple[float, float], text: str) -> None:
    axes.set_axis_off()
    inner = axes.inset_axes((0.02, 0.06, 0.11, 0.88))
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), name), cax=inner)
    bar.set_label(text, fontsize=8, color=_INK)
    bar.ax.tick_params(labelsize=8, length=2, colors=_INK)
    bar.outline.set_linewidth(0.5)


def _example(axes: Axes, kind: str, picture: Colours) -> None:
    """Vectors that one knows: the key of the others' colours."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    vectors, inside = picture.key(x, y)
    shown = np.ones((*x.shape, 4))
    shown[..., :3] = paint(kind, vectors) / 255
    shown[..., 3] = inside
    inner = axes.inset_axes((0.0, 0.14, 0.5, 0.72))
    inner.imshow(shown)
    inner.set_axis_off()
    axes.text(
        *(0.52, 0.5, picture.label),
        fontsize=8,
        color=_INK,
        va="center",
        transform=axes.transAxes,
    )


def _legend(axes: Axes, classes: Sequence[str]) -> None:
    axes.set_axis_off()
    patches = [
        Patch(facecolor=PALETTE[i % len(PALETTE)], edgecolor="#888888", linewidth=0.4, label=name)
        for i, name in enumerate(classes)
        if name
    ]
    axes.legend(
        handles=patches,
        loc="center left",
        bbox_to_anchor=(-0.04, 0.5),
        ncols=1 if len(patches) <= 6 else 2,
        fontsize=7.5,
        frameon=False,
        handlelength=1.0,
        handleheight=1.0,
        handletextpad=0.4,
        columnspacing=0.8,
        labelspacing=0.35,
        labelcolor=_INK,
    )


def _key(figure: Figure, axes: Axes, row: Row, limits: tuple[float, float]) -> None:
    axes.set_axis_off()
    picture = TASK_KINDS[row.kind].picture
    if picture is None:
        _legend(axes, row.classes)
    elif isinstance(picture, Colours):
        _example(axes, row.kind, picture)
    else:
        _bar(figure, axes, picture.colours, limits, picture.label)


def _short(title: str) -> str:
    """A title in one line of at most so many characters, without what lies in its middle."""
    line = " ".join(title.split())
    half = _TITLE // 2
    return line if len(line) <= _TITLE else f"{line[:half]} ... {line[-half:]}"


def draw(image: Array, rows: Sequence[Row], *, title: str, subtitle: str = "") -> Figure:
    """A panel of ``image`` ``(H, W, 3)`` uint8 and its ``rows``, of which there is at least one.

    All rows have the same number of columns; the headings are the first row's.
    """
    if not rows:
        raise ValueError("A panel needs at least one task")
    columns = len(rows[0].columns)
    cell = _CELL * image.shape[0] / image.shape[1]
    widths, heights = [_CELL] * columns + [_KEY], [cell] * (len(rows) + 1)
    left, right, top, bottom, gap = 1.25, 0.15, 0.75, 0.2, 0.28
    width = left + sum(widths) + 0.12 * columns + right
    height = top + sum(heights) + gap * len(rows) + bottom
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)

    def place(x: float, y: float, w: float, h: float) -> Axes:
        """Axes by inches from the upper left corner."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    def write(x: float, y: float, text: str, **style: Any) -> None:
        about = {"color": _INK, "va": "top", "parse_math": False, **style}
        figure.text(x / width, 1 - y / height, text, **about)

    write(left, 0.16, _short(title), fontsize=14, fontweight="bold")
    if subtitle:
        write(left, 0.45, subtitle, fontsize=9, color=_GREY)
    axes = place(left, top, _CELL, cell)
    axes.imshow(image, interpolation="nearest")
    _bare(axes)
    write(left - 0.12, top + cell / 2, "input", fontsize=11, ha="right", va="center")
    for n, row in enumerate(rows):
        y = top + (n + 1) * (cell + gap)
        limits = _limits(row)
        write(left - 0.12, y + cell / 2 - 0.02, row.task, fontsize=11, ha="right", va="bottom")
        write(left - 0.12, y + cell / 2 + 0.04, row.note, fontsize=8, ha="right", color=_GREY)
        for c, (heading, pixels) in enumerate(row.columns):
            x = left + c * (_CELL + 0.12)
            if n == 0:
                write(x, y - 0.06, heading, fontsize=10, va="bottom")
            axes = place(x, y, _CELL, cell)
            if pixels is None:
                axes.set_facecolor("#f4f4f4")
                axes.text(*(0.5, 0.5, "not known"), ha="center", va="center", color=_GREY)
            else:
                axes.imshow(paint(row.kind, pixels, limits), interpolation="nearest")
            _bare(axes)
        _key(figure, place(left + columns * (_CELL + 0.12), y, _KEY, cell), row, limits)
    return figure


def save(figure: Figure, target: Path, *, dpi: int = 130) -> None:
    """Writes ``figure`` to ``target`` as PNG, whole or not at all."""
    with atomic_path(target) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a title in CJK, say
        figure.savefig(partial, dpi=dpi, format="png", metadata={"Software": "moevit"})
