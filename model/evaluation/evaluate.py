"""Scoring of any backend on a split of the procedural scenes, or of a data set.

A backend is a callable ``(images, task) -> raw``: images ``(B, H, W, 3)`` uint8 and a task's
name to raw outputs ``(B, C, h, w)``, floats in the units of :mod:`moevit.model.tasks`. The float
network, the golden model and the accelerator are scored by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import ModelConfig
from ..datasets import Dataset, Example
from ..datasets.fit import fit
from ..m3vit import M3ViT
from ..preprocessing import prepare_array
from ..scenes.render import Sample
from ..tasks import predict
from ..training.data import samples
from .metrics import Scorer, scorer

__all__ = [
    "Backend",
    "Results",
    "Sampled",
    "decoded",
    "evaluate",
    "fitted",
    "float_backend",
    "seen",
    "truth_of",
]

Backend = Callable[[NDArray[np.uint8], str], NDArray[np.float32]]
Results = dict[str, dict[str, float]]
Sampled = Iterable[Sample | Example]
"""Images of the model's size with their truths."""


def truth_of(sample: Sample | Example, kind: str) -> NDArray[Any]:
    """What is true of an image, for a kind of task."""
    if isinstance(sample, Example):
        return sample.truths[kind]
    truth: NDArray[Any] = getattr(sample, kind)
    return truth


def fitted(data: Dataset, config: ModelConfig, count: int | None = None) -> Iterator[Example]:
    """The first ``count`` images of a data set (all if None), at the model's size."""
    for index in range(min(len(data), len(data) if count is None else count)):
        yield seen(data.load(index), config)


def seen(example: Example, config: ModelConfig) -> Example:
    """An example as the model is to see it: image and truths at its size.

    A model that crops in its own way (an imported classifier) has truths of the whole picture.
    """
    if config.crop_mode == "cover":
        return fit(example, config.image)
    return Example(prepare_array(example.image, config), dict(example.truths))


def float_backend(model: M3ViT) -> Backend:
    """The PyTorch network as a backend, on whatever device it is; put it in eval mode first."""
    device = next(model.parameters()).device

    def run(images: NDArray[np.uint8], task: str) -> NDArray[np.float32]:
        with torch.inference_mode():
            raw = model(torch.from_numpy(images).to(device), task)
        result: NDArray[np.float32] = raw.cpu().numpy()
        return result

    return run


def decoded(
    backend: Backend, config: ModelConfig, images: NDArray[np.uint8], name: str
) -> NDArray[Any]:
    """What a backend predicts for task ``name``, decoded (:func:`~..tasks.predict`);
    logits ``(B, K)`` of a classification as they are.

    Raises ``ValueError`` for outputs of the wrong shape.
    """
    raw = backend(images, name)
    if config.task(name).kind == "classification":
        logits = (len(images), config.task(name).channels)
        if raw.size != np.prod(logits):
            raise ValueError(f"Backend must give {logits} logits for task {name}, not {raw.shape}")
        return raw.reshape(logits)  # a device gives maps of one pixel
    expected = (len(images), config.task(name).channels)
    if raw.ndim != 4 or raw.shape[:2] != expected:
        raise ValueError(f"Backend must give {expected} maps for task {name}, not {raw.shape}")
    return predict(config.task(name).kind, raw, config.image)


def _score(
    backend: Backend,
    config: ModelConfig,
    scorers: dict[str, Scorer],
    batch: list[Sample | Example],
) -> None:
    images = np.stack([sample.image for sample in batch])
    for name, tally in scorers.items():
        truth = np.stack([truth_of(sample, config.task(name).kind) for sample in batch])
        tally.update(decoded(backend, config, images, name), truth)


def evaluate(
    backend: Backend,
    config: ModelConfig,
    *,
    tasks: Sequence[str] | None = None,
    split: str = "validation",
    count: int = 500,
    source: Sampled | None = None,
    batch: int = 25,
    on_progress: Callable[[int], None] | None = None,
) -> Results:
    """Metrics of every task in ``tasks`` (all by default) on the first ``count`` scenes of a split.

    ``source`` gives other images instead (:func:`fitted`), all of which are scored. Returns
    ``{task: {metric: value}}``. ``on_progress`` is told the number of images done after each
    batch. Raises ``ValueError`` for an unknown task or split, or outputs of the wrong shape.
    """
    if count < 1 or batch < 1:
        raise ValueError(f"Count and batch must be positive, not {count!r} and {batch!r}")
    names = config.task_names if tasks is None else tuple(tasks)
    scorers = {name: scorer(config.task(name).kind, config.task(name).channels) for name in names}
    done = 0
    for pending in _batches(source or samples(split, count, *config.image), batch):
        _score(backend, config, scorers, pending)
        done += len(pending)
        if on_progress is not None:
            on_progress(done)
    if not done:
        raise ValueError("Scoring needs at least one image")
    return {name: tally.result() for name, tally in scorers.items()}


def _batches(source: Sampled, size: int) -> Iterator[list[Sample | Example]]:
    pending: list[Sample | Example] = []
    for sample in source:
        pending.append(sample)
        if len(pending) == size:
            yield pending
            pending = []
    if pending:
        yield pending
