"""Orientation of contours: which way an edge runs, without a sense.

A direction at angle ``a`` from the x axis, y pointing down, is the unit vector ``(cos 2a, sin
2a)``, which is the same for ``a`` and ``a + 180`` degrees (Granlund 1978). Where there is no
contour, or none that runs one way, it is zero: not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moevit.quant.typing import Array, Floats32

from .base import Colours, TaskKind, least_squares, unit

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.metrics import Scorer
    from ..training.losses import Recipe

__all__ = ["ORIENTATION"]

_STEPS = 127  # of a component in the cache of scenes


class _Orientation(TaskKind):
    def known(self, truth: Any) -> Any:
        return (truth != 0).any(-1)

    def decode(self, raw: Floats32) -> Array:
        return unit(raw.transpose(0, 2, 3, 1))

    def loss(
        self, output: Tensor, truth: Tensor, mask: Tensor, recipe: Recipe, positive: Tensor
    ) -> Tensor:
        import torch
        import torch.nn.functional as F

        each = 1 - F.cosine_similarity(output, truth.float().permute(0, 3, 1, 2), dim=1)
        return torch.where(mask, each, 0).sum()

    def scorer(self, channels: int) -> Scorer:
        return _Angles(self)

    def constant(self, truth: Array, channels: int) -> Floats32:
        return np.asarray(truth[self.known(truth)].mean(axis=0), np.float32)

    def probe(self, features: Floats32, truth: Array, channels: int) -> Floats32:
        known = self.known(truth)
        return least_squares(features[known], truth[known])

    def keep(self, truth: Array) -> Array:
        return np.asarray(np.rint(truth * _STEPS), np.int8)

    def kept_truth(self, kept: Array) -> Array:
        return kept.astype(np.float32) / _STEPS

    def mirrored(self, truth: Array) -> Array:
        return truth * np.array([1, -1], np.float32)


class _Angles:
    """``mean_turn``: mean angle between orientations, 0 to 90 degrees; ``within_11``,
    ``within_22``: shares of pixels under 11.25 and 22.5 degrees."""

    _LIMITS = {"within_11": 11.25, "within_22": 22.5}

    COUNTS: ClassVar[tuple[str, ...]] = ("pixels", "degrees", "close")

    def __init__(self, kind: TaskKind) -> None:
        self.kind, self.pixels, self.degrees = kind, 0, 0.0
        self.close = np.zeros(len(self._LIMITS), np.int64)

    def update(self, prediction: Array, truth: Array) -> None:
        known = self.kind.known(truth)
        a, b = prediction[known].astype(np.float64), truth[known].astype(np.float64)
        cosine = (a * b).sum(-1) / np.maximum(np.linalg.norm(b, axis=-1), 1e-9)
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1))) / 2
        self.pixels += angle.size
        self.degrees += float(angle.sum())
        self.close = self.close + [(angle < limit).sum() for limit in self._LIMITS.values()]

    def result(self) -> dict[str, float]:
        count = max(self.pixels, 1)
        shares = {n: float(c) / count for n, c in zip(self._LIMITS, self.close, strict=True)}
        return {"mean_turn": self.degrees / count, **shares}


def _rgb(vectors: Array) -> Array:
    """A hue for each orientation; white where there is none."""
    from matplotlib.colors import hsv_to_rgb

    hue = np.arctan2(vectors[..., 1], vectors[..., 0]) / (2 * np.pi) % 1
    length = np.clip(np.linalg.norm(vectors, axis=-1), 0, 1)
    return np.asarray(hsv_to_rgb(np.stack([hue, 0.8 * length, 1 - 0.15 * length], axis=-1)))


def _rings(x: Array, y: Array) -> tuple[Array, Array]:
    """Circles around one point run across their radii."""
    square = x * x + y * y
    vectors = np.stack([y * y - x * x, -2 * x * y], axis=-1) / np.maximum(square, 1e-9)[..., None]
    return vectors, (square > 0.1) & (square < 1)


ORIENTATION = _Orientation(
    name="orientation",
    channels=2,
    metric="mean_turn",
    shown=("angle", "°", "{:.2f}"),
    lower_is_better=True,
    picture=Colours(rgb=_rgb, key=_rings, label="contours\nof a disc"),
    scene_weight=1.0,
    kept=(np.int8, (2,)),
)
