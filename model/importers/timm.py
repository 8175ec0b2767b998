"""timm's plain vision transformers, ``vit_*`` and ``deit_*``, with their classification head.

timm builds the network that the name stands for; it serves as the list of tensors to expect and is
checked, part by part, for what the accelerator does not compute. Layer scales (deit3) are folded
into the layers before them; a position embedding without a row for the class token gets a zero row.
A distilled DeiT averages the results of two heads, which become one on both tokens.

A norm behind the mean of the patches (``fc_norm``) is refused. The accelerator makes means of int8
activations, the norm's outputs; there it would be of the 16-bit residual stream, which no engine
adds up over tokens. By way of int8 and back (a plain NORM, the mean, a row of zeros loaded, an
identity added to it, NORM) eight bits of rounding would stand in front of the norm that is to
amplify it; nobody has measured what that costs, so nothing of the kind is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._timm import PatchEmbed  # first, so that timm can be imported
from ..config import ModelConfig, TaskConfig
from .common import Imported, build, mlp_ratio
from .containers import read_weights
from .m3vit import IMAGENET_MEAN, IMAGENET_STD
from .tensors import Tensors

# isort: split
import timm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer

__all__ = ["TASK", "import_timm"]

TASK = "classes"
"""Name of the only task, of kind ``classification``."""

_FAMILIES = ("vit_", "deit_", "deit3_")


def import_timm(name: str, *, weights: Path | str | None = None, **sizes: Any) -> Imported:
    """A model by timm's name, with weights from a file or, if None, those that timm downloads.

    ``sizes`` override timm's arguments of the model (``img_size``, ``embed_dim``, ``depth``...).
    Raises ``ValueError`` for a name that timm does not know, for a network with a part that is not
    supported, naming it, and for weights that do not fit, listing each tensor.
    """
    if not name.startswith(_FAMILIES) or not timm.is_model(name):
        raise ValueError(
            f"{name!r} is no model vit_*, deit_* or deit3_* of timm {timm.__version__}"
        )
    values = read_weights(weights).tensors if weights is not None else None
    if values is not None and "head.weight" in values:
        sizes.setdefault("num_classes", len(values["head.weight"]))
    network = _checked(name, _create(name, pretrained=values is None, sizes=sizes))
    expected = network.state_dict()
    tensors = Tensors(
        name if weights is None else str(weights), expected if values is None else values
    )
    taken = {key: tensors.take(key, *tensor.shape) for key, tensor in expected.items()}
    tensors.finish()
    config = _config(name, network)
    return Imported(
        model=build(config, _translate(config, taken)),
        source={
            "import": "timm",
            "name": name,
            "weights": Path(weights).name if weights is not None else "pretrained",
        },
    )


def _create(name: str, *, pretrained: bool, sizes: Mapping[str, Any]) -> nn.Module:
    try:
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


def _checked(name: str, network: nn.Module) -> VisionTransformer:
    """The network; ``ValueError`` naming the first thing that we do not compute."""

    def demand(fits: bool, found: str) -> None:
        if not fits:
            raise ValueError(f"{name} is not supported: {found}")

    kinds = (VisionTransformer, VisionTransformerDistilled)
    if type(network) not in kinds or not isinstance(network, VisionTransformer):
        raise ValueError(
            f"{name} is not supported: it is a {type(network).__name__}, not a plain ViT"
        )
    registers, pool = network.num_reg_tokens, network.global_pool
    demand(not registers, f"it has {registers} register tokens, expected none")
    demand(pool in ("token", "avg"), f"its head reads {pool!r} pooling, expected token or avg")
    demand(pool == "avg" or network.has_class_token, "it has no class token to classify")
    demand(type(network.patch_embed) is PatchEmbed, "its patches are no plain convolution")
    demand(network.patch_embed.proj.in_channels == 3, "its images have not 3 channels")
    demand(isinstance(network.patch_embed.norm, nn.Identity), "it normalises embedded patches")
    demand(network.patch_embed.proj.bias is not None, "its patch embedding has no bias")
    demand(network.pos_embed is not None, "it has no learned position embedding")
    demand(isinstance(network.norm_pre, nn.Identity), "it has a norm before the blocks")
    behind = (
        f"it has a {type(network.fc_norm).__name__} behind its pooling (fc_norm), expected the "
        "norm in front of it, as of timm's vit_*_gap_*"
    )
    demand(isinstance(network.fc_norm, nn.Identity), behind)
    demand(isinstance(network.norm, nn.LayerNorm), "it has no final norm before its head")
    demand(isinstance(network.head, nn.Linear), "it has no linear head")
    for index, block in enumerate(network.blocks):
        where = f"block {index}"
        demand(type(block) is Block, f"{where} is a {type(block).__name__}")
        attention, mlp = block.attn, block.mlp
        extras = [attention.q_norm, attention.k_norm, attention.norm, mlp.norm]
        demand(all(isinstance(e, nn.Identity) for e in extras), f"{where} has inner norms")
        demand(getattr(attention, "gate", None) is None, f"{where} has gated attention")
        plain = isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none"
        demand(plain and type(mlp).__name__ == "Mlp", f"{where} is no MLP with exact GELU")
        demand(isinstance(block.norm1, nn.LayerNorm), f"{where} has no LayerNorm")
        for scale in (block.ls1, block.ls2):
            demand(isinstance(scale, nn.Identity | LayerScale), f"{where} has a strange scale")
    return network


def _config(name: str, network: VisionTransformer) -> ModelConfig:
    first, embed, depth = network.blocks[0], network.patch_embed, len(network.blocks)
    dim, patch = network.embed_dim, embed.patch_size[0]
    about = network.pretrained_cfg or {}
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
            TaskConfig(
                name=TASK, kind="classification", channels=network.num_classes, stride=patch
            ),
        ),
        moe_every=depth + 1,
        norm_eps=network.norm.eps,
        pixel_mean=tuple(about.get("mean", IMAGENET_MEAN)),
        pixel_std=tuple(about.get("std", IMAGENET_STD)),
        attention_scale=float(first.attn.scale),
        class_token=network.has_class_token,
        distilled=isinstance(network, VisionTransformerDistilled),
        mean_pool=network.global_pool == "avg",
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
        elif ".ls" not in name:
            out[name] = tensor
    missing = config.tokens - out["pos_embed"].shape[1]
    if missing:
        rows = torch.zeros(1, missing, config.dim)
        out["pos_embed"] = torch.cat([rows, out["pos_embed"]], dim=1)
    for index in range(config.depth):
        prefix = f"blocks.{index}."
        for scale, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma = found.get(f"{prefix}{scale}.gamma")
            if gamma is not None:
                out[f"{prefix}{layer}.weight"] = gamma[:, None] * out[f"{prefix}{layer}.weight"]
                out[f"{prefix}{layer}.bias"] = gamma * out[f"{prefix}{layer}.bias"]
        bias = f"{prefix}attn.qkv.bias"
        out.setdefault(bias, torch.zeros(3 * config.dim))
    return out
