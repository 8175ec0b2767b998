"""`moevit eval`."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moevit.errors import UserError
from moevit.quant.analysis.bootstrap import LEVEL, RESAMPLES
from moevit.sources import image_source

from ..options import (
    ALL_TASKS,
    DEFAULT_SIZE,
    Backend,
    CalibrationFiles,
    Config,
    Data,
    Experts,
    Json,
    Method,
    Model,
    Preset,
    Root,
    Size,
    Task,
    check_backend,
    chosen_tasks,
    side_by_side,
)
from ..progress import progress
from ..workload import hardware, open_workload

__all__ = ["command"]

_IMAGES = {"torch": 500, "onnx": 500, "golden": 500, "interpreter": 20, "sim": 20, "board": 500}

Images = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Validation images; 0: "
        + ", ".join(f"{count} for {name}" for name, count in _IMAGES.items())
        + ".",
    ),
]
Jobs = Annotated[
    int, typer.Option(metavar="N", min=0, help="Devices side by side; 0: one a processor.")
]


def command(
    backend: Backend = "torch",
    task: Task = ALL_TASKS,
    images: Images = 0,
    size: Size = DEFAULT_SIZE,
    preset: Preset = None,
    config: Config = None,
    model: Model = None,
    experts: Experts = None,
    method: Method = None,
    data: Data = "scenes",
    root: Root = None,
    calibration: CalibrationFiles = None,
    jobs: Jobs = 0,
    as_json: Json = False,
) -> None:
    """Score a model on rendered validation images or those of a data set, with any backend.

    mIoU (higher is better), depth RMSE in metres and delta1, mean angle of normals in degrees, F
    of edges, largest F of saliency (docs/training.md has all of them); and delta-m, the mean
    relative gain in percent over the float model on the same images. Intervals are those of a
    bootstrap over the images, paired for delta-m.
    """
    check_backend(backend)
    with progress("moevit eval", quiet=as_json) as report:
        from moevit.bench.scoring import score  # torch, after the options are known to be right

        workload = open_workload(
            hardware(preset, config),
            size=size,
            model=model,
            experts=experts,
            method=method,
            source=image_source(data, root, calibration),
            report=report,
        )
        if workload.quantised and backend == "torch":
            raise UserError(f"{workload.name}: is quantised; backend torch needs a checkpoint")
        tasks = chosen_tasks(task, workload.model_config.task_names)
        _, count, _ = workload.source.validation(workload.model_config, images or _IMAGES[backend])
        found = score(
            workload,
            tasks,
            backend,
            count,
            jobs=side_by_side(backend, jobs),
            report=report,
        )
    if as_json:
        about = {"backend": backend, **found.to_dict()}
        if data != "scenes":
            about["data"] = data
        typer.echo(json.dumps(about, indent=2))
        return
    sure = found.images > 1
    table = Table(title=f"{backend} on {count} validation images", title_justify="left")
    for name in ("task", "metric"):
        table.add_column(name)
    table.add_column("value", justify="right")
    if sure:
        table.add_column(f"{LEVEL:.0%} interval", justify="right")
    for name, metrics in found.tasks.items():
        for number, (metric, value) in enumerate(metrics.items()):
            cells = [f"{value.value:.4f}", f"{value.low:.4f} .. {value.high:.4f}"]
            table.add_row("" if number else name, metric, *cells[: 1 + sure])
    Console().print(table)
    if (gain := found.delta_m) is not None:
        interval = f" ({gain.low:+.2f} .. {gain.high:+.2f})" if sure else ""
        typer.echo(f"delta-m against the float model: {gain.value:+.2f} %{interval}")
    if sure:
        typer.echo(f"Intervals hold {LEVEL:.0%} of {RESAMPLES:,} draws of the images.")
