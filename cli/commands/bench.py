"""`moevit bench`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moevit.errors import UserError
from moevit.files import writable, write_json, write_text
from moevit.hw.config import AcceleratorConfig
from moevit.models import load
from moevit.quant.typing import Report

from ..options import (
    DEFAULT_EXPERTS,
    DEFAULT_SIZE,
    Config,
    Experts,
    Json,
    Model,
    Seed,
    Trace,
    parse_image_size,
)
from ..progress import progress
from ..workload import hardware

__all__ = ["command"]

_FRAME_PRESET = "zcu104"

Presets = Annotated[
    str, typer.Option(metavar="NAMES", help="Without --size: hardware presets, by commas.")
]
Images = Annotated[int, typer.Option(metavar="N", min=1, help="Test scenes on each preset's RTL.")]
Validation = Annotated[
    int, typer.Option(metavar="N", min=1, help="Validation scenes for the accuracy.")
]
Results = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Results (JSON); without --size bench/results.json if not given.",
        show_default=False,
    ),
]
Docs = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Markdown page whose marked part gets the tables, if any."),
]
FrameSize = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Run one frame of a model of this size in RTL instead, from pixels to features.",
        show_default=False,
    ),
]
FramePreset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="With --size: the hardware preset.", show_default=_FRAME_PRESET
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="With --size: image's height and width; the size's own if not given.",
        show_default=False,
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="With --size: a task for each frame, by commas; the first task if not given.",
        show_default=False,
    ),
]
AllTasks = Annotated[
    bool, typer.Option("--all-tasks", help="With --size: also all tasks of the image in one run.")
]
OnDemand = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="With --size: once more with the N least used experts of each layer not streamed.",
    ),
]
Resources = Annotated[
    bool, typer.Option("--resources", help="With --size: DSP blocks by synthesis (minutes).")
]
Stream = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="With --size: also N scenes back to back, with --tasks in turn."
    ),
]
Router = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="With --size: uniform (all experts used alike), random, or a checkpoint's.",
    ),
]


def command(
    presets: Presets = "default,zcu104",
    size: FrameSize = None,
    model: Model = None,
    images: Images = 4,
    validation: Validation = 500,
    output: Results = None,
    docs: Docs = Path("docs/benchmarks.md"),
    preset: FramePreset = None,
    config: Config = None,
    image_size: ImageSize = None,
    experts: Experts = None,
    tasks: Tasks = "",
    all_tasks: AllTasks = False,
    on_demand: OnDemand = 0,
    resources: Resources = False,
    stream: Stream = 0,
    router: Router = "uniform",
    seed: Seed = 0,
    trace: Trace = None,
    as_json: Json = False,
) -> None:
    """Measure everything that the documentation quotes, or one frame of any size.

    Without --size: cycles, utilisation, stalls and bytes of each task of the shipped model on each
    preset's RTL, the estimate beside them, simulated cycles a second, wall time of each stage, and
    accuracy in float and integer. Takes some minutes, more where simulators have to be built.

    With --size: one frame from uint8 pixels to the last block's features, checked bit for bit;
    --trace has it, those of --tasks and those of --stream.
    """
    if trace is not None and size is None:
        raise UserError("--trace: is of one frame; expected --size")
    writable(trace)
    if size is not None:
        if model is not None:
            raise UserError("--model: with --size name the checkpoint by --router")
        with progress("moevit bench", quiet=as_json) as report:
            from moevit.bench.frames import Reference, measure_frames
            from moevit.traces import Recorder, save_trace, timelines

            reference = Reference(
                size=size,
                config=hardware(preset, config, _FRAME_PRESET),
                image=parse_image_size(image_size),
                experts=experts or DEFAULT_EXPERTS,
                router=router,
                seed=seed,
            )
            recorder = None if trace is None else Recorder()
            names = [part.strip() for part in tasks.split(",") if part.strip()]
            frame = measure_frames(
                reference,
                tasks=names,
                all_tasks=all_tasks,
                on_demand=on_demand,
                resources=resources,
                stream=stream,
                recorder=recorder,
                report=report,
            )
            if trace is not None and recorder is not None:
                report("writing the trace", 0.99)
                save_trace(trace, timelines(recorder))
        if output is not None:
            write_json(output, frame)
        if as_json:
            typer.echo(json.dumps(frame, indent=2))
        else:
            from moevit.bench.frames_report import text

            typer.echo(text(frame))
            if trace is not None:
                typer.echo(f"trace: {trace}")
        return
    with progress("moevit bench", quiet=as_json) as report:
        chosen = None if config is None else [hardware(None, config)]
        found, page = _recorded(presets, chosen, model, images, validation, docs, report)
    output = output or Path("bench/results.json")
    write_json(output, found)
    if page is not None:
        write_text(docs, page)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"results: {output}")
    if page is not None:
        typer.echo(f"tables: {docs}")


def _recorded(
    presets: str,
    configs: list[AcceleratorConfig] | None,
    model: Path | None,
    images: int,
    validation: int,
    docs: Path,
    report: Report,
) -> tuple[dict[str, Any], str | None]:
    """The shipped model's results, and the page with its tables where there is one."""
    from moevit.bench.benchmark import check_presets, insert, measure, tables

    configs = configs or check_presets(presets)
    if docs.exists():
        insert(docs, "")  # whether it can be done: before all the work, not after
    found = measure(
        model=load(DEFAULT_SIZE if model is None else model),
        configs=configs,
        images=images,
        validation=validation,
        report=report,
    )
    return found, insert(docs, tables(found)) if docs.exists() else None
