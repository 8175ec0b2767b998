"""Scores of dense predictions, gathered over a whole split.

Each scorer takes batches with ``update(prediction, truth)`` and gives ``result()``. Counts are kept
over all pixels of all images, so the result does not depend on how they were batched. Pixels
whose truth is not known (:func:`moevit.model.tasks.known`) do not count. Formulas as in the
multi-task literature (Maninis et al. 2019, "Attentive Single-Tasking", section 4; Vandenhende et
al. 2021, "Multi-Task Learning for Dense Prediction Tasks", section 4) and in M3ViT's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..kinds import TASK_KINDS
from ..tasks import known

__all__ = [
    "LOWER_IS_BETTER",
    "PRIMARY",
    "Classification",
    "Depth",
    "Edges",
    "FMeasure",
    "Normals",
    "Saliency",
    "Scorer",
    "Segmentation",
    "delta_m",
    "scorer",
]

PRIMARY = {**{kind.name: kind.metric for kind in TASK_KINDS.values()}, "classification": "top1"}
"""The metric by which a kind of task is compared in :func:`delta_m`."""

LOWER_IS_BETTER = frozenset(kind.metric for kind in TASK_KINDS.values() if kind.lower_is_better)


class Scorer(Protocol):
    """What all scorers do.

    ``COUNTS`` names the attributes that gather over images. They are sums: those of two sets of
    images are added (:mod:`.tallies` does, for confidence intervals).
    """

    COUNTS: ClassVar[tuple[str, ...]]

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Add a batch of decoded predictions and their truths."""

    def result(self) -> dict[str, float]:
        """The metrics of everything added so far, by name."""


class Segmentation:
    """``miou``: mean over classes of intersection over union; ``accuracy``: share of pixels.

    Classes that occur neither in truth nor in predictions are left out of the mean; for M3ViT they
    count as 0, which is the same on a whole split, where all classes occur.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("confusion",)

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros((classes, classes), np.int64)  # [truth, prediction]

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        classes = len(self.confusion)
        counts = known("segmentation", truth)
        pairs = truth[counts].astype(np.int64) * classes + prediction[counts]
        self.confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def per_class(self) -> NDArray[np.float64]:
        """Intersection over union of each class, NaN for one that never occurs."""
        hits = np.diag(self.confusion).astype(np.float64)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return np.asarray(np.where(union > 0, hits / np.maximum(union, 1), np.nan))

    def result(self) -> dict[str, float]:
        total = int(self.confusion.sum())
        if not total:
            return {"miou": 0.0, "accuracy": 0.0}
        return {
            "miou": float(np.nanmean(self.per_class())),
            "accuracy": float(np.diag(self.confusion).sum() / total),
        }


class Depth:
    """``rmse`` in metres, ``log_rmse`` of natural logarithms; ``delta1``: share of pixels within a
    factor of 1.25 of the truth."""

    COUNTS: ClassVar[tuple[str, ...]] = ("pixels", "squares", "logs", "close")

    def __init__(self) -> None:
        self.pixels, self.squares, self.logs, self.close = 0, 0.0, 0.0, 0

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        counts = known("depth", truth)
        a, b = prediction[counts].astype(np.float64), truth[counts].astype(np.float64)
        self.pixels += b.size
        self.squares += float(np.square(a - b).sum())
        self.logs += float(np.square(np.log(np.maximum(a, 1e-9)) - np.log(b)).sum())
        self.close += int((np.maximum(a, b) < 1.25 * np.minimum(a, b)).sum())

    def result(self) -> dict[str, float]:
        count = max(self.pixels, 1)
        return {
            "rmse": float(np.sqrt(self.squares / count)),
            "log_rmse": float(np.sqrt(self.logs / count)),
            "delta1": self.close / count,
        }


class Normals:
    """``mean_angle`` and ``rms_angle`` between unit vectors, in degrees; ``within_11``,
    ``within_22`` and ``within_30``: shares under 11.25, 22.5 and 30 degrees."""

    _LIMITS = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}

    COUNTS: ClassVar[tuple[str, ...]] = ("pixels", "degrees", "squares", "close")

    def __init__(self) -> None:
        self.pixels, self.degrees, self.squares = 0, 0.0, 0.0
        self.close = np.zeros(len(self._LIMITS), np.int64)

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        counts = known("normals", truth)
        a, b = prediction[counts].astype(np.float64), truth[counts].astype(np.float64)
        angle = np.degrees(np.arccos(np.clip(np.einsum("nc,nc->n", a, b), -1, 1)))
        self.pixels += angle.size
        self.degrees += float(angle.sum())
        self.squares += float(np.square(angle).sum())
        self.close = self.close + [(angle < limit).sum() for limit in self._LIMITS.values()]

    def result(self) -> dict[str, float]:
        count = max(self.pixels, 1)
        return {
            "mean_angle": self.degrees / count,
            "rms_angle": float(np.sqrt(self.squares / count)),
            **{name: float(n) / count for name, n in zip(self._LIMITS, self.close, strict=True)},
        }


def _level(probability: NDArray[Any]) -> NDArray[np.int64]:
    """The largest multiple of 1/256 that a probability reaches, in 256ths."""
    return np.asarray(np.clip(probability * 256, 0, 255).astype(np.int64))


def _reached(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(..., levels)`` counts of pixels at each level to counts of those at it or above."""
    return counts[..., ::-1].cumsum(axis=-1)[..., ::-1].astype(np.float64)


