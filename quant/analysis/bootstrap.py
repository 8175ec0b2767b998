"""Confidence intervals by the bootstrap over images (Efron 1979; percentile intervals).

A score of a whole validation set is a function of counts that add up over images. Drawing
images with replacement and computing the score again shows how far chance in the choice of
images moves it. A difference of two networks is computed on the same draws (paired): what is hard
in an image is hard for both, so differences are known far better than scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..typing import Floats64

__all__ = ["LEVEL", "RESAMPLES", "Estimate", "draws", "estimate", "share"]


RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """``value`` on all images, and the interval ``low .. high`` at :data:`LEVEL`."""

    value: float
    low: float
    high: float

    def to_dict(self, digits: int = 6) -> dict[str, float]:
        """Plain JSON types."""
        return {name: round(getattr(self, name), digits) for name in ("value", "low", "high")}


def draws(images: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats64:
    """How often each image is in each draw, ``(resamples, images)``; each row sums to
    ``images``. Raises ``ValueError`` without images or draws."""
    if images < 1 or resamples < 1:
        raise ValueError(f"Draws need images and resamples, not {images!r} and {resamples!r}")
    rng = np.random.default_rng(seed)
    even = np.full(images, 1 / images)
    return rng.multinomial(images, even, size=resamples).astype(np.float64)


def estimate(value: float, samples: Any) -> Estimate:
    """A value with the central interval of its bootstrap ``samples``; NaN among them is dropped."""
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(np.asarray(samples, np.float64), [tail, 100 - tail])
    return Estimate(value=float(value), low=float(low), high=float(high))


def share(hits: Any, totals: Any, seed: int = 0) -> Estimate:
    """A share ``sum(hits) / sum(totals)`` of counts by image, ``(images,)`` each."""
    hits, totals = np.asarray(hits, np.float64), np.asarray(totals, np.float64)
    drawn = draws(len(hits), seed=seed)
    samples = (drawn @ hits) / np.maximum(drawn @ totals, 1)
    return estimate(hits.sum() / max(totals.sum(), 1), samples)
