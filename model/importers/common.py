"""What the importers share: sizes that a file does not say, blocks, and the finished model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..config import ModelConfig, TaskConfig
from ..m3vit import M3ViT

__all__ = [
    "HEAD_WIDTH",
    "Imported",
    "build",
    "count_heads",
    "grid_image",
    "mlp_ratio",
    "moe_period",
    "token_tasks",
]

HEAD_WIDTH = 64
"""Channels of an attention head in ViT and DeiT of any size: heads are ``dim / 64`` unless told."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A model from elsewhere, and what was done to get it.

    ``source`` goes into the checkpoint's free JSON; ``notes`` are for people: assumptions made
    where the file says nothing, and files or tensors known not to be needed.
    """

    model: M3ViT
    source: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def count_heads(dim: int, heads: int | None) -> int:
    """Attention heads, ``dim / 64`` if None; ``ValueError`` if they do not divide ``dim``."""
    if heads is None:
        if dim % HEAD_WIDTH:
            raise ValueError(f"Width {dim} is not a multiple of {HEAD_WIDTH}: say how many heads")
        return dim // HEAD_WIDTH
    if heads < 1 or dim % heads:
        raise ValueError(f"Heads must divide the width {dim}, not {heads!r}")
    return heads


def grid_image(patches: int, patch: int, image: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width in pixels of an image of so many patches; a square one if None is given."""
    if image is None:
        side = math.isqrt(patches)
        if side * side != patches:
            raise ValueError(f"{patches} patches are no square: name the image's height and width")
        return side * patch, side * patch
    if any(size < 1 or size % patch for size in image):
        raise ValueError(f"Image {image} must be a multiple of the patch, {patch} pixels")
    count = image[0] // patch * (image[1] // patch)
    if count != patches:
        raise ValueError(
            f"Image {image} has {count} patches of {patch} pixels, the position embedding {patches}"
        )
    return image


def mlp_ratio(hidden: int, dim: int) -> float:
    """The ratio for which ``int(dim * ratio)`` is ``hidden``."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def moe_period(mixtures: Sequence[int], depth: int) -> int:
    """Every how many blocks there is a mixture of experts; more than ``depth`` if nowhere.

    ``ValueError`` if the blocks are not the last ones of equal periods.
    """
    if not mixtures:
        return depth + 1
    period = mixtures[0] + 1
    expected = list(range(period - 1, depth, period))
    if list(mixtures) != expected:
        raise ValueError(
            f"Experts are in blocks {list(mixtures)}; every {period} blocks were {expected}"
        )
    return period


def token_tasks(count: int, names: Sequence[str], dim: int, patch: int) -> tuple[TaskConfig, ...]:
    """Tasks without heads; ``names`` for all of them, or ``task0``... if there are none."""
    names = list(names) or [f"task{index}" for index in range(count)]
    if len(names) != count:
        raise ValueError(f"There are gates for {count} tasks, but {len(names)} names: {names}")
    return tuple(TaskConfig(name=n, kind="tokens", channels=dim, stride=patch) for n in names)


def build(config: ModelConfig, tensors: Mapping[str, Tensor]) -> M3ViT:
    """The network with these parameters, in eval mode."""
    model = M3ViT(config)
    model.load_state_dict(dict(tensors))
    return model.eval()
