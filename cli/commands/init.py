"""`moevit init`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from moevit.files import writable
from moevit.model.config import preset
from moevit.models import random_model

from ..options import DEFAULT_SIZE, ImageSize, Seed, Size, parse_image_size
from ..progress import progress
from ..settings import Settings, changed

__all__ = ["command"]

Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Checkpoint.")]


def command(
    size: Size = DEFAULT_SIZE,
    image_size: ImageSize = None,
    settings: Settings = None,
    seed: Seed = 0,
    output: Output = Path("model.safetensors"),
) -> None:
    """Write a model of a size with random weights.

    Its images mean nothing, but its cycles, bytes and bits do: for sizes that are not shipped.
    """
    writable(output)
    config = preset(size)
    if (image := parse_image_size(image_size)) is not None:
        config = dataclasses.replace(config, image=image)
    config = changed(config, settings)
    with progress("moevit init") as report:
        report(f"making {size}", 0.0)
        random_model(config, seed=seed).save(output)
    typer.echo(f"{output}: {size}, {config.image[0]}x{config.image[1]} pixels, random weights")
