"""Pixels with one label of several: ``K`` logits; 255 where the label is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moevit.quant.typing import Array, Floats32

from .base import UNKNOWN, TaskKind, regression

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.metrics import Scorer
    from ..training.losses import Recipe

__all__ = ["HUMAN_PARTS", "SEGMENTATION", "Labels"]


class Labels(TaskKind):
    """The label of the largest logit, uint8."""

    def known(self, truth: Any) -> Any:
        return truth != UNKNOWN

    def decode(self, raw: Floats32) -> Array:
        return np.asarray(raw.argmax(axis=1), np.uint8)

    def loss(
        self, output: Tensor, truth: Tensor, mask: Tensor, recipe: Recipe, positive: Tensor
    ) -> Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(output, truth.long(), ignore_index=UNKNOWN, reduction="sum")

    def scorer(self, channels: int) -> Scorer:
        from ..evaluation.metrics import Segmentation

        return Segmentation(channels)

    def constant(self, truth: Array, channels: int) -> Floats32:
        counts = np.bincount(truth.astype(np.int64), minlength=channels)
        return np.asarray(np.log(np.maximum(counts, 1) / counts.sum()), np.float32)

    def probe(self, features: Floats32, truth: Array, channels: int) -> Floats32:
        return regression(features, truth, channels)


SEGMENTATION = Labels(
    name="segmentation",
    channels=None,
    metric="miou",
    shown=("mIoU", "", "{:.3f}"),
    picture=None,
    scene_weight=1.0,
)
HUMAN_PARTS = Labels(
    name="human_parts", channels=None, metric="miou", shown=("mIoU", "", "{:.3f}"), picture=None
)
"""0 is no person."""
