"""How well a picture fits the ranges that calibration gave, from its own integers.

A picture unlike those of the calibration leaves values out, which saturate at the ends of the
codes, or uses little of the codes. Either costs accuracy that no score of other pictures shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import ACTIVATION, WEIGHT
from ..typing import Ints

__all__ = ["Fit", "fit_of", "is_activation", "saturated"]

USUAL, SLACK, WORST_SLACK = 4.0, 0.001, 0.01
"""A picture is unlike the calibration's from so many times its share of saturated values on, and
so much over it, in all or in the worst tensor: pictures differ, and what ranges leave out on
purpose is no news."""

USED = 0.1
"""Share of the codes' range below which a picture is unlike the calibration's."""

_SITES = re.compile(r"(blocks\.\d+\.(norm[12]|ahead|[qkv]|attention)|norm|entry)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """``clipped``: share of all activations that saturate, and ``worst`` that of the tensor
    ``where``. ``usual``: what ``clipped`` was on the calibration's own, None where nobody wrote it
    down. ``used``: mean share of the codes between a channel's lowest and highest."""

    clipped: float
    worst: float
    where: str
    used: float
    usual: float | None = None

    @property
    def good(self) -> bool:
        """Whether the picture is like the calibration's, as far as ranges tell."""
        if self.used < USED:
            return False
        if self.usual is None:
            return True
        usual = USUAL * self.usual
        return self.clipped <= usual + SLACK and self.worst <= usual + WORST_SLACK

    def __str__(self) -> str:
        return (
            f"{100 * self.clipped:.2g} % of its values are at the ends of the ranges "
            f"({100 * self.worst:.2g} % in {self.where}; in calibration "
            f"{100 * (self.usual or 0):.2g} %), {100 * self.used:.0f} % of the ranges are used"
        )


def fit_of(trace: Mapping[str, Ints], usual: float | None = None) -> Fit:
    """The fit of a picture, of a golden model's trace (:class:`~..golden.GoldenResult`)."""
    shares, sizes, used = {}, {}, []
    for name, codes in trace.items():
        if not is_activation(name):
            continue
        shares[name], sizes[name] = saturated(name, codes), codes.size
        span = codes.max(axis=0) - codes.min(axis=0)
        used.append(float(span.mean()) / (ACTIVATION.max - ACTIVATION.min))
    if not shares:
        raise ValueError("The trace holds no activations")
    where = max(shares, key=lambda name: shares[name])
    total = sum(shares[name] * sizes[name] for name in shares) / sum(sizes.values())
    return Fit(
        clipped=total,
        worst=shares[where],
        where=where,
        used=float(np.mean(used)),
        usual=usual,
    )


def is_activation(name: str) -> bool:
    """Whether a tensor has ranges that a picture can leave on both sides."""
    return _SITES.fullmatch(name) is not None


def saturated(name: str, codes: Any) -> float:
    """Share of a tensor's codes that are the lowest or the highest one."""
    low = -WEIGHT.max if name[-2:] in (".k", ".v") else ACTIVATION.min
    return float(((codes <= low) | (codes >= ACTIVATION.max)).mean())
