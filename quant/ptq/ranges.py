"""Ranges: which real interval the codes of an activation or a weight row cover.

``minmax`` covers every calibrated value; ``percentile`` drops the outermost ones; ``mse`` shrinks
the interval as long as the squared error of the sample falls (outliers lost against finer steps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..formats import ACTIVATION, WEIGHT, weight_max
from .calibrate import Site

__all__ = [
    "CODES",
    "LEVELS",
    "SEARCH_ROWS",
    "Clip",
    "Encoding",
    "channel_range",
    "check_clip",
    "quantise_rows",
    "rectified_range",
    "search",
]

Floats = np.ndarray[Any, np.dtype[Any]]
Clip = Literal["minmax", "percentile", "mse"]

CODES = WEIGHT.max
"""Codes on either side of an interval's centre: -127..127."""

LEVELS = ACTIVATION.max - ACTIVATION.min
"""Steps of an interval from 0: codes -128..127."""

SEARCH_ROWS = 1024
"""Rows of a site that a search for a range looks at."""

_SHRINK = np.linspace(1.0, 0.4, 25)
_TINY = 1e-12
_HARDLY = 1 / 256


def check_clip(clip: str) -> None:
    """Raise ``ValueError`` unless ``clip`` is a known method."""
    if clip not in get_args(Clip):
        raise ValueError(f"Clip must be one of {', '.join(get_args(Clip))}, not {clip!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """What int8 codes mean: ``real = scale * code + offset``, per channel ``(C,)``."""

    scale: Floats
    offset: Floats

    def encode(self, real: Floats) -> Floats:
        """Nearest codes of ``(..., C)``, saturated, as floats."""
        codes = np.round((real - self.offset) / self.scale)
        return np.clip(codes, ACTIVATION.min, ACTIVATION.max)

    def tiled(self, count: int) -> Encoding:
        """Of ``count`` times the channels, side by side."""
        return Encoding(scale=np.tile(self.scale, count), offset=np.tile(self.offset, count))

    def decode(self, codes: Floats) -> Floats:
        """Real values of codes."""
        return codes * self.scale + self.offset


def channel_range(
    site: Site, clip: Clip, percentile: float, *, centred: bool = True
) -> tuple[Floats, Floats]:
    """Centre and half width of each channel's interval, ``(C,)`` each; the width is positive.

    With ``centred`` false the centre is 0. ``percentile`` is that of the method of the same name,
    split between both ends.
    """
    low, high = site.low.astype(np.float64), site.high.astype(np.float64)
    if clip == "percentile":
        tail = (100 - percentile) / 2
        low, high = np.percentile(site.rows.astype(np.float64), [tail, 100 - tail], axis=0)
    centre = (low + high) / 2 if centred else np.zeros_like(low)
    half = np.maximum(np.maximum(high - centre, centre - low), _TINY)
    if clip == "mse":
        half = half * search(site.sample(SEARCH_ROWS) - centre, half)
    return centre, half


def rectified_range(site: Site, clip: Clip, percentile: float) -> Floats:
    """Upper end of each channel's interval from 0, ``(C,)``, for values that are not negative.

    A channel that calibration hardly saw gets a share of the widest one's.
    """
    high = site.high.astype(np.float64)
    if clip == "percentile":
        high = np.percentile(site.rows.astype(np.float64), percentile, axis=0)
    widest = float(high.max())
    high = np.maximum(high, widest * _HARDLY if widest > 0 else 1.0)
    if clip == "mse":
        rows, errors = site.sample(SEARCH_ROWS), []
        for factor in _SHRINK:
            step = high * factor / LEVELS
            codes = np.clip(np.round(rows / step), 0, LEVELS)
            errors.append(np.mean((rows - codes * step) ** 2, axis=0))
        high = high * _SHRINK[np.argmin(errors, axis=0)]
    return high


def search(rows: Floats, half: Floats) -> Floats:
    """Factor for each channel's half width that has the least squared error on ``rows (n, C)``."""
    errors = []
    for factor in _SHRINK:
        step = half * factor / CODES
        codes = np.clip(np.round(rows / step), -CODES, CODES)
        errors.append(np.mean((rows - codes * step) ** 2, axis=0))
    best: Floats = _SHRINK[np.argmin(errors, axis=0)]
    return best


def quantise_rows(
    weight: Floats, importance: Floats | None = None, *, clip: Clip = "minmax", bits: int = 8
) -> tuple[Floats, Floats]:
    """Weights ``(O, K)`` to codes of ``bits`` bits (as floats) and the step of each row ``(O,)``.

    Codes are symmetric, within +-127 or +-7. With ``mse``, a row's step minimises the squared error
    weighted by ``importance (K,)``, the mean square of each input.
    """
    peak = np.maximum(np.abs(weight).max(axis=1), _TINY)
    factors = np.ones(1)
    if clip == "mse":  # the fewer the codes, the more an outlier costs the others
        factors = _SHRINK if bits < 8 else _SHRINK[_SHRINK >= 0.7]
    top = weight_max(bits)
    best, least = peak / top, np.full(len(weight), np.inf)
    for factor in factors:
        step = peak * factor / top
        codes = np.clip(np.round(weight / step[:, None]), -top, top)
        squared = (codes * step[:, None] - weight) ** 2
        error = (squared if importance is None else squared * importance).sum(axis=1)
        better = error < least
        best, least = np.where(better, step, best), np.where(better, error, least)
    return np.clip(np.round(weight / best[:, None]), -top, top), best
