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
from numpy.typing import NDArray

from moevit.quant.typing import Floats32

from ..config import ModelConfig
from ..kinds import TASK_KINDS
from ..training.data import Cache

__all__ = ["Constant", "LinearProbe", "Pixels"]


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
        truths = {}
        for name, values in chosen.items():
            truth = TASK_KINDS[name].kept_truth(values.reshape(count * each, *values.shape[2:]))
            truths[name] = truth.astype(np.float32)
        return cls(features.reshape(-1, 6), truths)


class Constant:
    """The best constant of each task, as a backend."""

    def __init__(self, config: ModelConfig, pixels: Pixels) -> None:
        self.raw: dict[str, Floats32] = {}
        for task in config.tasks:
            truth = pixels.truths[task.kind]
            self.raw[task.name] = TASK_KINDS[task.kind].constant(truth, task.channels)

    def __call__(self, images: NDArray[np.uint8], task: str) -> Floats32:
        """``(B, H, W, 3)`` to the same raw value everywhere, ``(B, C, H, W)``."""
        value = self.raw[task][None, :, None, None]
        return np.broadcast_to(value, (len(images), value.shape[1], *images.shape[1:3]))


class LinearProbe:
    """A linear model of each pixel's colour and position, as a backend."""

    def __init__(self, config: ModelConfig, pixels: Pixels) -> None:
        self.kinds = {task.name: task.kind for task in config.tasks}
        self.weights: dict[str, Floats32] = {}
        for task in config.tasks:
            kind, truth = TASK_KINDS[task.kind], pixels.truths[task.kind]
            self.weights[task.name] = kind.probe(pixels.features, truth, task.channels)

    def __call__(self, images: NDArray[np.uint8], task: str) -> Floats32:
        """``(B, H, W, 3)`` to raw outputs ``(B, C, H, W)``."""
        raw = (_features(images) @ self.weights[task]).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(TASK_KINDS[self.kinds[task]].from_probe(raw))