def _f(precision: NDArray[Any], recall: NDArray[Any], beta2: float) -> NDArray[np.float64]:
    weighted = beta2 * precision + recall
    return np.asarray((1 + beta2) * precision * recall / np.where(weighted > 0, weighted, 1))


class FMeasure:
    """Largest F of a probability map over thresholds, one threshold for the whole split.

    ``F = (1 + beta2) P R / (beta2 P + R)`` pixel by pixel, without tolerance or thinning; the
    thresholds are the multiples of 1/256. Reported as ``name``, with its ``threshold``.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("counts",)

    def __init__(self, name: str, beta2: float) -> None:
        self.name, self.beta2 = name, beta2
        self.counts = np.zeros((2, 256), np.int64)  # [truth, probability in 256ths]

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        counts = known("edges", truth)
        pairs = truth[counts].astype(np.int64) * 256 + _level(prediction[counts])
        self.counts += np.bincount(pairs, minlength=512).reshape(2, 256)

    def result(self) -> dict[str, float]:
        wrong, right = _reached(self.counts)  # at each threshold: false and true positives
        found = max(float(self.counts[1].sum()), 1.0)
        f = _f(right / np.maximum(right + wrong, 1), right / found, self.beta2)
        best = int(f.argmax())
        return {self.name: float(f[best]), "threshold": best / 256}


class Edges(FMeasure):
    """``f`` of :class:`FMeasure` with ``beta2`` 1, exact to the pixel, and a tolerant ``ods_f``.

    ``ods_f`` is the largest F1 over the thresholds, one for the whole split (optimal dataset
    scale): a predicted pixel is right within 0.0075 of the image's diagonal from a true edge, and
    a true edge is found if it has a predicted pixel as near (the tolerance of Martin et al. 2004).
    Unlike the benchmarks of BSDS and seism, it neither thins predictions nor assigns them one to
    one, so it is not to be compared with what those print.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("counts", "predicted", "found")
    TOLERANCE = 0.0075

    def __init__(self) -> None:
        super().__init__(PRIMARY["edges"], 1.0)
        self.predicted = np.zeros((2, 256), np.int64)  # [right, level] of predicted pixels
        self.found = np.zeros(256, np.int64)  # level at which a true edge is found

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        super().update(prediction, truth)
        radius = self.TOLERANCE * float(np.hypot(*truth.shape[-2:]))
        reach = int(radius)
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        disk = x * x + y * y <= radius * radius
        for probability, edges in zip(prediction, truth, strict=True):
            counts = known("edges", edges)
            level = np.where(counts, _level(probability), 0)
            true = counts & (edges == 1)
            near = np.zeros_like(true)
            if true.any():
                near = ndimage.distance_transform_edt(~true) <= radius
            pairs = near[counts].astype(np.int64) * 256 + level[counts]
            self.predicted += np.bincount(pairs, minlength=512).reshape(2, 256)
            best = ndimage.maximum_filter(level, footprint=disk, mode="constant")
            self.found += np.bincount(best[true], minlength=256)

    def result(self) -> dict[str, float]:
        wrong, right = _reached(self.predicted)
        recall = _reached(self.found) / max(float(self.found.sum()), 1.0)
        f = _f(right / np.maximum(right + wrong, 1), recall, 1.0)
        return {**super().result(), "ods_f": float(f.max())}


