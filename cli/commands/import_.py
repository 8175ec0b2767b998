"""`moevit import`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from moevit.files import writable
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
        help="Attention heads; each 64 channels if not given.",
        show_default=False,
    ),
]
TopK = Annotated[int, typer.Option(metavar="K", min=1, help="Experts a token.")]
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
Mean = Annotated[Triple, typer.Option(metavar="R G B", help="Mean of the pixels (of 0..1).")]
Deviation = Annotated[
    Triple, typer.Option(metavar="R G B", help="Standard deviation of the pixels (of 0..1).")
]
BackboneOnly = Annotated[
    bool, typer.Option("--backbone-only", help="Leave heads in the file (decoders.*) aside.")
]


@app.command("m3vit")
def m3vit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint (.pth, safetensors).")],
    output: Output = Path("model.safetensors"),
    image: Image = None,
    heads: Heads = None,
    top_k: TopK = 2,
    tasks: Tasks = "",
    mean: Mean = (0.485, 0.456, 0.406),
    std: Deviation = (0.229, 0.224, 0.225),
    settings: GateSettings = None,
    backbone_only: BackboneOnly = False,
    as_json: Json = False,
) -> None:
    """Import an M3ViT checkpoint.

    The backbone with its experts and gates: one a task, one for all, or one that sees the task. How
    it was trained to use them is not in the file: say it with --top-k and --set. Upsampling heads
    (decoders.*) come along; without any, the result is the tokens.
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
            **read(settings, GATE_SETTINGS),
        )
        model.save(output)
    _say(model, output, as_json=as_json)


@app.command("edge-moe")
def edge_moe(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Weight folder (*.float32.bin).")],
    output: Output = Path("model.safetensors"),
    image: Image = None,
    heads: Heads = None,
    top_k: TopK = 2,
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
            top_k=top_k,
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
    as_json: Json = False,
) -> None:
    """Import a plain vision transformer of timm with its classification head.

    Plain or distilled, its head on the class token or on the mean of the patches. Not supported,
    and refused by name: registers, other pooling, a norm behind it, inner norms, gated or other
    attention.
    """
    writable(output)
    with progress("moevit import timm", quiet=as_json) as report:
        report("building the model", 0.0)
        model = from_timm(name, weights=weights)
        model.save(output)
    _say(model, output, as_json=as_json)


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
