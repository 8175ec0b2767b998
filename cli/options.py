"""The options that several commands share. They mean the same in each.

Use them as annotations: `def command(preset: Preset = DEFAULT_PRESET, as_json: Json = False)`.
The values are checked where the thing named is looked up, and here for backends and tasks.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from moevit.hw.config import PRESETS as _HARDWARE
from moevit.model.config import PRESETS as _MODELS

from .errors import UserError

__all__ = [
    "ALL_TASKS",
    "BACKENDS",
    "DEFAULT_EXPERTS",
    "DEFAULT_METHOD",
    "DEFAULT_PRESET",
    "DEFAULT_SIZE",
    "QUANTISATION",
    "Backend",
    "Experts",
    "ImageSize",
    "Json",
    "Method",
    "Model",
    "Preset",
    "RandomImage",
    "Seed",
    "Size",
    "Task",
    "check_backend",
    "check_method",
    "chosen_tasks",
    "expert_bits",
    "parse_image_size",
    "side_by_side",
]

DEFAULT_PRESET = "default"
DEFAULT_SIZE = "nano"
DEFAULT_EXPERTS = "int8"
DEFAULT_METHOD = "default"
ALL_TASKS = "all"

_EXPERTS = {"int8": 8, "int4": 4}

#: The names of :data:`moevit.quant.ptq.methods.METHODS`, which is slow to import; a test compares.
QUANTISATION = (
    "minmax",
    "percentile",
    "mse",
    "migrate",
    "bias",
    "gptq",
    "descent",
    "default",
    "all",
    "qat",
)

#: What runs a network, from the fastest to the truest.
BACKENDS = {
    "torch": "the float model",
    "onnx": "its ONNX export in onnxruntime",
    "golden": "the integer reference",
    "interpreter": "the program, instruction by instruction",
    "sim": "the verilated accelerator",
    "board": "the accelerator of this board",
}

Preset = Annotated[
    str,
    typer.Option(metavar="NAME", help=f"Hardware preset: {', '.join(_HARDWARE)}."),
]
Size = Annotated[
    str,
    typer.Option(metavar="NAME", help=f"Model size: {', '.join(_MODELS)}."),
]
Task = Annotated[
    str,
    typer.Option(
        metavar="NAMES", help=f"Tasks of the model, separated by commas, or '{ALL_TASKS}'."
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What runs the network: "
        + ", ".join(f"{name} ({what})" for name, what in BACKENDS.items())
        + ".",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Checkpoint (safetensors); the shipped one of the size if not given.",
        show_default=False,
    ),
]
Experts = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Weights of the experts: int8 (default) or int4, which are half the traffic.",
        show_default=False,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"How a checkpoint is quantised: {', '.join(QUANTISATION)} "
        "(`moevit quantize --compare all` compares them).",
        show_default=False,
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Image's height and width in pixels; the size's own if not given.",
        show_default=False,
    ),
]
RandomImage = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="HxW",
        help="Image's height and width: a model of the size with random weights, not a trained "
        "one, for its cycles and bytes.",
        show_default=False,
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="N", help="Seed of everything random.", min=0, max=2**31 - 1)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead of text for people.")
]


def check_backend(name: str, allowed: Sequence[str] = tuple(BACKENDS)) -> str:
    """`name`, if it is one of `allowed`; UserError naming them otherwise."""
    if name not in allowed:
        raise UserError(f"--backend: unknown backend {name!r}; expected {', '.join(allowed)}")
    return name


def side_by_side(backend: str, jobs: int) -> int:
    """Devices to run at a time: `jobs`, or one a processor for 0; of boards there is one."""
    return 1 if backend == "board" else jobs or len(os.sched_getaffinity(0))


def check_method(name: str) -> str:
    """`name`, if it is a method of quantisation; UserError naming them otherwise."""
    if name not in QUANTISATION:
        raise UserError(f"--method: unknown method {name!r}; expected {', '.join(QUANTISATION)}")
    return name


def expert_bits(name: str) -> int:
    """Bits of the experts' weights that the value of --experts names; UserError otherwise."""
    if name not in _EXPERTS:
        raise UserError(f"--experts: unknown format {name!r}; expected {', '.join(_EXPERTS)}")
    return _EXPERTS[name]


def chosen_tasks(text: str, available: Sequence[str]) -> list[str]:
    """The tasks that the value of --task names, each once, in the order given.

    Raises
    ------
    UserError
        For a task that is not `available`, or none.
    """
    if text == ALL_TASKS:
        return list(available)
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names or [text]:
        if name not in available:
            raise UserError(
                f"--task: unknown task {name!r}; expected {', '.join([*available, ALL_TASKS])}"
            )
    return names


def parse_image_size(text: str | None, option: str = "--image-size") -> tuple[int, int] | None:
    """Height and width from `HxW`, the value of `option`; None for None.

    Raises
    ------
    UserError
        If it is not two numbers with an x between them.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if not found:
        raise UserError(f"{option}: expected HxW such as 128x256, not {text!r}")
    return int(found[1]), int(found[2])
