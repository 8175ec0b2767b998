"""`moevit import`."""

import ast
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moevit.errors import UserError
from moevit.files import writable
from moevit.model.config import CROP_MODES, INTERPOLATIONS
from moevit.models import Model, from_edge_moe, from_m3vit, from_timm

from ..options import Json, parse_image_size
from ..progress import progress
from ..settings import GATE_SETTINGS, GateSettings, read

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=False,
    help="Make a checkpoint of a trained model from elsewhere.\n\n"
    "The result goes, as --model, to `moevit run`, `moevit quantize` and `moevit export-onnx`. A "
    "tensor that is missing, misshapen or left over is an error that names it; nothing is written.",
)

Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE", help="Checkpoint (safetensors).")
]
Image = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Height and width of an image (pixels); as the patches say if not given, square "
        "unless they are Edge-MoE's 8 x 16.",
        show_default=False,
    ),
]
Heads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Attention heads; each 64 channels if not given, and 12 for M3ViT's of 384.",
        show_default=False,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(metavar="K", min=1, help="Experts a token; 2 if not given.", show_default=False),
]
Tasks = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Names of the gates' tasks, separated by commas; those of the heads in the file, or "
        "task0, task1..., if not given.",
        show_default=False,
    ),
]
Triple = tuple[float, float, float]


def _option(metavar: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar=metavar, help=text, show_default=False)
    return option


Mean = Annotated[
    Triple | None, _option("R G B", "Mean of the pixels (of 0..1); as the model says if not given.")
]
Deviation = Annotated[
    Triple | None, _option("R G B", "Standard deviation of the pixels (of 0..1).")
]
WeightsKey = Annotated[
    str | None,
    _option("NAME", "Which of several networks in the file (the error without it lists them)."),
]
Configuration = Annotated[
    Path | None,
    _option("YAML", "M3ViT's own configuration file: heads, image, experts a token, data set."),
]
ExpertStarts = Annotated[
    str | None,
    _option("N,N,...", "First expert of each task's window, as M3ViT counts them (it adds up)."),
]
CropPct = Annotated[
    float | None, _option("RATIO", "Part of a scaled picture's side that the model sees.")
]
CropMode = Annotated[
    str | None, _option("NAME", f"How pictures of another shape are cut: {', '.join(CROP_MODES)}.")
]
Interpolation = Annotated[
    str | None, _option("NAME", f"How pictures are scaled: {', '.join(INTERPOLATIONS)}.")
]
ModelArguments = Annotated[
    list[str] | None,
    _option("NAME=VALUE", "timm's argument of the model, as in its own scripts; may be repeated."),
]
Corners = Annotated[
    bool | None,
    typer.Option(
        "--align-corners/--no-align-corners",
        help="How the heads' enlargement was trained; without, if not given.",
        show_default=False,
    ),
]
BackboneOnly = Annotated[
    bool, typer.Option("--backbone-only", help="Leave heads in the file (decoders.*) aside.")
]


@app.command("m3vit")
def m3vit(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Checkpoint (.pth, safetensors), or folder of a file a rank."
        ),
    ],
    output: Output = Path("model.safetensors"),
    config: Configuration = None,
    image: Image = None,
    heads: Heads = None,
    top_k: TopK = None,
    tasks: Tasks = "",
    mean: Mean = None,
    std: Deviation = None,
    settings: GateSettings = None,
    expert_starts: ExpertStarts = None,
    align_corners: Corners = None,
    weights_key: WeightsKey = None,
    backbone_only: BackboneOnly = False,
    as_json: Json = False,
) -> None:
    """Import an M3ViT checkpoint.

    The backbone with its experts and gates: one a task, one for all, or one that sees the task. How
    it was trained to use them is not in the file: say it with --config, or --top-k and --set. What
    had to be assumed is printed. Upsampling heads (decoders.*) come along; without any, the result
    is the tokens.
    """
    writable(output)
    with progress("moevit import m3vit", quiet=as_json) as report:
        report("reading the weights", 0.0)
        model = from_m3vit(
            file,
            image=parse_image_size(image, "--image"),
            heads=heads,
            top_k=top_k,
            tasks=_names(tasks),
            pixel_mean=mean,
            pixel_std=std,
            backbone_only=backbone_only,
            align_corners=align_corners,
            config=config,
            weights_key=weights_key,
            **read([*(settings or []), *_starts(expert_starts)], GATE_SETTINGS),
        )
        model.save(output)
    _say(model, output, as_json=as_json)


