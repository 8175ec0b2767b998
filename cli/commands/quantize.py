"""`moevit quantize`."""

import json
from pathlib import Path
from typing import Annotated, cast

import typer

from moevit.cli.errors import UserError
from moevit.cli.files import atomic_path
from moevit.cli.options import DEFAULT_PRESET, DEFAULT_SIZE, Experts, Json, Model, Seed, Size
from moevit.cli.progress import progress
from moevit.cli.workload import CALIBRATION_IMAGES, Workload, quantise_model

__all__ = ["command"]

Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE", help="Quantised network (safetensors).")
]
Images = Annotated[
    int, typer.Option(metavar="N", min=1, help="Rendered scenes to calibrate on (pictures).")
]
Clip = Annotated[
    str, typer.Option(metavar="NAME", help="How ranges are chosen: minmax, percentile, mse.")
]
Percentile = Annotated[
    float, typer.Option(metavar="P", help="Share of values kept by --clip percentile (percent).")
]


def command(
    size: Size = DEFAULT_SIZE,
    model: Model = None,
    output: Output = Path("network.safetensors"),
    images: Images = CALIBRATION_IMAGES,
    clip: Clip = "mse",
    percentile: Percentile = 99.99,
    experts: Experts = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Calibrate a trained model and make it integer.

    Weights and activations get 8 bits (experts' weights 4 with --experts int4), the residual
    stream 16. The result goes to `moevit compile` and, as --model, to `moevit run` and `moevit
    eval`.
    """
    with progress("moevit quantize", quiet=as_json) as report:
        from moevit.quant.io import save_network
        from moevit.quant.ptq import Options
        from moevit.quant.ranges import Clip as Kind

        workload = Workload(size=size, model=model, preset=DEFAULT_PRESET, experts=experts)
        options = Options(
            clip=cast(Kind, clip), percentile=percentile, expert_bits=workload.expert_bits
        )
        if workload.quantised:
            raise UserError(f"{workload.path}: is quantised already; expected a checkpoint")
        with atomic_path(output) as partial:
            report("loading the model", 0.0)
            network = quantise_model(
                workload.model, images=images, seed=seed, options=options, report=report
            )
            save_network(network, partial)
    found = {
        "output": str(output),
        "images": images,
        "tasks": list(network.tasks),
        "bytes": output.stat().st_size,
    }
    typer.echo(
        json.dumps(found, indent=2)
        if as_json
        else f"{output}: {found['bytes']:,} bytes, tasks {', '.join(network.tasks)}"
    )
