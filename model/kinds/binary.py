"""Pixels that are of a sort or not: one logit; a truth is bool, or 0, 1 and 255, not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moevit.quant.typing import Array, Floats32

from .base import UNKNOWN, Scale, TaskKind, regression

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.metrics import Scorer
    from ..training.losses import Recipe

__all__ = ["EDGES", "SALIENCY"]


class _Binary(TaskKind):
    """The logit's probability."""

    def known(self, truth: Any) -> Any:
        if truth.dtype == np.bool_ or str(truth.dtype) == "torch.bool":
            return truth == truth
        return truth != UNKNOWN

    def decode(self, raw: Floats32) -> Array:
        return np.asarray(0.5 * (1 + np.tanh(0.5 * raw[:, 0])))

    def positive(self, truth: Tensor) -> Tensor | None:
        return truth == 1

    def constant(self, truth: Array, channels: int) -> Floats32:
        rate = np.clip(truth.mean(keepdims=True), 1e-6, 1 - 1e-6)
        return np.asarray(np.log(rate / (1 - rate)), np.float32)

    def probe(self, features: Floats32, truth: Array, channels: int) -> Floats32:
        return regression(features, truth, channels)


class _Edges(_Binary):
    def loss(
        self, output: Tensor, truth: Tensor, mask: Tensor, recipe: Recipe, positive: Tensor
    ) -> Tensor:
        return _cross_entropy(output[:, 0], truth, mask, recipe.edge_weight)

    def scorer(self, channels: int) -> Scorer:
        from ..evaluation.metrics import Edges

        return Edges()


class _Saliency(_Binary):
    def loss(
        self, output: Tensor, truth: Tensor, mask: Tensor, recipe: Recipe, positive: Tensor
    ) -> Tensor:
        others = (1 - positive).float() if recipe.balance_saliency else None
        return _cross_entropy(output[:, 0], truth, mask, others)

    def scorer(self, channels: int) -> Scorer:
        from ..evaluation.metrics import Saliency

        return Saliency()


def _cross_entropy(
    output: Tensor, truth: Tensor, mask: Tensor, positive: float | Tensor | None
) -> Tensor:
    """Sum of cross-entropies, in which positive pixels weigh ``positive`` and others the rest."""
    import torch
    import torch.nn.functional as F

    target = (truth == 1).float()
    loss = F.binary_cross_entropy_with_logits(output, target, reduction="none")
    if positive is not None:
        loss = loss * (target * positive + (1 - target) * (1 - positive))
    return torch.where(mask, loss, 0).sum()


EDGES = _Edges(
    name="edges",
    channels=1,
    metric="f",
    shown=("F", "", "{:.3f}"),
    picture=Scale(colours="gray_r", label="edge probability"),
    scene_weight=1.5,
    kept=(np.bool_, ()),
)
SALIENCY = _Saliency(
    name="saliency",
    channels=1,
    metric="max_f",
    shown=("max F", "", "{:.3f}"),
    picture=Scale(colours="inferno", label="salient probability"),
    scene_weight=1.5,
    kept=(np.bool_, ()),
)
