"""Batches of the training set: which images, how they are varied, in what order.

Everything that is random about image ``n`` of step ``i`` follows from ``(seed, i, n)``. So
training that is resumed at a step sees the batches that it would have seen without the
interruption, and the same batches however many workers share them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from ..config import ModelConfig
from ..datasets import Dataset
from ..datasets.fit import View, fit
from ..kinds import TASK_KINDS
from .data import Cache

__all__ = ["Ahead", "Batch", "Batches", "Images", "Scenes", "Source", "jitter"]

Drawn = tuple[NDArray[np.float32], NDArray[Any]]
"""An image ``(H, W, 3)``, 0..255, and its truth."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Images ``(B, H, W, 3)`` float32 in 0..255, ordered by task: the first ``counts[0]`` belong to
    task 0, and so on; ``truths`` by the task's name."""

    images: Tensor
    counts: tuple[int, ...]
    truths: dict[str, Tensor]

    def parts(self, number: int) -> Iterator[Batch]:
        """``number`` equal parts, each with its share of every task."""
        images = torch.split(self.images, list(self.counts))
        for n in range(number):
            cut = [slice(n * c // number, (n + 1) * c // number) for c in self.counts]
            yield Batch(
                images=torch.cat([i[c] for i, c in zip(images, cut, strict=True)]),
                counts=tuple(c.stop - c.start for c in cut),
                truths={
                    name: truth[c]
                    for (name, truth), c in zip(self.truths.items(), cut, strict=True)
                },
            )


class Source(Protocol):
    """What batches are drawn from."""

    def __len__(self) -> int:
        """How many images there are."""

    def draw(self, index: int, kind: str, rng: Generator) -> Drawn:
        """Image ``index``, varied as ``rng`` says, and its truth for a kind of task."""


def jitter(image: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Vary an image's colours: channel order, saturation, contrast, gains, brightness."""
    if rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * np.float32(rng.uniform(0.4, 1.3))
    mean = image.mean()
    contrast = np.float32(rng.uniform(0.75, 1.25))
    gains = rng.uniform(0.85, 1.15, 3).astype(np.float32)
    shift = np.float32(rng.uniform(-20, 20))
    changed: NDArray[np.float32] = ((image - mean) * contrast + mean) * gains + shift
    return np.clip(changed, 0, 255, out=changed)


@dataclass(frozen=True, slots=True)
class Scenes:
    """Rendered scenes, of which half are turned left to right; their colours vary."""

    cache: Cache

    def __len__(self) -> int:
        return len(self.cache)

    def draw(self, index: int, kind: str, rng: Generator) -> Drawn:
        """See :class:`Source`."""
        image = self.cache.fields["image"][index].astype(np.float32)
        truth: NDArray[Any] = self.cache.fields[kind][index]
        truth = TASK_KINDS[kind].kept_truth(truth)
        if rng.random() < 0.5:
            image, truth = image[:, ::-1], TASK_KINDS[kind].mirrored(truth[:, ::-1])
        return jitter(image, rng), truth


@dataclass(frozen=True, slots=True)
class Images:
    """A data set, seen at the model's size in views as its :class:`.Augmentation` says."""

    data: Dataset
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.data)

    def draw(self, index: int, kind: str, rng: Generator) -> Drawn:
        """See :class:`Source`."""
        view = View.draw(rng, self.data.AUGMENTATION)
        example = self.data.load(index, [kind])
        seen = fit(example, self.size, view, inverse_depth=self.data.inverse_depth)
        return seen.image.astype(np.float32), seen.truths[kind]


@dataclass(frozen=True, slots=True)
class Batches:
    """Draws batches of ``per_task`` different images a task.

    Of ``workers`` processes each takes its equal part of every batch, by ``rank``.
    """

    source: Source
    config: ModelConfig
    per_task: int
    seed: int
    rank: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.per_task % self.workers:
            raise ValueError(
                f"A batch of {self.per_task} images a task must divide by {self.workers} workers"
            )
        if self.size > len(self.source):
            raise ValueError(
                f"A batch of {self.size} images ({self.per_task} for each of "
                f"{len(self.config.tasks)} tasks) needs at least as many, not {len(self.source)}"
            )

    @property
    def size(self) -> int:
        """Images in a batch, those of all workers together."""
        return self.per_task * len(self.config.tasks)

    def _indices(self, step: int) -> NDArray[np.int64]:
        """Images of a step: each epoch is a new order of all of them, its last few left over."""
        steps_per_epoch = len(self.source) // self.size
        epoch, place = divmod(step, steps_per_epoch)
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.source))
        return order[place * self.size : (place + 1) * self.size]

    def __getitem__(self, step: int) -> Batch:
        tasks, part = self.config.tasks, self.per_task // self.workers
        indices = self._indices(step).reshape(len(tasks), self.per_task)
        images, truths = [], {}
        for number, task in enumerate(tasks):
            drawn = [
                self.source.draw(
                    int(indices[number, place]),
                    task.kind,
                    np.random.default_rng([self.seed, 2, step, number, place]),
                )
                for place in range(self.rank * part, (self.rank + 1) * part)
            ]
            images += [image for image, _ in drawn]
            truth = np.stack([truth for _, truth in drawn])
            truths[task.name] = torch.from_numpy(np.ascontiguousarray(truth))
        return Batch(
            images=torch.from_numpy(np.stack(images)), counts=(part,) * len(tasks), truths=truths
        )


class Ahead:
    """Gives batches in order, the next ones being drawn meanwhile by ``threads`` threads.

    The batches are the same as without it; 0 threads draw each when it is asked for.
    """

    def __init__(self, batches: Batches, threads: int) -> None:
        self._batches, self._threads = batches, threads
        self._pool = ThreadPoolExecutor(threads, "batches") if threads else None
        self._coming: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __getitem__(self, step: int) -> Batch:
        if self._pool is None:
            return self._batches[step]
        for coming in range(step, step + self._threads + 1):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(self._batches.__getitem__, coming)
        self._coming = {n: future for n, future in self._coming.items() if n >= step}
        return self._coming.pop(step).result()
