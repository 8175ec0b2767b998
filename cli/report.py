"""What `moevit run` found, for people: a table, and a panel for each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from moevit.bench.comparison import NamedImage, Outcome
from moevit.files import atomic_path
from moevit.model.config import LABELLED, TOKEN_KINDS, TaskConfig
from moevit.model.evaluation.metrics import PRIMARY
from moevit.model.kinds import TASK_KINDS
from moevit.model.scenes.layout import CLASSES
from moevit.workload import Workload

from .panel import Row, draw, save

__all__ = ["tables", "write_panel", "write_values"]

_HEADINGS = {
    "sim": "accelerator (simulated RTL)",
    "board": "accelerator (board)",
    "remote": "device of a server",
    "interpreter": "accelerator (interpreted)",
    "golden": "integer reference",
    "torch": "float model",
    "onnx": "ONNX export",
}
_SHOWN = {
    "classification": ("top-1", "", "{:.3f}"),
    **{kind.name: kind.shown for kind in TASK_KINDS.values()},
}
_ROOM = 12  # classes in a panel's legend
_FIGURES = ("float", "device", "cycles", "ms", "fps", "MAC\nutil.", "MB\nread", "bit\nexact")


def _score(kind: str, metrics: dict[str, float] | None) -> tuple[str, str, str]:
    """Name, unit and value of a kind's primary metric; the value is empty without a truth."""
    if kind not in PRIMARY:
        return "", "", ""
    name, unit, form = _SHOWN[kind]
    return name, unit, "" if metrics is None else form.format(metrics[PRIMARY[kind]])


def tables(
    outcomes: Sequence[Sequence[Outcome]], workload: Workload, backend: str
) -> Iterator[Table]:
    """A table for each image, a line for each task, narrow enough for 80 columns."""
    where = f"{workload.model_config.name} on preset {workload.config.name}, backend {backend}"
    for group in outcomes:
        made = Table(
            title=f"{group[0].image}: {where}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        made.add_column("task", no_wrap=True)
        made.add_column("metric", no_wrap=True)
        for name in (
            "float",
            "device",
            "cycles",
            "ms",
            "fps",
            "MAC\nutil.",
            "MB\nread",
            "bit\nexact",
        ):
            made.add_column(name, justify="right", no_wrap=True)
        exact = {None: Text("-"), True: Text("yes"), False: Text("NO", style="bold red")}
        for o in group:
            made.add_row(
                o.task,
                "".join(_score(o.kind, None)) or "-",
                _score(o.kind, o.metrics["float"])[2] or _best(o.kind, o.reference),
                _score(o.kind, o.metrics["device"])[2] or _best(o.kind, o.device),
                *_figures(o),
                exact[o.bit_exact],
            )
        yield made


def _best(kind: str, logits: np.ndarray | None) -> str:
    """The class of the largest logit; a dash where there are none."""
    return f"class {logits.argmax()}" if kind == "classification" and logits is not None else "-"


def _figures(o: Outcome) -> list[str]:
    p = o.performance
    if p is None:
        return ["-"] * 5
    return [
        f"{p.cycles:,}",
        f"{p.ms:.3f}",
        f"{p.fps:,.0f}",
        f"{p.mac_utilisation:.1%}",
        f"{p.bytes_read / 1e6:.2f}",
    ]


def _note(o: Outcome) -> str:
    """Below a task's name: the score, the cost, and whether the integers are right."""
    name, unit, value = _score(o.kind, o.metrics["device"])
    lines = [f"{name} {value}{unit}"] if value else []
    if o.performance is not None:
        lines.append(f"{o.performance.ms:.2f} ms, {o.performance.fps:,.0f} fps")
    if o.bit_exact is not None:
        lines.append("bit exact" if o.bit_exact else "NOT bit exact")
    return "\n".join(lines)


def write_panel(
    target: Path,
    image: NamedImage,
    outcomes: Sequence[Outcome],
    workload: Workload,
    backend: str,
) -> None:
    """The panel of one image; the file appears whole or not at all. At least one task must be of
    a kind that can be shown; others are left out."""
    rows = []
    for o in outcomes:
        if o.kind in TOKEN_KINDS:
            continue
        columns = [(_HEADINGS[backend], o.device)]
        if backend != "torch" and o.reference is not None:
            columns.append(("float model", o.reference))
        if o.truth is not None:
            columns.append(("truth", o.truth))
        classes: Sequence[str] = ()
        if o.kind in LABELLED:
            classes = _classes(workload.model_config.task(o.task), columns)
        rows.append(Row(task=o.task, kind=o.kind, columns=columns, classes=classes, note=_note(o)))
    config = workload.config
    where = f"{workload.model_config.name} on {_HEADINGS[backend]}"
    if backend == "sim":
        where += f", preset {config.name}; times are cycles at a target of {config.clock_mhz:g} MHz"
    figure = draw(image.pixels, rows, title=image.name, subtitle=where)
    save(figure, target)


def _classes(task: TaskConfig, columns: Sequence[tuple[str, Any]]) -> list[str]:
    """Names for the legend; of many classes those that occur, as far as there is room."""
    if task.kind == "segmentation" and task.channels == len(CLASSES):
        return list(CLASSES)
    names = [f"class {i}" for i in range(task.channels)]
    if task.channels <= _ROOM:
        return names
    found, counts = np.unique(np.concatenate([p.ravel() for _, p in columns]), return_counts=True)
    shown = set(found[np.argsort(-counts)][:_ROOM].tolist())
    return [name if i in shown else "" for i, name in enumerate(names)]


def write_values(target: Path, outcome: Outcome) -> None:
    """What cannot be shown, tokens or logits, as a NumPy file of float32."""
    with atomic_path(target) as partial, partial.open("wb") as file:
        np.save(file, outcome.device.astype(np.float32))
