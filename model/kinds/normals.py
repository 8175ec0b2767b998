"""Surface normals: unit vectors in camera coordinates, zero where not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moevit.quant.typing import Array, Floats32

from .base import Colours, TaskKind, least_squares, unit

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.metrics import Scorer
    from ..training.losses import Recipe

__all__ = ["NORMALS"]

_STEPS = 127  # of a component in the cache of scenes


class _Normals(TaskKind):
    def known(self, truth: Any) -> Any:
        return (truth != 0).any(-1)

    def decode(self, raw: Floats32) -> Array:
        return unit(raw.transpose(0, 2, 3, 1))

    def loss(
        self, output: Tensor, truth: Tensor, mask: Tensor, recipe: Recipe, positive: Tensor
    ) -> Tensor:
        import torch
        import torch.nn.functional as F

        wanted = truth.float().permute(0, 3, 1, 2)
        if recipe.cosine:
            each = 1 - F.cosine_similarity(output, wanted, dim=1)
        else:
            each = (F.normalize(output, dim=1) - wanted).abs().mean(1)
        return torch.where(mask, each, 0).sum()

    def scorer(self, channels: int) -> Scorer:
        from ..evaluation.metrics import Normals

        return Normals()

    def constant(self, truth: Array, channels: int) -> Floats32:
        return np.asarray(truth.mean(axis=0), np.float32)

    def probe(self, features: Floats32, truth: Array, channels: int) -> Floats32:
        return least_squares(features, truth)

    def keep(self, truth: Array) -> Array:
        return np.asarray(np.rint(truth * _STEPS), np.int8)

    def kept_truth(self, kept: Array) -> Array:
        return kept.astype(np.float32) / _STEPS

    def mirrored(self, truth: Array) -> Array:
        return truth * np.array([-1, 1, 1], np.float32)


def _rgb(vectors: Array) -> Array:
    """Camera coordinates (x right, y down, z forward) to RGB: right red, up green, to us blue."""
    return np.clip((vectors * (1, -1, -1) + 1) / 2, 0, 1)


def _ball(x: Array, y: Array) -> tuple[Array, Array]:
    inside = x * x + y * y < 1
    z = -np.sqrt(np.where(inside, 1 - x * x - y * y, 0))
    return np.stack([x, y, z], axis=-1), inside


NORMALS = _Normals(
    name="normals",
    channels=3,
    metric="mean_angle",
    shown=("angle", "°", "{:.2f}"),
    lower_is_better=True,
    picture=Colours(rgb=_rgb, key=_ball, label="normals\nof a ball"),
    scene_weight=3.0,
    kept=(np.int8, (3,)),
)
