"""`moevit compile`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from moevit.compiler.plan.schedule import DEFAULT_THRESHOLD
from moevit.files import writable
from moevit.sources import image_source

from ..options import (
    ALL_TASKS,
    DEFAULT_SIZE,
    CalibrationFiles,
    Config,
    Data,
    Experts,
    Json,
    Method,
    Model,
    Preset,
    RandomImage,
    Root,
    Size,
    Task,
    chosen_tasks,
)
from ..progress import progress
from ..workload import hardware, open_workload

__all__ = ["command"]

Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Program file.")]
Threshold = Annotated[
    float,
    typer.Option(
        metavar="X",
        min=0,
        help="An expert is streamed if calibration sent it more than X tokens an image, and "
        "fetched on demand otherwise.",
    ),
]


def command(
    size: Size = DEFAULT_SIZE,
    model: Model = None,
    experts: Experts = None,
    method: Method = None,
    image_size: RandomImage = None,
    preset: Preset = None,
    config: Config = None,
    task: Task = ALL_TASKS,
    output: Output = Path("program.moevit"),
    threshold: Threshold = DEFAULT_THRESHOLD,
    data: Data = "scenes",
    root: Root = None,
    calibration: CalibrationFiles = None,
    as_json: Json = False,
) -> None:
    """Make a program for the accelerator from a quantised model.

    --model takes a quantised network (`moevit quantize`) or a checkpoint, which is quantised first.
    The program runs on the preset that it was compiled for, and on no other.
    """
    writable(output)
    with progress("moevit compile", quiet=as_json) as report:
        workload = open_workload(
            hardware(preset, config),
            size=size,
            model=model,
            experts=experts,
            method=method,
            image_size=image_size,
            source=image_source(data, root, calibration),
            report=report,
        )
        tasks = chosen_tasks(task, workload.quantised_network.tasks)
        program = workload.compile(tasks, threshold=threshold)
        program.save(output)
    linked, name = program.linked, program.config.name
    found = {
        "output": str(output),
        "preset": name,
        "config_hash": f"{program.config.hash:016x}",
        "memory_bytes": len(linked.memory),
        "output_bytes": linked.output_bytes,
        "scratch_bytes": max(task.output.address for task in linked.tasks.values()),
        "instructions": {task: linked.header(task).code_count for task in program.tasks},
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{output}: {found['memory_bytes']:,} bytes for preset {name}")
    if found["scratch_bytes"]:
        typer.echo(
            f"  tokens pass through the chip; {found['scratch_bytes']:,} of the "
            f"{found['output_bytes']:,} bytes for results hold them meanwhile"
        )
    for task_name in program.tasks:
        typer.echo(f"  {task_name}: {linked.header(task_name).code_count} instructions")