@app.command("edge-moe")
def edge_moe(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Weight folder (*.float32.bin).")],
    output: Output = Path("model.safetensors"),
    image: Image = None,
    heads: Heads = None,
    top_k: TopK = None,
    tasks: Tasks = "",
    as_json: Json = False,
) -> None:
    """Import an Edge-MoE weight folder.

    Its conventions are kept: pixels are bytes over 256, row 0 of the position embedding is the
    class token, scores are scaled by 1/8. Without final norm and heads its result is the tokens.
    """
    writable(output)
    with progress("moevit import edge-moe", quiet=as_json) as report:
        report("reading the weights", 0.0)
        model = from_edge_moe(
            folder,
            image=parse_image_size(image, "--image"),
            heads=heads,
            top_k=top_k or 2,
            tasks=_names(tasks),
        )
        model.save(output)
    _say(model, output, as_json=as_json)


@app.command("timm")
def timm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="timm's name: vit_*, deit_*.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights (.pth, safetensors); downloaded by timm if not given.",
            show_default=False,
        ),
    ] = None,
    output: Output = Path("model.safetensors"),
    image: Image = None,
    mean: Mean = None,
    std: Deviation = None,
    crop_pct: CropPct = None,
    crop_mode: CropMode = None,
    interpolation: Interpolation = None,
    model_kwargs: ModelArguments = None,
    weights_key: WeightsKey = None,
    as_json: Json = False,
) -> None:
    """Import a plain vision transformer of timm, with its classification head if it has one.

    Plain or distilled, its head on the class token or on the mean of the patches; without a head
    the result is the tokens. What the weights' shapes say (image, depth, registers...) comes before
    the name. Pictures are scaled and cropped as timm's evaluation does. Not supported, and refused
    by name: docs/importing.md lists all names.
    """
    writable(output)
    with progress("moevit import timm", quiet=as_json) as report:
        report("building the model", 0.0)
        model = from_timm(
            name,
            weights=weights,
            image=parse_image_size(image, "--image"),
            pixel_mean=mean,
            pixel_std=std,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
            interpolation=interpolation,
            weights_key=weights_key,
            **_arguments(model_kwargs),
        )
        model.save(output)
    _say(model, output, as_json=as_json)


def _arguments(given: list[str] | None) -> dict[str, Any]:
    """timm's `--model-kwargs`: values are Python's literals, or text."""
    found: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--model-kwargs: {text!r} is no NAME=VALUE")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _starts(text: str | None) -> list[str]:
    return [] if text is None else [f"expert_starts={text}"]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _say(model: Model, output: Path, *, as_json: bool) -> None:
    config = model.config
    parameters = sum(p.numel() for p in model.module.parameters())
    mixtures = sum(config.is_moe(block) for block in range(config.depth))
    found = {
        "output": str(output),
        "model": json.loads(config.to_json()),
        "parameters": parameters,
        "notes": list(model.notes),
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    height, width = config.image
    typer.echo(
        f"{output}: {config.depth} blocks"
        f"{f' ({mixtures} with {config.experts} experts)' if mixtures else ''}, "
        f"{config.tokens} tokens of {config.dim} channels, {config.heads} heads, "
        f"images {height}x{width}, {parameters:,} parameters"
    )
    typer.echo(f"tasks: {', '.join(f'{task.name} ({task.kind})' for task in config.tasks)}")
    for note in model.notes:
        typer.echo(f"note: {note}")
