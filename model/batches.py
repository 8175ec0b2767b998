"""Batches of the training set: which scenes, how they are varied, in what order.

Everything that is random about step ``i`` follows from ``(seed, i)``, so training that is resumed
at a step sees the batches that it would have seen without the interruption.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from .config import ModelConfig
from .data import NORMAL_SCALE, Cache

__all__ = ["Batch", "Batches", "jitter"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Images ``(B, H, W, 3)`` float32 in 0..255, ordered by task: the first ``counts[0]`` belong to
    task 0, and so on; ``truths`` by the task's name."""

    images: Tensor
    counts: tuple[int, ...]
    truths: dict[str, Tensor]


def jitter(images: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Vary the colours of each image: channel order, saturation, contrast, gains, brightness."""
    count = len(images)
    swap = rng.random(count) < 0.3
    for index in np.flatnonzero(swap):
        images[index] = images[index][..., rng.permutation(3)]
    shape = (count, 1, 1, 1)
    grey = images.mean(axis=3, keepdims=True)
    saturation = rng.uniform(0.4, 1.3, shape).astype(np.float32)
    images = grey + (images - grey) * saturation
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    contrast = rng.uniform(0.75, 1.25, shape).astype(np.float32)
    gains = rng.uniform(0.85, 1.15, (count, 1, 1, 3)).astype(np.float32)
    shift = rng.uniform(-20, 20, shape).astype(np.float32)
    changed: NDArray[np.float32] = ((images - mean) * contrast + mean) * gains + shift
    return np.clip(changed, 0, 255, out=changed)


@dataclass(frozen=True, slots=True)
class Batches:
    """Draws batches of ``per_task`` different scenes a task from a cache.

    Of ``workers`` processes each takes its equal part of every batch, by ``rank``.
    """

    cache: Cache
    config: ModelConfig
    per_task: int
    seed: int
    rank: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.per_task % self.workers:
            raise ValueError(
                f"A batch of {self.per_task} scenes a task must divide by {self.workers} workers"
            )
        if self.size > len(self.cache):
            raise ValueError(
                f"A batch of {self.size} scenes needs at least as many, not {len(self.cache)}"
            )

    @property
    def size(self) -> int:
        """Images in a batch, those of all workers together."""
        return self.per_task * len(self.config.tasks)

    def _indices(self, step: int) -> NDArray[np.int64]:
        """Scenes of a step: each epoch is a new order of all scenes, its last few left over."""
        steps_per_epoch = len(self.cache) // self.size
        epoch, place = divmod(step, steps_per_epoch)
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.cache))
        return order[place * self.size : (place + 1) * self.size]

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        tasks, part = len(self.config.tasks), self.per_task // self.workers
        indices = self._indices(step).reshape(self.workers, tasks, part)[self.rank]
        flip = rng.random((tasks, part)) < 0.5
        images = self.cache.fields["image"][indices.ravel()].astype(np.float32)
        images[flip.ravel()] = images[flip.ravel(), :, ::-1]
        truths = {}
        for task, chosen, turned in zip(self.config.tasks, indices, flip, strict=True):
            truth = self.cache.fields[task.kind][chosen]
            truth[turned] = truth[turned, :, ::-1]
            if task.kind == "normals":
                truth = truth.astype(np.float32) / NORMAL_SCALE
                truth[turned] *= np.array([-1, 1, 1], np.float32)
            truths[task.name] = torch.from_numpy(np.ascontiguousarray(truth))
        return Batch(
            images=torch.from_numpy(jitter(images, rng)), counts=(part,) * tasks, truths=truths
        )
