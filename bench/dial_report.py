"""What :mod:`.dial` found: a chart and a page, accuracy against cycles for each task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moevit.files import atomic_path
from moevit.model.evaluation.metrics import LOWER_IS_BETTER

from .dial import label

__all__ = ["BEGIN", "END", "draw_dial", "markdown"]

BEGIN, END = "<!-- dial: begin -->", "<!-- dial: end -->"
_ACROSS = 3
_MARKS = {"": "*", "top_p": "o", "min_score": "s", "top_k": "^"}


def _series(found: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Points by what they turn; as compiled is a series of its own."""
    names = [next(iter(point["dial"]), "") for point in found["points"]]
    for name in dict.fromkeys(names):
        yield name, [p for n, p in zip(names, found["points"], strict=True) if n == name]


def _about(found: dict[str, Any]) -> str:
    return (
        f"{found['model']} on {found['preset']}: scores of the golden model on {found['images']} "
        f"validation images, mean RTL cycles of {found['frames']} of them"
    )


def draw_dial(found: dict[str, Any], path: Path) -> None:
    """Axes for each task: cycles of a frame, and the task's primary metric with its interval."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    tasks = list(found["points"][0]["tasks"])
    columns = min(len(tasks), _ACROSS)
    rows = -(-len(tasks) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 3.3 * rows), layout="constrained", squeeze=False
    )
    for axes, task in zip(grid.flat, tasks, strict=False):
        for name, points in _series(found):
            values = [point["tasks"][task] for point in points]
            low = [max(v["value"] - v["low"], 0) for v in values]
            high = [max(v["high"] - v["value"], 0) for v in values]
            axes.errorbar(
                [v["cycles"] for v in values],
                [v["value"] for v in values],
                yerr=[low, high],
                marker=_MARKS[name],
                markersize=10 if not name else 5,
                linewidth=1.2,
                elinewidth=0.6,
                label=name.replace("_", "-") or "as compiled",
            )
        metric = points[0]["tasks"][task]["metric"]
        better = "lower" if metric in LOWER_IS_BETTER else "higher"
        axes.set_title(task, fontsize=10, loc="left")
        axes.set_ylabel(f"{metric} ({better} is better)", fontsize=8.5)
        axes.set_xlabel("cycles of a frame", fontsize=8.5)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    spare = list(grid.flat)[len(tasks) :]
    for axes in spare:
        axes.axis("off")
    lines, names = grid.flat[0].get_legend_handles_labels()
    (spare or list(grid.flat))[0].legend(lines, names, fontsize=8, frameon=False, loc="best")
    figure.suptitle(
        f"{_about(found)}\nwhiskers: {found['interval']:.0%} interval over the images", fontsize=9
    )
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=130, format="png")
    pyplot.close(figure)


def markdown(found: dict[str, Any]) -> str:
    """Two tables: scores with their change, and cycles with the experts of a token."""
    tasks = list(found["points"][0]["tasks"])
    metrics = [found["points"][0]["tasks"][task]["metric"] for task in tasks]
    heads = [f"{task} {metric}" for task, metric in zip(tasks, metrics, strict=True)]
    lines = [
        f"{_about(found)}, each compared bit for bit. In brackets: relative change in percent "
        "against the program as compiled, above 0 is better; delta-m is its mean.",
        "",
        f"| dial | {' | '.join(heads)} | delta-m, % | interval |",
        "|---|" + "---:|" * (len(tasks) + 2),
    ]
    first = found["points"][0]
    for point in found["points"]:
        cells = [label(point["dial"])]
        for task in tasks:
            about = point["tasks"][task]
            change = f" ({about['change']['value']:+.2f})" if point is not first else ""
            cells.append(f"{about['value']:.4f}{change}")
        gain = point["delta_m"]
        cells += (
            [f"{gain['value']:+.2f}", f"{gain['low']:+.2f} .. {gain['high']:+.2f}"]
            if point is not first
            else ["", ""]
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Cycles of a frame (in brackets: experts of a token, mean over the MoE layers):",
        "",
        f"| dial | {' | '.join(tasks)} | mean of the tasks |",
        "|---|" + "---:|" * (len(tasks) + 1),
    ]
    whole = sum(first["tasks"][task]["cycles"] for task in tasks)
    for point in found["points"]:
        about = [point["tasks"][task] for task in tasks]
        cells = [f"{a['cycles']:,.0f} ({a['experts']:.2f})" for a in about]
        total = sum(a["cycles"] for a in about)
        saved = f" ({100 * (total / whole - 1):+.1f} %)" if point is not first else ""
        mean = f"{total / len(tasks):,.0f}{saved}"
        lines.append(f"| {label(point['dial'])} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines)
