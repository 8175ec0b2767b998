"""Which of timm's vision transformers are computed here: what a network must have, part by part.

timm builds the network that a name stands for. :func:`check` names the first part that the
accelerator does not compute; :func:`state_of` says it of a name without weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from moevit.quant.operators.activations import GELU, GELU_TANH, QUICK_GELU, RELU, SILU

from .._timm import PatchEmbed  # first, so that timm can be imported

# isort: split
import timm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer

__all__ = ["FAMILIES", "activation_of", "check", "is_headless", "pooling_left", "state_of"]

FAMILIES = ("vit_", "deit_", "deit3_")
"""How the names begin."""

_KINDS = {
    "Eva": "rotary positions (Eva)",
    "VisionTransformerRelPos": "positions relative to one another in the scores",
}


_ACTIVATIONS = (
    (nn.GELU, GELU),
    (timm.layers.GELU, GELU),
    (timm.layers.GELUTanh, GELU_TANH),
    (timm.layers.QuickGELU, QUICK_GELU),
    (nn.SiLU, SILU),
    (nn.ReLU, RELU),
)


def is_headless(network: VisionTransformer) -> bool:
    """Whether it has no classifier, so that its result is the tokens."""
    return isinstance(network.head, nn.Identity)


def pooling_left(network: VisionTransformer) -> str:
    """What of a network without classifier stands behind its tokens, for people."""
    parts = []
    if network.attn_pool is not None:
        parts.append("attention pooling (attn_pool)")
    elif network.global_pool:
        parts.append(f"{network.global_pool} pooling")
    if not isinstance(network.fc_norm, nn.Identity):
        parts.append("fc_norm")
    return " and ".join(parts)


def activation_of(layer: nn.Module) -> str:
    """Name of an activation function of ours, or nothing."""
    if type(layer) is nn.GELU and layer.approximate == "tanh":
        return GELU_TANH.name
    return next((function.name for kind, function in _ACTIVATIONS if type(layer) is kind), "")


def check(name: str, network: nn.Module) -> VisionTransformer:
    """The network; ``ValueError`` naming the first thing that we do not compute."""

    def demand(fits: bool, found: str) -> None:
        if not fits:
            raise ValueError(f"{name} is not supported: {found}")

    kinds = (VisionTransformer, VisionTransformerDistilled)
    if type(network) not in kinds or not isinstance(network, VisionTransformer):
        kind = type(network).__name__
        found = f"it has {_KINDS[kind]}" if kind in _KINDS else f"it is a {kind}, not a plain ViT"
        raise ValueError(f"{name} is not supported: {found}")
    embed = network.patch_embed
    demand(type(embed) is PatchEmbed, f"its patches come from a {type(embed).__name__}")
    demand(embed.proj.in_channels == 3, f"its images have {embed.proj.in_channels} channels, not 3")
    demand(embed.patch_size[0] == embed.patch_size[1], "its patches are no squares")
    patch, image = embed.patch_size[0], embed.img_size
    whole = image is not None and not any(side % patch for side in image)
    demand(whole, f"its images {image} are no whole patches of {patch} pixels")
    demand(isinstance(embed.norm, nn.Identity), "it normalises embedded patches")
    demand(network.pos_embed is not None, "it has no learned position embedding")
    pre = isinstance(network.norm_pre, nn.LayerNorm | nn.Identity)
    demand(pre, f"the norm in front of its blocks is a {type(network.norm_pre).__name__}")
    for index, block in enumerate(network.blocks):
        _check_block(f"block {index}", block, network.embed_dim, demand)
    normal = isinstance(network.norm, nn.LayerNorm | nn.Identity)
    demand(normal, f"its final norm is a {type(network.norm).__name__}")
    if is_headless(network):
        return network
    pool = network.global_pool
    demand(pool in ("token", "avg"), f"its head reads {pool!r} pooling, expected token or avg")
    demand(pool == "avg" or network.has_class_token, "it has no class token to classify")
    prefix = pool == "avg" and network.pool_include_prefix and network.num_prefix_tokens
    demand(not prefix, "its pooling takes the tokens in front of the patches as well")
    inside, behind = (isinstance(n, nn.LayerNorm) for n in (network.norm, network.fc_norm))
    demand(inside or pool == "avg", "its class token has no norm in front of its head")
    demand(inside != behind, "it has not one norm, in front of its pooling or behind it (fc_norm)")
    demand(isinstance(network.head, nn.Linear), "it has no linear head")
    return network


def _check_block(where: str, block: Any, dim: int, demand: Any) -> None:
    demand(type(block) is Block, f"{where} is a {type(block).__name__}")
    attention, mlp = block.attn, block.mlp
    kind = type(attention).__name__
    demand(kind == "Attention", f"{where} has a {kind}")
    for part, what in (("q_norm", "queries and keys"), ("norm", "attention's result")):
        plain = isinstance(getattr(attention, part, nn.Identity()), nn.Identity)
        demand(plain, f"{where} has inner norms, of {what}")
    demand(getattr(attention, "gate", None) is None, f"{where} has gated attention")
    inner = attention.proj.in_features
    demand(inner == dim, f"{where} has attention of {inner} channels in all, expected {dim}")
    kind = type(mlp).__name__
    demand(kind == "Mlp", f"{where} has a {kind} ({type(mlp.act).__name__}), expected an Mlp")
    demand(isinstance(mlp.norm, nn.Identity), f"{where} has inner norms, of its MLP")
    demand(activation_of(mlp.act), f"{where} has the activation {type(mlp.act).__name__}")
    demand(isinstance(block.norm1, nn.LayerNorm), f"{where} has a {type(block.norm1).__name__}")
    for scale in (block.ls1, block.ls2):
        demand(isinstance(scale, nn.Identity | LayerScale), f"{where} has a strange scale")


def state_of(name: str) -> tuple[bool, str]:
    """Whether the model of a name can be imported, and its result or what stands in the way.

    Only one block is built, without numbers: blocks are all alike.
    """
    with torch.device("meta"):
        try:
            network = timm.create_model(name, pretrained=False, depth=1)
        except (TypeError, RuntimeError, ValueError, AssertionError, IndexError):
            network = timm.create_model(name, pretrained=False)
    try:
        found = check(name, network)
    except ValueError as error:
        return False, str(error).partition("not supported: ")[2]
    if not is_headless(found):
        return True, "classes"
    rest = pooling_left(found)
    return True, f"tokens, without {rest}" if rest else "tokens"
