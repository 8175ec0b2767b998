"""timm's plain vision transformers, ``vit_*`` and ``deit_*``: classifiers, or tokens without head.

timm builds the network that the name, its arguments and the file's shapes stand for
(:mod:`.timm_sizes`); it serves as the list of tensors to expect and is checked, part by part, for
what the accelerator does not compute (:mod:`.timm_support`). Layer scales are folded into the
layers before them; absent biases are zeros; a position embedding without rows for the tokens in
front gets zero rows. A distilled DeiT averages the results of two heads, which become one on both
tokens. A network without classifier gives its tokens; what stands behind them there is left aside.

How pictures become pixels (mean, deviation, crop, interpolation) is timm's for the name, unless
told otherwise, and part of the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _timm  # noqa: F401  (first, so that timm can be imported)
from ..config import CROP_MODES, INTERPOLATIONS, ModelConfig, TaskConfig
from .common import Imported, build, mlp_ratio
from .containers import listed, read_weights
from .m3vit_settings import IMAGENET_MEAN, IMAGENET_STD
from .tensors import Tensors
from .timm_sizes import image_of, leave_outside, sizes_of
from .timm_support import FAMILIES, activation_of, check, is_headless, pooling_left

# isort: split
import timm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

__all__ = ["TASK", "TOKENS", "import_timm"]

TASK = "classes"
"""Name of the only task of a classifier, of kind ``classification``."""
TOKENS = "tokens"
"""Name and kind of the only task of a network without classifier."""

Triple = tuple[float, float, float]


def import_timm(
    name: str,
    *,
    weights: Path | str | None = None,
    image: tuple[int, int] | None = None,
    pixel_mean: Triple | None = None,
    pixel_std: Triple | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    crop_mode: str | None = None,
    weights_key: str | None = None,
    **sizes: Any,
) -> Imported:
    """A model by timm's name, with weights from a file or, if None, those that timm downloads.

    ``image`` is (height, width) in pixels. ``pixel_mean`` to ``crop_mode``: how it was trained to
    see pictures, timm's own for the name if None. ``sizes`` override timm's arguments of the model
    (``embed_dim``, ``depth``...); what shapes in the file say comes after them and before the name.
    Raises ``ValueError`` for a name that timm does not know, for a network with a part that is not
    supported, naming it, and for weights that do not fit, listing each tensor.
    """
    if not name.startswith(FAMILIES) or not timm.is_model(name):
        raise ValueError(
            f"{name!r} is no model vit_*, deit_* or deit3_* of timm {timm.__version__}"
        )
    if image is not None:
        sizes["img_size"] = tuple(image)
    notes: list[str] = []
    values: dict[str, Tensor] | None = None
    if weights is not None:
        found = read_weights(weights, weights_key)
        beside, left = leave_outside(found.outside)
        values = {**found.tensors, **beside}
        aside = [*(f"{part}.*" for part in left), *found.aside]
        notes += [f"left aside: {listed(aside)}"] if aside else []
        sizes, text = _sized(name, values, sizes, weights)
        notes += text
    network = check(name, _create(name, pretrained=values is None, sizes=sizes))
    expected = network.state_dict()
    headless = is_headless(network)
    if headless:  # what stands behind the tokens
        behind = [key for key in expected if key.startswith(("attn_pool.", "fc_norm."))]
        expected = {key: tensor for key, tensor in expected.items() if key not in behind}
    tensors = Tensors(
        name if weights is None else str(weights), expected if values is None else values
    )
    taken = {key: tensors.take(key, *tensor.shape) for key, tensor in expected.items()}
    if headless:
        tensors.leave(n for n in tensors.names if n.startswith(("attn_pool.", "fc_norm.")))
        rest = pooling_left(network)
        notes.append(f"no classifier: the result is the tokens{f', without {rest}' * bool(rest)}")
    tensors.finish()
    about = dict(network.pretrained_cfg or {})
    given = {
        "mean": pixel_mean,
        "std": pixel_std,
        "crop_pct": crop_pct,
        "interpolation": interpolation,
        "crop_mode": crop_mode,
    }
    about |= {key: value for key, value in given.items() if value is not None}
    config = _config(name, network, about)
    notes.append(_pictures(config, told=[key for key, v in given.items() if v is not None]))
    return Imported(
        model=build(config, _translate(config, taken)),
        source={
            "import": "timm",
            "name": name,
            "weights": Path(weights).name if weights is not None else "pretrained",
        },
        notes=tuple(notes),
    )


def _sized(
    name: str, values: Mapping[str, Tensor], sizes: dict[str, Any], weights: Path | str
) -> tuple[dict[str, Any], list[str]]:
    """timm's arguments with what the file's shapes say; a note of what differs from the name."""
    default = _create(name, pretrained=False, sizes=sizes, meta=True)
    if not isinstance(default, VisionTransformer):
        return sizes, []
    parameters = inspect.signature(VisionTransformer.__init__).parameters
    said = {k: v for k, v in sizes_of(values, default).items() if k in parameters}
    said = {key: value for key, value in said.items() if key not in sizes}
    if "embed_dim" in said and "num_heads" not in sizes:
        raise ValueError(
            f"{weights} has {said['embed_dim']} channels, {name} {default.embed_dim}: say how many "
            "heads there are (--model-kwargs num_heads=N)"
        )
    patch = said.get("patch_size") or default.patch_embed.patch_size[0]
    usual = default.patch_embed.img_size or (0, 0)
    try:
        image, without = image_of(values, patch, usual)
    except ValueError as error:
        if "img_size" in sizes:
            image, without = None, None
        else:
            raise ValueError(f"{weights}: {error}") from None
    if image is not None and "img_size" not in sizes:
        said["img_size"] = image
    if without is not None and without != default.no_embed_class and default.num_prefix_tokens:
        said.setdefault("no_embed_class", without)
    if not said:
        return sizes, []
    text = ", ".join(f"{key} {_shown(value)}" for key, value in said.items())
    return {**sizes, **said}, [f"as the file says, not the name: {text}"]


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _create(
    name: str, *, pretrained: bool, sizes: Mapping[str, Any], meta: bool = False
) -> nn.Module:
    try:
        with torch.device("meta" if meta else "cpu"):
            network: nn.Module = timm.create_model(name, pretrained=pretrained, **sizes)
    except Exception as error:  # whatever a download raises
        if not pretrained:
            raise ValueError(f"timm cannot build {name!r}: {_line(error)}") from None
        raise ValueError(
            f"timm's weights of {name!r} cannot be had ({_line(error)}); name a file of weights"
        ) from None
    return network.eval()


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _pictures(config: ModelConfig, told: list[str]) -> str:
    """How pictures become pixels, for people."""
    mean, std = (
        " ".join(f"{value:g}" for value in v) for v in (config.pixel_mean, config.pixel_std)
    )
    source = "as told" if len(told) == 5 else "as timm has it for the name"
    if told and len(told) < 5:
        source += f" but for {', '.join(told)}"
    return (
        f"pictures: mean {mean}, deviation {std}, {config.crop_mode} crop of {config.crop_pct:g}, "
        f"{config.interpolation}, {source}"
    )


def _config(name: str, network: VisionTransformer, about: Mapping[str, Any]) -> ModelConfig:
    first, embed, depth = network.blocks[0], network.patch_embed, len(network.blocks)
    dim, patch = network.embed_dim, embed.patch_size[0]
    how, mode = str(about.get("interpolation", "bicubic")), str(about.get("crop_mode") or "center")
    if how not in INTERPOLATIONS or mode not in CROP_MODES:
        raise ValueError(
            f"{name} scales pictures by {how!r} and crops {mode!r}; expected one of "
            f"{', '.join(INTERPOLATIONS)} and of {', '.join(CROP_MODES)}"
        )
    headless = is_headless(network)
    return ModelConfig(
        name=name,
        image=(embed.img_size[0], embed.img_size[1]),
        patch=patch,
        dim=dim,
        depth=depth,
        heads=first.attn.num_heads,
        mlp_ratio=mlp_ratio(first.mlp.fc1.out_features, dim),
        experts=1,
        top_k=1,
        expert_hidden=1,
        tasks=(
            TaskConfig(name=TOKENS, kind="tokens", channels=dim, stride=patch)
            if headless
            else TaskConfig(
                name=TASK, kind="classification", channels=network.num_classes, stride=patch
            ),
        ),
        moe_every=depth + 1,
        norm_eps=first.norm1.eps,
        pixel_mean=tuple(about.get("mean", IMAGENET_MEAN)),
        pixel_std=tuple(about.get("std", IMAGENET_STD)),
        attention_scale=float(first.attn.scale),
        class_token=network.has_class_token,
        distilled=isinstance(network, VisionTransformerDistilled),
        registers=network.num_reg_tokens,
        pre_norm=isinstance(network.norm_pre, nn.LayerNorm),
        final_norm=isinstance(network.norm, nn.LayerNorm),
        mean_pool=not headless and network.global_pool == "avg",
        pool_norm=not headless and isinstance(network.fc_norm, nn.LayerNorm),
        crop_mode=mode,
        crop_pct=float(about.get("crop_pct") or 0.875),
        interpolation=how,
        activation=activation_of(first.mlp.act),
    )


def _translate(config: ModelConfig, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors under our names."""
    out = {}
    for name, tensor in found.items():
        if name.startswith("head_dist."):
            continue
        if name.startswith("head."):
            other = found.get(name.replace("head.", "head_dist."))
            if other is not None:  # the mean of both heads' results
                join = torch.cat([tensor, other], dim=1) if tensor.ndim == 2 else tensor + other
                tensor = join / 2
            out[f"heads.{TASK}.linear.{name.removeprefix('head.')}"] = tensor
        elif name.startswith("fc_norm."):
            out[f"heads.{TASK}.norm.{name.removeprefix('fc_norm.')}"] = tensor
        elif ".ls" not in name:
            out[name] = tensor
    missing = config.tokens - out["pos_embed"].shape[1]
    if missing:
        rows = torch.zeros(1, missing, config.dim)
        out["pos_embed"] = torch.cat([rows, out["pos_embed"]], dim=1)
    _zeros(out, config)
    for index in range(config.depth):
        prefix = f"blocks.{index}."
        for scale, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma = found.get(f"{prefix}{scale}.gamma")
            if gamma is not None:
                out[f"{prefix}{layer}.weight"] = gamma[:, None] * out[f"{prefix}{layer}.weight"]
                out[f"{prefix}{layer}.bias"] = gamma * out[f"{prefix}{layer}.bias"]
    return out


def _zeros(out: dict[str, Tensor], config: ModelConfig) -> None:
    """Biases that the network does not have."""
    for name in [n for n in out if n.endswith(".weight")]:
        out.setdefault(name.removesuffix("weight") + "bias", torch.zeros(len(out[name])))
    for parts in [n for n in out if n.endswith("qkv.weight")]:
        assert len(out[parts]) == 3 * config.dim
