"""`moevit export-onnx`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from moevit.errors import UserError
from moevit.files import writable

from ..options import (
    ALL_TASKS,
    DEFAULT_SIZE,
    Experts,
    Json,
    Method,
    Model,
    Size,
    Task,
    chosen_tasks,
)
from ..progress import progress
from ..workload import hardware, open_workload

__all__ = ["command"]

Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="ONNX file.")]
Quantised = Annotated[
    bool,
    typer.Option(
        "--quantised",
        help="The integer network in QDQ form instead of the float model; --model may be a "
        "quantised network.",
    ),
]


def command(
    task: Task = ALL_TASKS,
    size: Size = DEFAULT_SIZE,
    model: Model = None,
    output: Output = Path("model.onnx"),
    quantised: Quantised = False,
    experts: Experts = None,
    method: Method = None,
    as_json: Json = False,
) -> None:
    """Write a model as ONNX, for one task or several.

    Input: images (batch, height, width, 3) uint8, any batch. One output a task, by its name.
    Standard operators only. Before it is written, the graph passes ONNX's checker and gives
    PyTorch's results in onnxruntime. With --quantised, the network's integers between
    QuantizeLinear and DequantizeLinear, and how far onnxruntime is from the golden model.
    """
    writable(output)
    with progress("moevit export-onnx", quiet=as_json) as report:
        if not quantised and (experts or method):
            name = "--experts" if experts else "--method"
            raise UserError(f"{name}: needs --quantised; the float model has no integers")
        workload = open_workload(
            hardware(None), size=size, model=model, experts=experts, method=method, report=report
        )
        if not quantised and workload.quantised:
            raise UserError(f"{workload.name}: is quantised; expected a checkpoint, or --quantised")
        report("loading the model", 0.0)
        subject = workload.quantised_network if quantised else workload.model
        names = chosen_tasks(task, subject.tasks)
        report(f"exporting {len(names)} tasks", 0.9 if quantised else 0.1)
        found = subject.export_onnx(output, names)
    if as_json:
        typer.echo(json.dumps({"output": str(output), **found}, indent=2))
        return
    typer.echo(
        f"{output}: {found['bytes']:,} bytes, opset {found['opset']}, "
        f"{sum(found['operators'].values())} operators, tasks {', '.join(names)}"
    )
    if quantised:
        for name, about in found["difference"].items():
            typer.echo(
                f"{name}: onnxruntime differs from the golden model by {about['mean']:.2g} on "
                f"average, {about['max']:.2g} at most (largest value {about['peak']:.3g}); "
                f"SQNR {about['sqnr_db']:.1f} dB"
            )
        return
    worst = max(found["difference"].values())
    typer.echo(f"onnxruntime differs from PyTorch by {worst:.1g} of the largest value at most")
