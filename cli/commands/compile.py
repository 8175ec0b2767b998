"""`moevit compile`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from moevit.compiler.plan.schedule import DEFAULT_THRESHOLD

from ..files import writable, write_bytes
from ..options import (
    ALL_TASKS,
    DEFAULT_PRESET,
    DEFAULT_SIZE,
    Experts,
    Json,
    Method,
    Model,
    Preset,
    RandomImage,
    Size,
    Task,
    chosen_tasks,
    parse_image_size,
)
from ..progress import progress
from ..sources import CalibrationFiles, Data, Root, image_source
from ..workload import Workload

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
    preset: Preset = DEFAULT_PRESET,
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
        workload = Workload(
            size=size,
            model=model,
            preset=preset,
            experts=experts,
            method=method,
            image=parse_image_size(image_size),
            source=image_source(data, root, calibration),
            report=report,
        )
        tasks = chosen_tasks(task, workload.network.tasks)
        program = workload.compile(tasks, threshold=threshold)
        write_bytes(output, program.to_bytes())
    counts = {name: program.header(name).code_count for name in program.tasks}
    found = {
        "output": str(output),
        "preset": preset,
        "config_hash": f"{program.config.hash:016x}",
        "memory_bytes": len(program.memory),
        "output_bytes": program.output_bytes,
        "scratch_bytes": max(task.output.address for task in program.tasks.values()),
        "instructions": counts,
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{output}: {len(program.memory):,} bytes for preset {preset}")
    if found["scratch_bytes"]:
        typer.echo(
            f"  tokens pass through the chip; {found['scratch_bytes']:,} of the "
            f"{program.output_bytes:,} bytes for results hold them meanwhile"
        )
    for name, count in counts.items():
        typer.echo(f"  {name}: {count} instructions")
