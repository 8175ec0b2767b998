"""What a trained network must beat: the best constant, and a linear model of single pixels.

Both are fitted on pixels of the training split and scored like any other backend.

The *constant* is, for each task, the most frequent label, the mean depth (which minimises the
RMSE), the direction of the mean normal, and the base rate of edges and of salient pixels (which the
F measure turns into "everything").

The *linear probe* sees a pixel's red, green and blue and its position x, y, each scaled to about
-1..1, and a bias. Labels by softmax regression and edges and saliency by logistic regression
(L-BFGS on the mean cross-entropy), depth and normals by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moevit.quant.typing import Floats32

from ..config import ModelConfig
from ..training.data import NORMAL_SCALE, Cache

__all__ = ["Constant", "LinearProbe", "Pixels"]


_NEAREST = 0.1  # metres; a linear model's depth is kept positive


def _features(images: NDArray[np.uint8]) -> Floats32:
    """``(B, H, W, 3)`` to ``(B, H, W, 6)``: colour, x, y and one."""
    batch, height, width, _ = images.shape
    features = np.ones((batch, height, width, 6), np.float32)
    features[..., :3] = images / np.float32(127.5) - 1
    features[..., 3] = np.linspace(-1, 1, width, dtype=np.float32)
    features[..., 4] = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return features


@dataclass(frozen=True, slots=True)
class Pixels:
    """A random sample of training pixels: ``features`` ``(n, 6)`` and the truth of each kind."""

    features: Floats32
    truths: dict[str, Floats32]

    @classmethod
    def draw(cls, cache: Cache, scenes: int = 2000, each: int = 100, seed: int = 0) -> Pixels:
        """``each`` pixels of every one of the first ``scenes`` scenes."""
        rng = np.random.default_rng(seed)
        count = min(scenes, len(cache))
        height, width = cache.fields["image"].shape[1:3]
        rows = rng.integers(0, height, (count, each))
        columns = rng.integers(0, width, (count, each))
        which = np.arange(count)[:, None]
        chosen: dict[str, NDArray[Any]] = {
            name: field[which, rows, columns] for name, field in cache.fields.items()
        }
        features = np.ones((count, each, 6), np.float32)
        features[..., :3] = chosen.pop("image") / np.float32(127.5) - 1
        features[..., 3] = columns / np.float32((width - 1) / 2) - 1
        features[..., 4] = rows / np.float32((height - 1) / 2) - 1
        truths = {
            name: values.reshape(count * each, *values.shape[2:]).astype(np.float32)
            for name, values in chosen.items()
        }
        truths["normals"] /= NORMAL_SCALE
        return cls(features.reshape(-1, 6), truths)


class Constant:
    """The best constant of each task, as a backend."""

    def __init__(self, config: ModelConfig, pixels: Pixels) -> None:
        self.raw: dict[str, Floats32] = {}
        for task in config.tasks:
            truth = pixels.truths[task.kind]
            if task.kind == "segmentation":
                counts = np.bincount(truth.astype(np.int64), minlength=task.channels)
                value = np.log(np.maximum(counts, 1) / counts.sum())
            elif task.kind == "depth":
                value = np.log(truth.mean(keepdims=True))
            elif task.kind == "normals":
                value = truth.mean(axis=0)
            else:
                rate = np.clip(truth.mean(keepdims=True), 1e-6, 1 - 1e-6)
                value = np.log(rate / (1 - rate))
            self.raw[task.name] = value.astype(np.float32)

    def __call__(self, images: NDArray[np.uint8], task: str) -> Floats32:
        """``(B, H, W, 3)`` to the same raw value everywhere, ``(B, C, H, W)``."""
        value = self.raw[task][None, :, None, None]
        return np.broadcast_to(value, (len(images), value.shape[1], *images.shape[1:3]))


def _least_squares(features: Floats32, targets: Floats32) -> Floats32:
    solution, *_ = np.linalg.lstsq(features, targets, rcond=None)
    return np.asarray(solution, np.float32)


def _regression(features: Floats32, truth: Floats32, channels: int) -> Floats32:
    """Weights ``(6, channels)`` of a softmax regression, or a logistic one for one channel."""
    x, y = torch.from_numpy(features), torch.from_numpy(truth)
    weight = torch.zeros(features.shape[1], channels, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = x @ weight
        if channels == 1:
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], y)
        else:
            loss = F.cross_entropy(logits, y.long())
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    result: Floats32 = weight.detach().numpy()
    return result


class LinearProbe:
    """A linear model of each pixel's colour and position, as a backend."""

    def __init__(self, config: ModelConfig, pixels: Pixels) -> None:
        self.kinds = {task.name: task.kind for task in config.tasks}
        self.weights: dict[str, Floats32] = {}
        for task in config.tasks:
            truth = pixels.truths[task.kind]
            if task.kind in ("depth", "normals"):
                targets = truth.reshape(len(truth), -1)
                self.weights[task.name] = _least_squares(pixels.features, targets)
            else:
                self.weights[task.name] = _regression(pixels.features, truth, task.channels)

    def __call__(self, images: NDArray[np.uint8], task: str) -> Floats32:
        """``(B, H, W, 3)`` to raw outputs ``(B, C, H, W)``."""
        raw = (_features(images) @ self.weights[task]).transpose(0, 3, 1, 2)
        if self.kinds[task] == "depth":
            raw = np.log(np.maximum(raw, _NEAREST))
        return np.ascontiguousarray(raw)
