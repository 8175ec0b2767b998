"""Scores that know their images: counts image by image, and paired confidence intervals.

:func:`~.evaluate.evaluate` adds everything up; here the counts of each image are kept, so that a
metric can be computed of any draw of images (:mod:`moevit.quant.analysis.bootstrap`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moevit.quant.analysis.bootstrap import RESAMPLES, Estimate, draws, estimate
from moevit.quant.typing import Floats64

from ..config import ModelConfig
from ..datasets import Example
from ..scenes.render import Sample
from .evaluate import Backend, Results, Sampled, decoded, truth_of
from .metrics import LOWER_IS_BETTER, PRIMARY, Scorer, delta_m, scorer

__all__ = ["Paired", "Tallies", "paired", "tally"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tallies:
    """Counts ``(images, n)`` of each task and a scorer that they belong to."""

    kinds: dict[str, str]
    scorers: dict[str, Scorer]
    counts: dict[str, Floats64]

    @property
    def images(self) -> int:
        """How many images were scored."""
        return len(next(iter(self.counts.values())))

    def results(self, weights: Any | None = None) -> Results:
        """All metrics; ``weights`` ``(images,)`` says how often each image counts (once)."""
        times = np.ones(self.images) if weights is None else np.asarray(weights)
        return {
            task: _filled(self.scorers[task], times @ counts).result()
            for task, counts in self.counts.items()
        }

    def intervals(
        self, resamples: int = RESAMPLES, seed: int = 0
    ) -> dict[str, dict[str, Estimate]]:
        """All metrics, each with its interval over the choice of images."""
        found = self.results()
        drawn = [self.results(weights) for weights in draws(self.images, resamples, seed)]
        return {
            task: {
                name: estimate(value, [one[task][name] for one in drawn])
                for name, value in metrics.items()
            }
            for task, metrics in found.items()
        }

    def save(self, path: Path) -> None:
        """Keep the counts in a NumPy archive; :meth:`load` makes the same tallies of it."""
        np.savez_compressed(path, **self.counts)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, config: ModelConfig, tasks: Sequence[str]) -> Tallies:
        """What :meth:`save` has kept of ``tasks`` of a model."""
        kinds, scorers = _scorers(config, tasks)
        with np.load(path) as archive:
            counts = {name: archive[name] for name in tasks}
        return cls(kinds=kinds, scorers=scorers, counts=counts)


def _scorers(config: ModelConfig, tasks: Sequence[str]) -> tuple[dict[str, str], dict[str, Scorer]]:
    """The kind and an empty scorer of each task."""
    kinds = {name: config.task(name).kind for name in tasks}
    return kinds, {name: scorer(kinds[name], config.task(name).channels) for name in tasks}


def tally(
    backend: Backend,
    config: ModelConfig,
    samples: Sampled,
    *,
    tasks: Sequence[str] | None = None,
    batch: int = 20,
    on_progress: Callable[[int], None] | None = None,
) -> Tallies:
    """Score ``backend`` (see :mod:`.evaluate`) on samples, keeping each image's counts.

    Raises ``ValueError`` for an unknown task, outputs of the wrong shape, and without samples.
    """
    names = config.task_names if tasks is None else tuple(tasks)
    kinds, scorers = _scorers(config, names)
    rows: dict[str, list[Floats64]] = {name: [] for name in names}
    pending: list[Sample | Example] = []

    def score() -> None:
        images = np.stack([sample.image for sample in pending])
        for name in names:
            predictions = decoded(backend, config, images, name)
            for sample, prediction in zip(pending, predictions, strict=True):
                one = copy.deepcopy(scorers[name])
                one.update(prediction[None], truth_of(sample, kinds[name])[None])
                rows[name].append(_vector(one))
        pending.clear()
        if on_progress is not None:
            on_progress(len(rows[names[0]]))

    for sample in samples:
        pending.append(sample)
        if len(pending) == batch:
            score()
    if pending:
        score()
    if not rows[names[0]]:
        raise ValueError("Scoring needs at least one image")
    return Tallies(
        kinds=kinds, scorers=scorers, counts={name: np.stack(rows[name]) for name in names}
    )


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A network against a reference on the same images.

    ``metric[task]`` is the primary metric's name, ``reference`` and ``got`` its values; ``change``
    the relative gain in percent (above 0 is better than the reference), ``delta_m`` its mean over
    tasks (:func:`~.metrics.delta_m`).
    """

    metric: dict[str, str]
    reference: dict[str, float]
    got: dict[str, float]
    change: dict[str, Estimate]
    delta_m: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "delta_m": self.delta_m.to_dict(4),
            "tasks": {
                task: {
                    "metric": name,
                    "float": round(self.reference[task], 6),
                    "integer": round(self.got[task], 6),
                    "change": self.change[task].to_dict(4),
                }
                for task, name in self.metric.items()
            },
        }


def paired(got: Tallies, reference: Tallies, resamples: int = RESAMPLES, seed: int = 0) -> Paired:
    """Relative gains of ``got`` over ``reference``, with intervals over the choice of images.

    Raises ``ValueError`` unless both scored the same number of images and tasks.
    """
    if got.images != reference.images or got.kinds != reference.kinds:
        raise ValueError(
            f"Paired scores need the same images and tasks, not {got.images} of "
            f"{', '.join(got.kinds)} and {reference.images} of {', '.join(reference.kinds)}"
        )
    ours, theirs = got.results(), reference.results()
    gains: dict[str, list[float]] = {task: [] for task in got.kinds}
    for weights in draws(got.images, resamples, seed):
        a, b = got.results(weights), reference.results(weights)
        for task, kind in got.kinds.items():
            gains[task].append(_gain(a[task], b[task], kind))
    metric = {task: PRIMARY[kind] for task, kind in got.kinds.items()}
    return Paired(
        metric=metric,
        reference={task: theirs[task][name] for task, name in metric.items()},
        got={task: ours[task][name] for task, name in metric.items()},
        change={
            task: estimate(_gain(ours[task], theirs[task], kind), gains[task])
            for task, kind in got.kinds.items()
        },
        delta_m=estimate(
            delta_m(ours, theirs, got.kinds), np.mean([gains[task] for task in gains], axis=0)
        ),
    )


def _gain(got: Mapping[str, float], reference: Mapping[str, float], kind: str) -> float:
    """Percent; NaN where the reference is zero, as it may be in a draw of few images."""
    name = PRIMARY[kind]
    if not reference[name]:
        return float("nan")
    sign = -1 if name in LOWER_IS_BETTER else 1
    return 100 * sign * (got[name] - reference[name]) / reference[name]


def _vector(scored: Scorer) -> Floats64:
    """The counts of a scorer, one after the other."""
    parts = [np.ravel(np.asarray(getattr(scored, name), np.float64)) for name in scored.COUNTS]
    return np.concatenate(parts)


def _filled(prototype: Scorer, vector: Floats64) -> Scorer:
    """A scorer with these counts."""
    filled = copy.copy(prototype)
    start = 0
    for name in prototype.COUNTS:
        shape = np.shape(getattr(prototype, name))
        size = int(np.prod(shape))
        part = vector[start : start + size].reshape(shape)
        setattr(filled, name, part if shape else float(part))
        start += size
    return filled
