"""Depth: a raw value is the logarithm of metres; a truth of 0 is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moevit.quant.typing import Array, Floats32

from .base import Scale, TaskKind, least_squares

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.metrics import Scorer
    from ..training.losses import Recipe

__all__ = ["DEPTH"]

_NEAREST = 0.1  # metres; a linear model's depth is kept positive


class _Depth(TaskKind):
    def known(self, truth: Any) -> Any:
        return truth > 0

    def decode(self, raw: Floats32) -> Array:
        return np.asarray(np.exp(np.clip(raw[:, 0], -10, 10)))

    def loss(
        self, output: Tensor, truth: Tensor, mask: Tensor, recipe: Recipe, positive: Tensor
    ) -> Tensor:
        import torch

        wanted = torch.where(mask, truth.float(), 1)
        found = output[:, 0]
        difference = found - wanted.log() if recipe.log_depth else found.exp() - wanted
        return torch.where(mask, difference.abs(), 0).sum()

    def scorer(self, channels: int) -> Scorer:
        from ..evaluation.metrics import Depth

        return Depth()

    def constant(self, truth: Array, channels: int) -> Floats32:
        return np.asarray(np.log(truth.mean(keepdims=True)), np.float32)

    def probe(self, features: Floats32, truth: Array, channels: int) -> Floats32:
        return least_squares(features, truth)

    def from_probe(self, linear: Floats32) -> Floats32:
        return np.asarray(np.log(np.maximum(linear, _NEAREST)))


DEPTH = _Depth(
    name="depth",
    channels=1,
    metric="rmse",
    shown=("RMSE", " m", "{:.3f}"),
    lower_is_better=True,
    # perceptually uniform, the same to the colour-blind
    picture=Scale(colours="cividis", label="metres", fixed=False),
    scene_weight=2.0,
    kept=(np.float16, ()),
)
