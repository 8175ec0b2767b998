"""`moevit train`."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from moevit.cli.errors import UserError
from moevit.cli.options import DEFAULT_SIZE, Json, Seed, Size
from moevit.cli.settings import Settings, changed
from moevit.model.config import preset as model_preset

__all__ = ["command"]

Output = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        "--out",
        metavar="FILE",
        help="Checkpoint (safetensors); the state for --resume and the log go beside it.",
    ),
]
Steps = Annotated[int, typer.Option(metavar="N", min=1, help="Optimiser steps.")]
Batch = Annotated[int, typer.Option(metavar="N", min=1, help="Pictures of each task in a step.")]
Scenes = Annotated[int, typer.Option(metavar="N", min=1, help="Rendered training scenes.")]
Rate = Annotated[float, typer.Option(metavar="X", help="Peak learning rate.")]
Warmup = Annotated[int, typer.Option(metavar="N", min=0, help="Steps in which the rate rises.")]
Decay = Annotated[
    float, typer.Option(metavar="X", help="Share of the other steps in which the rate falls.")
]
WeightDecay = Annotated[float, typer.Option(metavar="X", help="Weight decay of AdamW.")]
Clip = Annotated[float, typer.Option(metavar="X", help="Largest norm of the gradient.")]
Balance = Annotated[
    float, typer.Option(metavar="X", help="Weight of the importance and load losses.")
]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="Torch device; auto is CUDA where there is one.")
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Matrix products in bfloat16.")]
Workers = Annotated[
    int, typer.Option(metavar="N", min=1, help="Processes that share each batch, on the CPU.")
]
Threads = Annotated[
    int, typer.Option(metavar="N", min=0, help="Threads of a process; 0: torch's choice.")
]
Validation = Annotated[
    int, typer.Option(metavar="N", min=0, help="Validation pictures; 0: no validation.")
]
LogEvery = Annotated[int, typer.Option(metavar="N", min=1, help="Steps between log entries.")]
SaveEvery = Annotated[int, typer.Option(metavar="N", min=1, help="Steps between saved states.")]
ValidateEvery = Annotated[int, typer.Option(metavar="N", min=1, help="Steps between scores.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the saved state.")]


def command(
    size: Size = DEFAULT_SIZE,
    settings: Settings = None,
    output: Output = Path("model.safetensors"),
    steps: Steps = 3600,
    batch: Batch = 16,
    scenes: Scenes = 20_000,
    learning_rate: Rate = 2e-3,
    warmup: Warmup = 200,
    decay: Decay = 1.0,
    weight_decay: WeightDecay = 0.05,
    clip: Clip = 1.0,
    balance: Balance = 0.01,
    seed: Seed = 0,
    device: Device = "auto",
    bf16: Bf16 = False,
    workers: Workers = 1,
    threads: Threads = 0,
    validation: Validation = 100,
    validate_every: ValidateEvery = 500,
    log_every: LogEvery = 20,
    save_every: SaveEvery = 250,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a model on rendered scenes: AdamW, warm-up, cosine.

    Scenes are rendered once into the cache. Ctrl-C leaves the last saved state; --resume goes on
    from it.
    """
    config = changed(model_preset(size), settings)
    if output.is_dir():
        raise UserError(f"{output}: is a folder; expected the name of a file")
    from moevit.model.train import train
    from moevit.model.trainer import TrainConfig

    options = TrainConfig(
        out=output,
        model=config,
        steps=steps,
        batch=batch,
        scenes=scenes,
        learning_rate=learning_rate,
        warmup=warmup,
        decay=decay,
        weight_decay=weight_decay,
        clip=clip,
        balance=balance,
        seed=seed,
        device=device,
        bf16=bf16,
        workers=workers,
        threads=threads,
        validation=validation,
        validate_every=validate_every,
        log_every=log_every,
        save_every=save_every,
        resume=resume,
    )
    with contextlib.redirect_stdout(sys.stderr):  # where its progress belongs
        results = train(options)
    if as_json:
        typer.echo(json.dumps({"output": str(output), "tasks": results}, indent=2))
        return
    typer.echo(f"{output}: trained for {steps} steps")
    for name, metrics in results.items():
        figures = "  ".join(f"{key} {value:.4f}" for key, value in metrics.items())
        typer.echo(f"  {name}: {figures}")
