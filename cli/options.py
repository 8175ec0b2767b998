"""The options that several commands share. They mean the same in each.

Use them as annotations: `def command(preset: Preset = DEFAULT_PRESET, as_json: Json = False)`.
The values are checked where the thing named is looked up, and here for backends and tasks.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from moevit.configurations import DEFAULT_PRESET
from moevit.errors import UserError
from moevit.hw.config import PRESETS as _HARDWARE
from moevit.model.config import PRESETS as _MODELS
from moevit.quant.dial import Dial
from moevit.quantising import DEFAULT_EXPERTS, DEFAULT_METHOD, EXPERTS
from moevit.quantising import expert_bits as _expert_bits
from moevit.sim.backend_names import BACKENDS
from moevit.sim.plain_paths import ready_to_build
from moevit.tasks import ALL_TASKS, selected

__all__ = [
    "ALL_TASKS",
    "BACKENDS",
    "DEFAULT_EXPERTS",
    "DEFAULT_METHOD",
    "DEFAULT_PRESET",
    "DEFAULT_SIZE",
    "QUANTISATION",
    "Backend",
    "CalibrationFiles",
    "Config",
    "Data",
    "DepthScale",
    "Experts",
    "ImageSize",
    "Json",
    "Method",
    "MinScore",
    "Model",
    "NormalsRange",
    "Preset",
    "RandomImage",
    "Root",
    "Seed",
    "Size",
    "Task",
    "TopK",
    "TopP",
    "Trace",
    "Weights",
    "check_backend",
    "check_method",
    "chosen_tasks",
    "dial_of",
    "expert_bits",
    "parse_image_size",
    "side_by_side",
]

DEFAULT_SIZE = "nano"

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
    "balance",
    "compensate",
    "qat",
)


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell completes the value of an option to."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return complete


Preset = Annotated[
    str | None,
    typer.Option(
        autocompletion=_names(_HARDWARE),
        metavar="NAME",
        help=f"Hardware preset: {', '.join(_HARDWARE)}.",
        show_default=DEFAULT_PRESET,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A hardware configuration of your own (JSON) instead of a preset.",
        show_default=False,
    ),
]
Size = Annotated[
    str,
    typer.Option(
        autocompletion=_names(_MODELS), metavar="NAME", help=f"Model size: {', '.join(_MODELS)}."
    ),
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
        autocompletion=_names(BACKENDS),
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
        autocompletion=_names(EXPERTS),
        metavar="NAME",
        help="Weights of the experts: int8 (default) or int4, which are half the traffic.",
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        autocompletion=_names(EXPERTS),
        metavar="NAME",
        help="All weights: int8 (default), or int4: the experts' and those of the dense layers "
        "that bear it (docs/accuracy.md).",
        show_default=False,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        autocompletion=_names(QUANTISATION),
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
Data = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Images: rendered scenes, or with --root nyud, pascal_context, cityscapes, or "
        "imagefolder (a folder for each class).",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the data set.", show_default=False),
]
DepthScale = Annotated[
    float,
    typer.Option(
        metavar="X", help="Metres of a depth of 1 in the data set's files: 0.001 of millimetres."
    ),
]
NormalsRange = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="How the data set's files store normals of -1 to 1: signed (as they are), unit (0 to "
        "1) or byte (0 to 255).",
    ),
]
CalibrationFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibration",
        metavar="PATH",
        help="Your own images to calibrate on: a folder, a file or a pattern such as 'a/*.png', "
        "as often as you like.",
        show_default=False,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Experts of a token by falling score until their scores add up to P, above 0 to 1: "
        "fewer than the program was compiled for, in fewer cycles.",
        show_default=False,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(metavar="K", help="At most K experts a token.", show_default=False),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        metavar="S", help="Only experts of a score above S, 0 to below 1.", show_default=False
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="N", help="Seed of everything random.", min=0, max=2**31 - 1)
]
Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What every engine, port and queue does, cycle by cycle, for Perfetto's viewer "
        "(docs/trace.md).",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead of text for people.")
]


def check_backend(name: str, allowed: Sequence[str] = tuple(BACKENDS)) -> str:
    """`name`, if it is one of `allowed`; UserError naming them otherwise.

    Of `sim` it is also checked, before any work, that its simulator can be built.
    """
    if name not in allowed:
        raise UserError(f"--backend: unknown backend {name!r}; expected {', '.join(allowed)}")
    if name == "sim":
        ready_to_build()
    return name


def dial_of(top_p: float | None, min_score: float | None, top_k: int | None) -> Dial:
    """The dial that --top-p, --min-score and --top-k ask for; UserError for one outside."""
    try:
        return Dial.of(top_p=top_p, min_score=min_score, top_k=top_k)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise UserError(f"--{name.replace('_', '-')}: {rest}") from None


def side_by_side(backend: str, jobs: int) -> int:
    """Devices to run at a time: `jobs`, or one a processor for 0; of boards there is one."""
    return 1 if backend in ("board", "remote") else jobs or len(os.sched_getaffinity(0))


def check_method(name: str) -> str:
    """`name`, if it is a method of quantisation; UserError naming them otherwise."""
    if name not in QUANTISATION:
        raise UserError(f"--method: unknown method {name!r}; expected {', '.join(QUANTISATION)}")
    return name


def expert_bits(name: str) -> int:
    """Bits of the experts' weights that the value of --experts names; UserError otherwise."""
    return _expert_bits(name, "--experts")


def chosen_tasks(text: str, available: Sequence[str]) -> list[str]:
    """The tasks that the value of --task names, each once, in the order given.

    Raises
    ------
    UserError
        For a task that is not `available`, or none.
    """
    return selected(text, available, "--task")


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
