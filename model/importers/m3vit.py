"""M3ViT's checkpoints (Fan et al. 2022): the backbone, with any of its gates that are linear
(:mod:`.m3vit_gates`), and its heads (:mod:`.m3vit_heads`); files and folders of ranks
(:mod:`.m3vit_files`).

The file holds tensors and no configuration. Sizes are read from shapes; what shapes do not say
comes from M3ViT's configuration file or from parameters, or is assumed and said
(:mod:`.m3vit_settings`): image, heads, experts a token, names of the tasks, mean and deviation of
the pixels, and how the gates were trained (``gate_input_ahead``, ``num_experts_pertask``,
``expert_prune``; scores over the chosen experts, as its gate ``noisy`` has them).

A backbone as it was trained on ImageNet has ``norm`` and ``head``: it becomes a classifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import ModelConfig, TaskConfig
from .common import HEAD_WIDTH, Imported, Sizes, build, experts_of
from .containers import listed
from .m3vit_files import read_m3vit
from .m3vit_gates import Gates, Windows
from .m3vit_heads import PREFIX, SINGLE, Decoders
from .m3vit_settings import IMAGENET_MEAN, IMAGENET_STD, Settings, accumulated_starts
from .tensors import Tensors

__all__ = ["CLASSES", "IMAGENET_MEAN", "IMAGENET_STD", "import_m3vit"]

CLASSES = "classes"
"""Name of the task of a backbone with a classification head."""

_HEADS = {384: 12}
"""Attention heads of M3ViT's own configurations where they are not 64 channels wide, by width."""
_NOISY = ("noisy",)  # gate types whose scores are a softmax over the chosen experts


