"""What each part of a network costs alone: one part in integers, everything else in floats.

A part is a group of weights, or one kind of tensor in one block, with the scales and the rounding
that :mod:`..ptq.quantize` gave it. The float network runs with that part's values moved to what
their integers stand for, which for weights and saturated activations is what the accelerator
computes with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import log2

import numpy as np

from ..float.network import Edit, FloatLinear, FloatMoe, FloatNetwork, with_layers
from ..float.upsampling import FloatUpsamplingHead
from ..formats import LOGIT, RESIDUAL
from ..network import Network
from ..ptq.layers import Layers
from ..ptq.ranges import Encoding
from ..typing import Floats

__all__ = ["KINDS", "WHOLE", "Part", "parts", "simulate"]


WHOLE = "all"
"""Name of the part that is everything at once."""

KINDS = {
    "patch_embed": "patch embedding, weights",
    "residual": "residual stream, 16 bits",
    "norm1": "attention input, 8 bits",
    "qkv": "q, k, v, weights",
    "q k v": "q, k, v, 8 bits",
    "softmax": "attention weights, 7 bits",
    "attention": "attention output, 8 bits",
    "proj": "projection, weights",
    "norm2": "MLP input, 8 bits",
    "router": "router, weights",
    "logits": "router logits, 16 bits",
    "fc1": "MLP or experts fc1, weights",
    "hidden": "hidden activations, 8 bits",
    "fc2": "MLP or experts fc2, weights",
    "norm": "heads' input, 8 bits",
    "stages": "upsampling heads inside, 8 bits",
    "heads": "heads, weights",
}
"""Parts by kind, in the order of execution, and what they are."""

_PATTERNS = {
    "patch_embed": r"patch_embed",
    "qkv": r"blocks\.\d+\.[qkv]",
    "proj": r"blocks\.\d+\.proj",
    "router": r"blocks\.\d+\.routers\..*",
    "fc1": r"blocks\.\d+\.(experts\.\d+\.)?fc1",
    "fc2": r"blocks\.\d+\.(experts\.\d+\.)?fc2",
    "heads": r"heads\..*",
}
_SITES = {
    "residual": r"residual",
    "norm1": r"blocks\.\d+\.norm1",
    "q k v": r"blocks\.\d+\.[qkv]",
    "softmax": r"blocks\.\d+\.weights",
    "attention": r"blocks\.\d+\.attention",
    "norm2": r"blocks\.\d+\.(norm2|ahead)",
    "logits": r"blocks\.\d+\.logits\..*",
    "hidden": r"blocks\.\d+\.(experts\.\d+\.)?hidden",
    "norm": r"norm|heads\.[^.]+\.norm",
    "stages": r"heads\.[^.]+\.stages\.\d+",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """``kind`` of :data:`KINDS` in ``block``, None for what is outside the blocks."""

    kind: str
    block: int | None = None

    @property
    def name(self) -> str:
        """``blocks.<i>.<kind>`` or the kind alone."""
        return self.kind if self.block is None else f"blocks.{self.block}.{self.kind}"

    def holds(self, name: str, patterns: dict[str, str]) -> bool:
        """Whether a layer or site belongs to this part."""
        pattern = patterns.get(self.kind)
        if pattern is None or not re.fullmatch(pattern, name):
            return False
        return self.block is None or name.startswith(f"blocks.{self.block}.")


def parts(network: FloatNetwork) -> list[Part]:
    """All parts of a network, by kind and block."""
    upsampling = [h for h in network.heads.values() if isinstance(h, FloatUpsamplingHead)]
    outside = {
        "patch_embed": True,
        "residual": True,
        "norm": network.norm is not None or any(head.norm for head in upsampling),
        "stages": bool(upsampling),
        "heads": network.norm is not None or bool(network.heads),
    }
    found = []
    for kind in KINDS:
        if kind in outside:
            if outside[kind]:
                found.append(Part(kind=kind))
            continue
        for i, block in enumerate(network.blocks):
            if kind not in ("router", "logits") or isinstance(block.mlp, FloatMoe):
                found.append(Part(kind=kind, block=i))
    return found


def simulate(
    network: FloatNetwork, quantised: Network, made: Layers, part: Part | None
) -> tuple[FloatNetwork, Edit]:
    """A float network and what to hand to its ``run`` as ``edit``, for one part; None: for all.

    ``made`` is what :func:`~..ptq.quantize.quantise_with_parts` gave with ``quantised``.
    """

    def chosen(name: str, patterns: dict[str, str]) -> bool:
        if part is None:
            return any(re.fullmatch(pattern, name) for pattern in patterns.values())
        return part.holds(name, patterns)

    def layer(name: str, exact: FloatLinear) -> FloatLinear:
        return made.layers[name] if chosen(name, _PATTERNS) else exact

    def edit(name: str, x: Floats) -> Floats:
        if not chosen(name, _SITES):
            return x
        return _rounded(name, x, quantised, made.encodings).astype(np.float32)

    return with_layers(network, layer), edit


def _rounded(name: str, x: Floats, quantised: Network, encodings: dict[str, Encoding]) -> Floats:
    """A site's values, moved to what its integers stand for."""
    if name == "residual":
        step = quantised.residual_scale
        return np.clip(np.round(x / step), RESIDUAL.min, RESIDUAL.max) * step
    if ".logits." in name:
        step = 1 / (log2(np.e) * (1 << LOGIT.frac))
        return np.clip(np.round(x / step), LOGIT.min, LOGIT.max) * step
    if name.endswith(".weights"):  # relative to the row's largest, normalised afterwards
        codes = np.round(x / x.max(axis=-1, keepdims=True) * 127)
        normalised: Floats = codes / codes.sum(axis=-1, keepdims=True)
        return normalised
    encoding = encodings[name]
    return encoding.decode(encoding.encode(x))
