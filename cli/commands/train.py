"""`moevit train`."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from moevit.files import writable
from moevit.model.config import SCENE_KINDS, ModelConfig, scene_task
from moevit.model.config import preset as model_preset
from moevit.training import train

from ..errors import INTERRUPTED, UserError
from ..options import (
    ALL_TASKS,
    DEFAULT_SIZE,
    Data,
    DepthScale,
    ImageSize,
    NormalsRange,
    Root,
    Seed,
    Size,
    Task,
    chosen_tasks,
    parse_image_size,
)
from ..settings import Settings, changed

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
Classes = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Classes of the data set's segmentation, where it has several sets of labels: 7 or 19 "
        "of cityscapes (by default what is there, 19 of the site's packages).",
        show_default=False,
    ),
]
Steps = Annotated[int, typer.Option(metavar="N", min=1, help="Optimiser steps.")]
Batch = Annotated[int, typer.Option(metavar="N", min=1, help="Images of each task in a step.")]
Accumulate = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, help="Parts in which a step's images are computed, to save memory."
    ),
]
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
Ema = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Decay of an average of the weights, which then is scored and stored; 0: none.",
    ),
]
Amp = Annotated[
    str, typer.Option(metavar="NAME", help="Format of matrix products: none, bf16, fp16.")
]
Workers = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Processes that share each batch, on the CPU; under torchrun they are its own.",
    ),
]
Loaders = Annotated[
    int, typer.Option(metavar="N", min=0, help="Threads that prepare the next batches.")
]
Threads = Annotated[
    int, typer.Option(metavar="N", min=0, help="Threads of a process; 0: torch's choice.")
]
Validation = Annotated[
    int, typer.Option(metavar="N", min=0, help="Validation images; 0: no validation.")
]
LogEvery = Annotated[int, typer.Option(metavar="N", min=1, help="Steps between log entries.")]
SaveEvery = Annotated[int, typer.Option(metavar="N", min=1, help="Steps between saved states.")]
ValidateEvery = Annotated[int, typer.Option(metavar="N", min=1, help="Steps between scores.")]
Lines = Annotated[
    bool, typer.Option("--json", help="Print each entry of the log and the result as JSON lines.")
]
Start = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Checkpoint whose weights to start from, as far as they fit by name and shape.",
        show_default=False,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the saved state.")]


def command(
    size: Size = DEFAULT_SIZE,
    settings: Settings = None,
    output: Output = Path("model.safetensors"),
    data: Data = "scenes",
    root: Root = None,
    depth_scale: DepthScale = 1.0,
    normals_range: NormalsRange = "signed",
    classes: Classes = None,
    task: Task = ALL_TASKS,
    image_size: ImageSize = None,
    steps: Steps = 3600,
    batch: Batch = 16,
    accumulate: Accumulate = 1,
    scenes: Scenes = 20_000,
    learning_rate: Rate = 2e-3,
    warmup: Warmup = 200,
    decay: Decay = 1.0,
    weight_decay: WeightDecay = 0.05,
    clip: Clip = 1.0,
    balance: Balance = 0.01,
    ema: Ema = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    amp: Amp = "none",
    workers: Workers = 1,
    threads: Threads = 0,
    loaders: Loaders = 0,
    validation: Validation = 100,
    validate_every: ValidateEvery = 500,
    log_every: LogEvery = 20,
    save_every: SaveEvery = 250,
    start: Start = None,
    resume: Resume = False,
    as_json: Lines = False,
) -> None:
    """Train a model on rendered scenes or a data set: AdamW, warm-up, cosine.

    Scenes are rendered once into the cache; data sets are read from the folders in which they are
    published (docs/training.md). Ctrl-C saves and stops after the current step; --resume goes on.
    Under torchrun every process runs this command.
    """
    config = model_preset(size)
    writable(output)
    if (image := parse_image_size(image_size)) is not None:
        config = dataclasses.replace(config, image=image)
    from moevit.model.training.parallel import Member
    from moevit.model.training.settings import SCENES
    from moevit.model.training.train import Stopped

    if data != SCENES:
        config = _for_data(config, data, root, classes)
    elif classes is not None:
        raise UserError("--classes: needs --data to say which data set's they are")
    known = {one.name: one for one in config.tasks}
    if data == SCENES:  # which have more truths than a size has tasks
        known |= {k: scene_task(k, config.tasks[0].stride) for k in SCENE_KINDS if k not in known}
    chosen = config.task_names if task == ALL_TASKS else chosen_tasks(task, list(known))
    config = dataclasses.replace(config, tasks=tuple(known[name] for name in chosen))
    config = changed(config, settings)
    options = dict[str, Any](
        data=data,
        root=root,
        depth_scale=depth_scale,
        normals_range=normals_range,
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        scenes=scenes,
        learning_rate=learning_rate,
        warmup=warmup,
        decay=decay,
        weight_decay=weight_decay,
        clip=clip,
        balance=balance,
        ema=ema,
        seed=seed,
        device=device,
        amp=amp,
        workers=workers,
        threads=threads,
        loaders=loaders,
        validation=validation,
        validate_every=validate_every,
        log_every=log_every,
        save_every=save_every,
        start=start,
        resume=resume,
    )
    member = Member.from_environment() or Member()
    try:
        results = train(output, config, show="json" if as_json else "people", **options)
    except Stopped as stopped:
        if member.rank == 0:
            sys.stderr.write(
                f"moevit: {output}: stopped after step {stopped.step} of {steps}, all saved; the "
                "same command with --resume goes on\n"
            )
        raise typer.Exit(INTERRUPTED) from None
    if member.rank > 0:
        return
    if as_json:
        typer.echo(json.dumps({"output": str(output), "steps": steps, "tasks": results}))
        return
    typer.echo(f"{output}: trained for {steps} steps")
    for name, metrics in results.items():
        figures = "  ".join(f"{key} {value:.4f}" for key, value in metrics.items())
        typer.echo(f"  {name}: {figures}")


def _for_data(
    config: ModelConfig, name: str, root: Path | None, classes: int | None
) -> ModelConfig:
    """A size with the tasks that a data set has truths of; heads keep the size's stride."""
    from moevit.model.datasets import tasks_of

    if root is None:
        raise UserError(f"--root: data {name} needs its folder")
    stride = config.tasks[0].stride
    return dataclasses.replace(config, tasks=tasks_of(name, root, stride, classes))