def import_m3vit(
    path: Path | str,
    *,
    name: str = "m3vit",
    image: tuple[int, int] | None = None,
    heads: int | None = None,
    top_k: int | None = None,
    tasks: Sequence[str] = (),
    pixel_mean: tuple[float, float, float] | None = None,
    pixel_std: tuple[float, float, float] | None = None,
    gate_input_ahead: bool | None = None,
    experts_per_task: int | None = None,
    expert_starts: Sequence[int] = (),
    prune_threshold: float | None = None,
    renormalise: bool | None = None,
    align_corners: bool | None = None,
    backbone_only: bool = False,
    config: Path | str | None = None,
    weights_key: str | None = None,
) -> Imported:
    """Read a checkpoint file, or a folder of a file a rank.

    ``config`` is a configuration file of M3ViT. ``image`` is (height, width) in pixels. ``tasks``
    are names for the gates; one gate for all tasks serves as many as there are names. The five from
    ``gate_input_ahead`` on say what gates were trained with, as in :class:`~..config.ModelConfig`;
    ``expert_starts`` as M3ViT counts them. ``align_corners``: how the heads' doublings were
    trained. Heads in the file (``decoders.TASK.*``) name the tasks, in the order of the gates
    unless ``tasks`` says another; other heads are refused. With ``backbone_only`` all are left
    aside. Without heads the model gives tokens: it has no final norm. ``weights_key`` chooses among
    several networks in the file. Whatever is neither given nor in ``config`` nor in the file is
    assumed, and the notes say so. Raises ``ValueError`` listing each tensor that is missing,
    misshapen or unexpected.
    """
    weights, settings = read_m3vit(path, weights_key), Settings(config)
    tensors = Tensors(str(path), _named(weights.tensors, tasks or settings.tasks, path))
    dim, channels, patch, _ = tensors.shape("patch_embed.proj.weight", 4)
    if channels != 3:
        raise ValueError(f"{path}: patch_embed.proj.weight takes {channels} channels, expected 3")
    tokens = tensors.shape("pos_embed", 3)[1]
    depth, mixtures = _blocks(tensors)
    gates = Gates(tensors, mixtures, dim)
    decoders, classes = None, False
    if not backbone_only and any(n.startswith(PREFIX) for n in tensors.names):
        decoders = Decoders(tensors, tasks, patch)
        tasks = decoders.tasks
        _same_tasks(settings, decoders.tasks)
    elif not backbone_only and "head.weight" in tensors:
        classes, tasks = True, tasks or (CLASSES,)
    count = gates.tasks if gates.tasks else max(len(tasks), 1)
    experts, expert_hidden = 1, 1
    if mixtures:
        experts, expert_hidden = _experts(tensors, gates, mixtures[0])
    dense = [block for block in range(depth) if block not in mixtures]
    hidden = tensors.shape(f"blocks.{dense[0]}.mlp.fc1.weight", 2)[0] if dense else dim
    sizes = Sizes(
        dim=dim,
        patch=patch,
        tokens=tokens,
        depth=depth,
        mixtures=mixtures,
        hidden=hidden,
        experts=experts,
        expert_hidden=expert_hidden,
        tasks=count,
    )
    for key, found in (("patch_size", patch), ("embed_dim", dim), ("depth", depth)):
        settings.agree(key, found, str(found))
    if mixtures:
        settings.agree("moe_experts", experts, f"{experts} experts")
    routing = _routing(
        settings,
        gates,
        sizes,
        top_k=top_k,
        window=experts_per_task,
        starts=tuple(expert_starts),
        threshold=prune_threshold,
        renormalise=renormalise,
        ahead=gate_input_ahead,
    )
    pixel_mean, pixel_std = settings.pixels(pixel_mean, pixel_std)
    made = sizes.config(
        name=name,
        image=settings.pick(image, ("img_size",), _image, None, "a square image"),
        heads=_heads(settings, heads, dim),
        tasks=tasks,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        gate=gates.kind,
        gate_task_dim=gates.width,
        gate_task_hidden=gates.hidden,
        gate_bias=gates.bias,
        **routing,
    )
    if decoders is not None:
        corners = settings.pick(
            align_corners,
            ("align_corners",),
            bool,
            False,
            "" if decoders.doublings == 0 else "doublings without align_corners",
        )
        made = replace(decoders.configure(made), align_corners=corners)
    elif classes:
        made = _classifier(made, tensors, tasks)
    model = _parameters(tensors, made, gates)
    aside = gates.leave()
    if decoders is not None:
        model |= decoders.parameters(dim)
    elif classes:
        model |= _class_head(tensors, made)
    aside += [
        *(decoders.unused if decoders else ()),
        *_leave(tensors, heads=decoders is None, classes=classes),
    ]
    tensors.finish()
    notes = sizes.notes(made.top_k) + _about(made, gates)
    notes += decoders.notes() if decoders is not None else []
    aside += weights.aside
    notes += [f"left aside: {listed(aside)}"] if aside else []
    return Imported(
        model=build(made, model),
        source={"import": "m3vit", "file": Path(path).name},
        notes=(*notes, *settings.notes),
    )


def _named(tensors: dict[str, Tensor], tasks: Sequence[str], path: Path | str) -> dict[str, Tensor]:
    """The head of a network of one task under its task's name."""
    if not any(name.startswith(SINGLE) for name in tensors):
        return tensors
    if len(tasks) != 1:
        raise ValueError(
            f"{path} has the head of a single task ({SINGLE}*) and does not say which: name it "
            "(--tasks depth, or --config)"
        )
    return {
        f"{PREFIX}{tasks[0]}.{n.removeprefix(SINGLE)}" if n.startswith(SINGLE) else n: t
        for n, t in tensors.items()
    }


