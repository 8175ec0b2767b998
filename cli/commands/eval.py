"""`moevit eval`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from moevit.errors import UserError
from moevit.files import writable, write_text
from moevit.quant.analysis.bootstrap import LEVEL, RESAMPLES
from moevit.quant.typing import Report, part_of
from moevit.sim.plain_paths import ready_to_build
from moevit.sources import image_source
from moevit.workload import Workload

from ..console import plain_console
from ..options import (
    ALL_TASKS,
    DEFAULT_SIZE,
    Backend,
    CalibrationFiles,
    Config,
    Data,
    DepthScale,
    Experts,
    Json,
    Method,
    Model,
    NormalsRange,
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

FRAMES = 4
"""That of :mod:`moevit.bench.dial`, which is slow to import."""
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


DialSweep = Annotated[
    bool,
    typer.Option(
        "--dial",
        help="One program at several speeds: accuracy of the golden model against RTL cycles for "
        "each task, as a chart. It takes some minutes a point.",
    ),
]
Points = Annotated[
    list[str] | None,
    typer.Option(
        "--points",
        metavar="NAME=V,...",
        help="Settings of --dial instead of its own: top_p, min_score or top_k; as often as you "
        "like.",
        show_default=False,
    ),
]
Frames = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Frames of --dial in RTL for each point and task."),
]
Chart = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE", help="Chart of --dial (PNG).")
]
Docs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also put the tables of --dial between the marks of this page.",
        show_default=False,
    ),
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
    depth_scale: DepthScale = 1.0,
    normals_range: NormalsRange = "signed",
    calibration: CalibrationFiles = None,
    jobs: Jobs = 0,
    dial: DialSweep = False,
    points: Points = None,
    frames: Frames = FRAMES,
    output: Chart = Path("out/dial.png"),
    docs: Docs = None,
    as_json: Json = False,
) -> None:
    """Score a model on rendered validation images or those of a data set, with any backend.

    mIoU (higher is better), depth RMSE in metres and delta1, mean angle of normals in degrees, F
    of edges, largest F of saliency (docs/training.md has all of them); and delta-m, the mean
    relative gain in percent over the float model on the same images. Intervals are those of a
    bootstrap over the images, paired for delta-m. With --dial the golden model is scored, and
    cycles are counted in RTL, with fewer and fewer experts a token.
    """
    check_backend(backend)
    if dial:
        if backend not in ("torch", "golden"):
            raise UserError(f"--backend: --dial scores the golden model, not {backend}")
        ready_to_build()
        writable(output, *([docs] if docs else []))
    elif points or docs:
        raise UserError(f"--{'points' if points else 'docs'}: is an option of --dial")
    with progress("moevit eval", quiet=as_json) as report:
        from moevit.bench.scoring import score  # torch, after the options are known to be right

        workload = open_workload(
            hardware(preset, config),
            size=size,
            model=model,
            experts=experts,
            method=method,
            source=image_source(
                data,
                root,
                calibration,
                depth_scale=depth_scale,
                normals_range=normals_range,
            ),
            report=report,
        )
        if dial:
            tasks = chosen_tasks(task, workload.model_config.task_names)
            count, jobs = images or _IMAGES["golden"], side_by_side("sim", jobs)
            _sweep(workload, tasks, count, points, frames, jobs, output, docs, as_json, report)
            return
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
    plain_console().print(table)
    if (gain := found.delta_m) is not None:
        interval = f" ({gain.low:+.2f} .. {gain.high:+.2f})" if sure else ""
        typer.echo(f"delta-m against the float model: {gain.value:+.2f} %{interval}")
    if sure:
        typer.echo(f"Intervals hold {LEVEL:.0%} of {RESAMPLES:,} draws of the images.")


def _sweep(
    workload: Workload,
    tasks: list[str],
    count: int,
    points: list[str] | None,
    frames: int,
    jobs: int,
    output: Path,
    docs: Path | None,
    as_json: bool,
    report: Report,
) -> None:
    """Measures, draws and prints."""
    from moevit.bench.benchmark import insert
    from moevit.bench.dial import chosen_points, measure_dial
    from moevit.bench.dial_report import BEGIN, END, draw_dial, markdown

    if docs is not None:
        insert(docs, "", BEGIN, END)  # whether it can be done: before all the work, not after
    chosen = chosen_points(points or [], workload.program.linked.dial)
    found = measure_dial(
        workload,
        tasks,
        chosen,
        count,
        frames=frames,
        jobs=jobs,
        report=part_of(report, 0.0, 0.98),
    )
    draw_dial(found, output)
    if docs is not None:
        write_text(docs, insert(docs, markdown(found), BEGIN, END))
    if as_json:
        typer.echo(json.dumps({**found, "chart": str(output)}, indent=2))
        return
    typer.echo(markdown(found))
    typer.echo(f"chart: {output}")
