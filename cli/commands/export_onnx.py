"""`moevit export-onnx`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from moevit.cli.errors import UserError
from moevit.cli.options import (
    ALL_TASKS,
    DEFAULT_PRESET,
    DEFAULT_SIZE,
    Json,
    Model,
    Size,
    Task,
    chosen_tasks,
)
from moevit.cli.progress import progress
from moevit.cli.workload import Workload

__all__ = ["command"]

Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="ONNX file.")]


def command(
    task: Task = ALL_TASKS,
    size: Size = DEFAULT_SIZE,
    model: Model = None,
    output: Output = Path("model.onnx"),
    as_json: Json = False,
) -> None:
    """Write the float model as ONNX, for one task or several.

    Input: pictures (batch, height, width, 3) uint8, any batch. One output a task, by its name.
    Standard operators only. Before it is written, the graph passes ONNX's checker and gives
    PyTorch's results in onnxruntime.
    """
    if output.is_dir():
        raise UserError(f"{output}: is a folder; expected the name of a file")
    with progress("moevit export-onnx", quiet=as_json) as report:
        workload = Workload(size=size, model=model, preset=DEFAULT_PRESET)
        if workload.quantised:
            raise UserError(f"{workload.path}: is quantised; expected a checkpoint")
        report("loading the model", 0.0)
        network = workload.model
        names = chosen_tasks(task, network.config.task_names)
        from moevit.model.onnx_export import export_onnx

        report(f"exporting {len(names)} tasks", 0.1)
        found = export_onnx(network, output, names)
    if as_json:
        typer.echo(json.dumps({"output": str(output), **found}, indent=2))
        return
    typer.echo(
        f"{output}: {found['bytes']:,} bytes, opset {found['opset']}, "
        f"{sum(found['operators'].values())} operators, tasks {', '.join(names)}"
    )
    worst = max(found["difference"].values())
    typer.echo(f"onnxruntime differs from PyTorch by {worst:.1g} of the largest value at most")
