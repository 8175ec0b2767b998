"""How well a picture fits the ranges that calibration gave, from its own integers.

A picture unlike those of the calibration leaves values out, which saturate at the ends of the
codes, or uses little of the codes. Either costs accuracy that no score of other pictures shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..formats import ACTIVATION, WEIGHT
from ..typing import Ints

__all__ = ["CLIPPED", "USED", "Fit", "fit_of"]

CLIPPED = 0.001
"""Share of saturated values from which on a picture is unlike the calibration's: pictures of one
kind have a fifth of it, even where ranges leave outliers out."""

USED = 0.2
"""Share of the codes' range below which a picture is unlike the calibration's."""

_SITES = re.compile(r"(blocks\.\d+\.(norm[12]|ahead|[qkv]|attention)|norm|entry)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """``clipped``: share of all activations that saturate, and ``worst`` that of the tensor
    ``where``. ``used``: mean share of the codes between a channel's lowest and highest."""

    clipped: float
    worst: float
    where: str
    used: float

    @property
    def good(self) -> bool:
        """Whether the picture is like the calibration's, as far as ranges tell."""
        return self.clipped < CLIPPED and self.used > USED

    def __str__(self) -> str:
        return (
            f"{100 * self.clipped:.2g} % of its values are beyond the calibrated ranges "
            f"({100 * self.worst:.2g} % in {self.where}), {100 * self.used:.0f} % of the ranges "
            "are used"
        )


def fit_of(trace: Mapping[str, Ints]) -> Fit:
    """The fit of a picture, of a golden model's trace (:class:`~..golden.GoldenResult`)."""
    shares, sizes, used = {}, {}, []
    for name, codes in trace.items():
        if not _SITES.fullmatch(name):
            continue
        low = -WEIGHT.max if name[-1] in "kv" else ACTIVATION.min
        ends = (codes <= low) | (codes >= ACTIVATION.max)
        shares[name], sizes[name] = float(ends.mean()), codes.size
        span = codes.max(axis=0) - codes.min(axis=0)
        used.append(float(span.mean()) / (ACTIVATION.max - ACTIVATION.min))
    if not shares:
        raise ValueError("The trace holds no activations")
    where = max(shares, key=lambda name: shares[name])
    total = sum(shares[name] * sizes[name] for name in shares) / sum(sizes.values())
    return Fit(clipped=total, worst=shares[where], where=where, used=float(np.mean(used)))
