"""`moevit export-onnx`."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..errors import UserError
from ..files import writable
from ..options import (
    ALL_TASKS,
    DEFAULT_PRESET,
    DEFAULT_SIZE,
    Experts,
    Json,
    Method,
    Model,
    Size,
    Task,
    chosen_tasks,
)
from ..progress import Report, progress
from ..workload import Workload

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

_IMAGES = 8  # test scenes that the QDQ graph is compared on


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
        workload = Workload(
            size=size,
            model=model,
            preset=DEFAULT_PRESET,
            experts=experts,
            method=method,
            report=report,
        )
        if quantised:
            found = _quantised(workload, task, output, report)
            names = found["tasks"]
        else:
            found, names = _float(workload, task, output, report)
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


def _float(
    workload: Workload, task: str, output: Path, report: Report
) -> tuple[dict[str, Any], list[str]]:
    from moevit.model.export.onnx import export_onnx

    if workload.quantised:
        raise UserError(f"{workload.path}: is quantised; expected a checkpoint, or --quantised")
    report("loading the model", 0.0)
    names = chosen_tasks(task, workload.model.config.task_names)
    report(f"exporting {len(names)} tasks", 0.1)
    return export_onnx(workload.model, output, names), names


def _quantised(workload: Workload, task: str, output: Path, report: Report) -> dict[str, Any]:
    from moevit.model.export.qdq import export_qdq
    from moevit.model.scenes.render import scene

    network = workload.network
    names = chosen_tasks(task, network.tasks)
    g = network.geometry
    images = [scene("test", n, g.image_height, g.image_width).image for n in range(_IMAGES)]
    report(f"exporting {len(names)} tasks", 0.9)
    return export_qdq(network, output, names, images=np.stack(images))
