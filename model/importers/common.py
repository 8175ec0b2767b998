"""What the importers share: sizes that a file does not say, blocks, and the finished model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..config import ModelConfig, TaskConfig
from ..m3vit import M3ViT

__all__ = [
    "HEAD_WIDTH",
    "Imported",
    "Sizes",
    "build",
    "count_heads",
    "experts_of",
    "grid_image",
    "mlp_ratio",
    "moe_period",
    "token_tasks",
]

_SHOWN = 8  # block numbers in a message

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


_EPS = 1e-6  # of every LayerNorm of M3ViT


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is read from the tensors of an M3ViT backbone: channels, the patch's side in pixels,
    rows of the position embedding, blocks and which of them have experts, hidden channels of the
    dense ones, experts and their hidden channels, tasks that the gates tell apart."""

    dim: int
    patch: int
    tokens: int
    depth: int
    mixtures: Sequence[int]
    hidden: int
    experts: int
    expert_hidden: int
    tasks: int

    def config(
        self,
        *,
        name: str,
        image: tuple[int, int] | None,
        heads: int | None,
        top_k: int,
        tasks: Sequence[str],
        **others: Any,
    ) -> ModelConfig:
        """The configuration: no final norm, no heads. ``others`` are fields of it."""
        return ModelConfig(
            name=name,
            image=grid_image(self.tokens - 1, self.patch, image),
            patch=self.patch,
            dim=self.dim,
            depth=self.depth,
            heads=count_heads(self.dim, heads),
            mlp_ratio=mlp_ratio(self.hidden, self.dim),
            experts=self.experts,
            top_k=top_k if self.mixtures else 1,
            expert_hidden=self.expert_hidden,
            tasks=token_tasks(self.tasks, tasks, self.dim, self.patch),
            moe_every=moe_period(self.mixtures, self.depth),
            norm_eps=_EPS,
            final_norm=False,
            **others,
        )

    def notes(self, top_k: int) -> list[str]:
        """What was assumed."""
        return [f"{top_k} of {self.experts} experts a token"] if self.mixtures else []


def experts_of(
    take: Callable[[str, int, int, int], tuple[Tensor, Tensor]], prefix: str, config: ModelConfig
) -> dict[str, Tensor]:
    """The experts of a block under our names, from the layers ``htoh4`` and ``h4toh`` of all.

    ``take(layer, experts, outputs, inputs)`` gives ``(E, O, I)`` weights and ``(E, O)`` biases.
    """
    out, dim, hidden = {}, config.dim, config.expert_hidden
    for ours, theirs, outputs, inputs in (
        ("fc1", "htoh4", hidden, dim),
        ("fc2", "h4toh", dim, hidden),
    ):
        weight, bias = take(theirs, config.experts, outputs, inputs)
        for e in range(config.experts):
            out[f"{prefix}mlp.experts.{e}.{ours}.weight"] = weight[e]
            out[f"{prefix}mlp.experts.{e}.{ours}.bias"] = bias[e]
    return out


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
            raise ValueError(f"{patches} patches are no square: say the image's size (--image HxW)")
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
            f"Experts are in blocks {_few(mixtures)}; every {period} blocks of {depth} were "
            f"{_few(expected)}"
        )
    return period


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    return shown + ("..." if len(numbers) > _SHOWN else "")


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
