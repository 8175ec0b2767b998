"""Scores of dense predictions, gathered over a whole split.

Each scorer takes batches with ``update(prediction, truth)`` and gives ``result()``. Counts are kept
over all pixels of all pictures, so the result does not depend on how they were batched. Formulas
as in the multi-task literature (Maninis et al. 2019, "Attentive Single-Tasking", section 4;
Vandenhende et al. 2021, "Multi-Task Learning for Dense Prediction Tasks", section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOWER_IS_BETTER",
    "PRIMARY",
    "Depth",
    "FMeasure",
    "Normals",
    "Scorer",
    "Segmentation",
    "delta_m",
    "scorer",
]

PRIMARY = {
    "segmentation": "miou",
    "depth": "rmse",
    "normals": "mean_angle",
    "edges": "f",
    "saliency": "max_f",
}
"""The metric by which a kind of task is compared in :func:`delta_m`."""

LOWER_IS_BETTER = frozenset({"rmse", "mean_angle"})


class Scorer(Protocol):
    """What all scorers do.

    ``COUNTS`` names the attributes that gather over pictures. They are sums: those of two sets of
    pictures are added (:mod:`.tallies` does, for confidence intervals).
    """

    COUNTS: ClassVar[tuple[str, ...]]

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Add a batch of decoded predictions and their truths."""

    def result(self) -> dict[str, float]:
        """The metrics of everything added so far, by name."""


class Segmentation:
    """``miou``: mean over classes of intersection over union; ``accuracy``: share of pixels.

    Classes that occur neither in truth nor in predictions are left out of the mean.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("confusion",)

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros((classes, classes), np.int64)  # [truth, prediction]

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        classes = len(self.confusion)
        pairs = truth.astype(np.int64).ravel() * classes + prediction.ravel()
        self.confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def per_class(self) -> NDArray[np.float64]:
        """Intersection over union of each class, NaN for one that never occurs."""
        hits = np.diag(self.confusion).astype(np.float64)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return np.asarray(np.where(union > 0, hits / np.maximum(union, 1), np.nan))

    def result(self) -> dict[str, float]:
        total = max(int(self.confusion.sum()), 1)
        return {
            "miou": float(np.nanmean(self.per_class())),
            "accuracy": float(np.diag(self.confusion).sum() / total),
        }


class Depth:
    """``rmse`` in metres; ``delta1``: share of pixels within a factor of 1.25 of the truth."""

    COUNTS: ClassVar[tuple[str, ...]] = ("pixels", "squares", "close")

    def __init__(self) -> None:
        self.pixels, self.squares, self.close = 0, 0.0, 0

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        a, b = prediction.astype(np.float64), truth.astype(np.float64)
        self.pixels += b.size
        self.squares += float(np.square(a - b).sum())
        self.close += int((np.maximum(a, b) < 1.25 * np.minimum(a, b)).sum())

    def result(self) -> dict[str, float]:
        count = max(self.pixels, 1)
        return {"rmse": float(np.sqrt(self.squares / count)), "delta1": self.close / count}


class Normals:
    """``mean_angle`` between unit vectors, in degrees; ``within_11``: share under 11.25 degrees."""

    COUNTS: ClassVar[tuple[str, ...]] = ("pixels", "degrees", "close")

    def __init__(self) -> None:
        self.pixels, self.degrees, self.close = 0, 0.0, 0

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        cosine = np.einsum("...c,...c->...", prediction.astype(np.float64), truth)
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        self.pixels += angle.size
        self.degrees += float(angle.sum())
        self.close += int((angle < 11.25).sum())

    def result(self) -> dict[str, float]:
        count = max(self.pixels, 1)
        return {"mean_angle": self.degrees / count, "within_11": self.close / count}


class FMeasure:
    """Largest F of a probability map over thresholds, one threshold for the whole split.

    ``F = (1 + beta2) P R / (beta2 P + R)`` pixel by pixel, without tolerance or thinning; the
    thresholds are the multiples of 1/256. Edges use ``beta2`` = 1 (the "optimal dataset scale" F),
    saliency 0.3 (Achanta et al. 2009), reported as ``name``.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("counts",)

    def __init__(self, name: str, beta2: float) -> None:
        self.name, self.beta2 = name, beta2
        self.counts = np.zeros((2, 256), np.int64)  # [truth, probability in 256ths]

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        level = np.clip(prediction * 256, 0, 255).astype(np.int64).ravel()
        pairs = truth.astype(np.int64).ravel() * 256 + level
        self.counts += np.bincount(pairs, minlength=512).reshape(2, 256)

    def result(self) -> dict[str, float]:
        above = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.float64)
        wrong, right = above  # predicted at each threshold: false and true positives
        found = max(float(self.counts[1].sum()), 1.0)
        precision = right / np.maximum(right + wrong, 1)
        recall = right / found
        weighted = self.beta2 * precision + recall
        f = (1 + self.beta2) * precision * recall / np.where(weighted > 0, weighted, 1)
        best = int(f.argmax())
        return {self.name: float(f[best]), "threshold": best / 256}


def scorer(kind: str, channels: int) -> Scorer:
    """The scorer of a kind of task; ``channels`` is the number of classes of a segmentation."""
    if kind == "segmentation":
        return Segmentation(channels)
    if kind == "depth":
        return Depth()
    if kind == "normals":
        return Normals()
    if kind == "edges":
        return FMeasure(PRIMARY[kind], 1.0)
    if kind == "saliency":
        return FMeasure(PRIMARY[kind], 0.3)
    raise ValueError(f"Task kind must be one of {', '.join(PRIMARY)}, not {kind!r}")


def delta_m(
    results: Mapping[str, Mapping[str, float]],
    reference: Mapping[str, Mapping[str, float]],
    kinds: Mapping[str, str] | None = None,
) -> float:
    """Mean relative gain over a reference, in percent; above 0 is better than the reference.

    ``100 / T * sum((-1)**lower_is_better * (m - m_ref) / m_ref)`` over the tasks' primary metrics
    (Maninis et al. 2019, equation 4; M3ViT's delta-m). ``kinds`` maps a task's name to its kind
    where the two differ. Raises ``ValueError`` for a task that the reference lacks.
    """
    gains = []
    for task, metrics in results.items():
        name = PRIMARY[(kinds or {}).get(task, task)]
        if task not in reference or name not in reference[task]:
            raise ValueError(f"Reference result lacks {name} of task {task!r}")
        base = reference[task][name]
        if base == 0:
            raise ValueError(f"Reference {name} of task {task!r} is zero")
        sign = -1 if name in LOWER_IS_BETTER else 1
        gains.append(sign * (metrics[name] - base) / base)
    if not gains:
        raise ValueError("Results name no task")
    return 100 * float(np.mean(gains))