def _image(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def _heads(settings: Settings, heads: int | None, dim: int) -> int | None:
    own = _HEADS.get(dim)
    if own is not None:
        text = f"{own} attention heads of {dim // own} channels, as M3ViT's models of {dim} have"
    elif dim % HEAD_WIDTH == 0:
        text = f"{dim // HEAD_WIDTH} attention heads of {HEAD_WIDTH} channels"
    else:
        text = ""
    return settings.pick(heads, ("num_heads",), int, own, text)


def _same_tasks(settings: Settings, tasks: Sequence[str]) -> None:
    if settings.tasks and sorted(settings.tasks) != sorted(tasks):
        raise ValueError(
            f"{settings.source}: task_dictionary names {', '.join(settings.tasks)}, but the "
            f"checkpoint has heads of {', '.join(tasks)}"
        )


def _blocks(tensors: Tensors) -> tuple[int, list[int]]:
    """Number of blocks, and those with experts."""
    found, mixtures = set(), set()
    for name in tensors.names:
        if match := re.match(r"blocks\.(\d+)\.", name):
            found.add(int(match[1]))
            if ".mlp.experts." in name:
                mixtures.add(int(match[1]))
    if not found:
        raise ValueError(f"{tensors.source} has no tensors blocks.N.*: not an M3ViT backbone")
    return max(found) + 1, sorted(mixtures)


def _experts(tensors: Tensors, gates: Gates, block: int) -> tuple[int, int]:
    """How many experts, and their hidden channels; ``ValueError`` if only a share is there."""
    experts, hidden, _ = tensors.shape(f"blocks.{block}.mlp.experts.htoh4.weight", 3)
    seen = gates.experts(block)
    if seen > experts:
        folder = Path(tensors.source).is_dir()
        where = f"{experts}.. are in files that are not there" if folder else "the others are"
        rest = "" if folder else " in the files beside it: name the folder of all (0.pth, 1.pth...)"
        raise ValueError(
            f"{tensors.source} has {experts} of the {seen} experts that its gates choose among; "
            f"{where}{rest}"
        )
    return experts, hidden


def _routing(
    settings: Settings,
    gates: Gates,
    sizes: Sizes,
    *,
    top_k: int | None,
    window: int | None,
    starts: tuple[int, ...],
    threshold: float | None,
    renormalise: bool | None,
    ahead: bool | None,
) -> dict[str, Any]:
    """Fields of the configuration about the gates."""
    if not sizes.mixtures:
        return {"top_k": 1}
    chosen_alone = gates.chosen_alone
    kind = settings.pick(None, ("moe_gate_type",), str, "")
    if kind:
        chosen_alone = kind in _NOISY
    over = "the chosen experts" if chosen_alone else "all experts"
    picked: dict[str, Any] = {
        "top_k": settings.pick(top_k, ("moe_top_k",), int, 2, "2 experts a token"),
        "gate_input_ahead": settings.pick(
            ahead, ("gate_input_ahead",), bool, False, "gates behind the attention"
        ),
        "prune_threshold": threshold or 0.0,
    }
    if renormalise is None:
        renormalise = chosen_alone
        if not kind:
            settings.assumed.append(f"scores over {over}")
    if threshold is None and settings.pick(None, ("expert_prune",), bool, False):
        picked["prune_threshold"] = settings.pick(None, ("prune_threshold",), float, 0.1)
    if window is None and settings.pick(None, ("regu_experts_fromtask",), bool, False):
        window = settings.pick(None, ("num_experts_pertask",), int, 0)
    if not window:
        if starts:
            raise ValueError("Expert starts need a window (--set experts_per_task=N)")
        return picked | {"renormalise": renormalise}
    if gates.kind == "multi":
        raise ValueError(
            f"Windows of {window} experts a task do not go with a gate for each task: M3ViT itself "
            "adds a window's start to experts that such a gate has chosen among all, past the "
            "last one; they need one gate for all tasks"
        )
    asked = starts or accumulated_starts(sizes.tasks, sizes.experts, window)
    if 1 <= window <= sizes.experts and len(asked) == sizes.tasks:
        gates.windows = Windows(asked, window, sizes.experts, picked["top_k"])
        asked = gates.windows.starts
        if not starts:
            settings.assumed.append(
                "windows of experts from "
                f"{', '.join(map(str, gates.windows.asked))} on, as M3ViT counts"
            )
    return picked | {
        "renormalise": renormalise,
        "experts_per_task": window,
        "expert_starts": tuple(asked),
    }


def _classifier(config: ModelConfig, tensors: Tensors, tasks: Sequence[str]) -> ModelConfig:
    classes = tensors.shape("head.weight", 2)[0]
    return replace(
        config,
        final_norm=True,
        tasks=tuple(
            TaskConfig(name=n, kind="classification", channels=classes, stride=config.patch)
            for n in tasks
        ),
    )


def _class_head(tensors: Tensors, config: ModelConfig) -> dict[str, Tensor]:
    out = {f"norm.{part}": tensors.take(f"norm.{part}", config.dim) for part in ("weight", "bias")}
    for task in config.tasks:
        for part, shape in (("weight", (task.channels, config.dim)), ("bias", (task.channels,))):
            out[f"heads.{task.name}.linear.{part}"] = tensors.take(f"head.{part}", *shape)
    return out


def _leave(tensors: Tensors, *, heads: bool, classes: bool) -> list[str]:
    """Set aside what is known and not part of the network; its names."""
    kinds = (PREFIX, "tam_model") if heads else ("tam_model",)
    left = tensors.leave(n for n in tensors.names if n.startswith(kinds))
    names = [
        f"head of {n.split('.')[1]}" if n.startswith(PREFIX) else n.split(".")[0] for n in left
    ]
    if not classes:
        known = [n for n in tensors.names if n in ("norm.weight", "norm.bias")]
        known += [n for n in tensors.names if n in ("head.weight", "head.bias")]
        names += [name.partition(".")[0] for name in tensors.leave(known)]
    return list(dict.fromkeys(names))


def _about(config: ModelConfig, gates: Gates) -> list[str]:
    """What is worth knowing of the routing."""
    if gates.windows is None:
        return []
    asked, ours = gates.windows.asked, gates.windows.starts
    note = f"windows of {config.window} experts from {', '.join(map(str, asked))} on"
    if asked != ours:
        note += f", kept from {', '.join(map(str, ours))} on with those in front shut out"
    return [note]


def _parameters(tensors: Tensors, config: ModelConfig, gates: Gates) -> dict[str, Tensor]:
    """The backbone's parameters under our names."""
    dim, patch = config.dim, config.patch
    model = {
        "patch_embed.proj.weight": tensors.take("patch_embed.proj.weight", dim, 3, patch, patch),
        "patch_embed.proj.bias": tensors.take("patch_embed.proj.bias", dim),
        "cls_token": tensors.take("cls_token", 1, 1, dim),
        "pos_embed": tensors.take("pos_embed", 1, config.tokens, dim),
    }
    model |= gates.embedding()
    for block in range(config.depth):
        model |= _block(tensors, config, block, gates)
    return model


def _block(tensors: Tensors, config: ModelConfig, index: int, gates: Gates) -> dict[str, Tensor]:
    dim, prefix, mlp = config.dim, f"blocks.{index}.", f"blocks.{index}.mlp."
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("norm1", "norm2"):
        shapes |= {f"{prefix}{norm}.weight": (dim,), f"{prefix}{norm}.bias": (dim,)}
    layers = {f"{prefix}attn.qkv": (3 * dim, dim), f"{prefix}attn.proj": (dim, dim)}
    if not config.is_moe(index):
        hidden = config.mlp_hidden
        layers |= {f"{mlp}fc1": (hidden, dim), f"{mlp}fc2": (dim, hidden)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    out = {name: tensors.take(name, *shape) for name, shape in shapes.items()}
    if not config.is_moe(index):
        return out

    def take(layer: str, *shape: int) -> tuple[Tensor, Tensor]:
        name = f"{mlp}experts.{layer}."
        return tensors.take(name + "weight", *shape), tensors.take(name + "bias", *shape[:2])

    out |= experts_of(take, prefix, config)
    return out | gates.router(index, len(config.tasks), config.experts)