class Saliency(FMeasure):
    """``max_f`` of :class:`FMeasure` with ``beta2`` 0.3 (Achanta et al. 2009), and M3ViT's two.

    ``miou``: the mean over images of the intersection over union of salient pixels (1 where
    neither prediction nor truth has any), the largest over the thresholds 0.2, 0.25 ... 0.9;
    ``max_f1``: at the best of these, F1 of the mean precision and mean recall over images.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("counts", "pictures", "sums")
    THRESHOLDS = np.linspace(0.2, 0.9, 15)

    def __init__(self) -> None:
        super().__init__(PRIMARY["saliency"], 0.3)
        self.pictures = 0
        self.sums = np.zeros((3, len(self.THRESHOLDS)))  # intersection over union, P, R

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        super().update(prediction, truth)
        levels = len(self.THRESHOLDS) + 1
        for probability, salient in zip(prediction, truth, strict=True):
            counts = known("saliency", salient)
            if not counts.any():
                continue
            # 0 is below all thresholds; a probability must exceed a threshold to reach it.
            level = np.searchsorted(self.THRESHOLDS, probability[counts], side="left")
            pairs = salient[counts].astype(np.int64) * levels + level
            table = np.bincount(pairs, minlength=2 * levels).reshape(2, levels)
            wrong, right = _reached(table)[:, 1:]
            total = float(table[1].sum())
            union = wrong + total
            self.sums[0] += np.where(union > 0, right / np.maximum(union, 1), 1.0)
            self.sums[1] += right / np.maximum(right + wrong, 1)
            self.sums[2] += right / max(total, 1.0)
            self.pictures += 1

    def result(self) -> dict[str, float]:
        overlap, precision, recall = self.sums / max(self.pictures, 1)
        return {
            **super().result(),
            "miou": float(overlap.max()),
            "max_f1": float(_f(precision, recall, 1.0).max()),
        }


class Classification:
    """``top1``, ``top5``: share of images whose class has the largest logit, one of the five
    largest. Of equal logits the first counts as larger, as for ``argmax``."""

    COUNTS: ClassVar[tuple[str, ...]] = ("images", "first", "five")

    def __init__(self) -> None:
        self.images, self.first, self.five = 0, 0, 0

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Logits ``(B, K)`` and classes ``(B,)``."""
        own = np.take_along_axis(prediction, truth[:, None], axis=1)
        before = np.arange(prediction.shape[1]) < truth[:, None]
        rank = ((prediction > own) | ((prediction == own) & before)).sum(axis=1)
        self.images += len(truth)
        self.first += int((rank == 0).sum())
        self.five += int((rank < 5).sum())

    def result(self) -> dict[str, float]:
        count = max(self.images, 1)
        return {"top1": float(self.first / count), "top5": float(self.five / count)}


def scorer(kind: str, channels: int) -> Scorer:
    """The scorer of a kind of task; ``channels`` is the number of classes of a segmentation."""
    if kind == "classification":
        return Classification()
    if kind not in TASK_KINDS:
        raise ValueError(f"Task kind must be one of {', '.join(PRIMARY)}, not {kind!r}")
    return TASK_KINDS[kind].scorer(channels)


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
