"""Piecewise-linear tables on a normalised mantissa: reciprocal and reciprocal square root.

The argument is normalised so that its leading bits select a segment; inside it the function is the
chord, moved so that the error is balanced. One multiply, no iteration, the same integers
everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..formats import round_shift

__all__ = ["RECIPROCAL", "RSQRT", "Pwl"]


@dataclass(frozen=True, kw_only=True)
class Pwl:
    """``f(m) = base[i] - round(slope[i] * frac / 2**frac_bits)``, ``i = (m >> frac_bits) - first``.

    ``m`` is a mantissa in ``[first << frac_bits, (first + segments) << frac_bits)``; the result is
    at most 16 bits. ``power`` is -1 (reciprocal, ``2**31 / m``) or -0.5 (``2**24 / sqrt(m)``).
    """

    first: int
    segments: int
    frac_bits: int
    power: float
    gain: float

    @cached_property
    def _tables(self) -> tuple[list[int], list[int]]:
        edges = (self.first + np.arange(self.segments + 1)) * float(1 << self.frac_bits)
        ends = self.gain * edges**self.power
        middle = self.gain * ((edges[:-1] + edges[1:]) / 2) ** self.power
        sag = ((ends[:-1] + ends[1:]) / 2 - middle) / 2
        base = np.minimum(np.round(ends[:-1] - sag), 65535).astype(int)
        slope = np.round(ends[:-1] - ends[1:]).astype(int)
        return base.tolist(), slope.tolist()

    @property
    def base(self) -> list[int]:
        """Value at each segment's start, 16 bits unsigned."""
        return self._tables[0]

    @property
    def slope(self) -> list[int]:
        """Fall over each segment, unsigned."""
        return self._tables[1]

    def compute(self, mantissa: Any) -> Any:
        """The table's value at ``mantissa`` (an int or an integer array)."""
        m = np.asarray(mantissa, np.int64)
        index = (m >> self.frac_bits) - self.first
        if np.any(index < 0) or np.any(index >= self.segments):
            raise ValueError(f"Mantissa outside the table: {mantissa!r}")
        frac = m & ((1 << self.frac_bits) - 1)
        base, slope = np.asarray(self.base), np.asarray(self.slope)
        out = base[index] - round_shift(slope[index] * frac, self.frac_bits)
        return out if isinstance(mantissa, np.ndarray) else int(out)


RECIPROCAL = Pwl(first=128, segments=128, frac_bits=8, power=-1.0, gain=2.0**31)
"""Mantissa 16 bits, ``2**15 <= m < 2**16``; result ``2**31 / m``."""

RSQRT = Pwl(first=64, segments=192, frac_bits=10, power=-0.5, gain=2.0**24)
"""Mantissa 18 bits, ``2**16 <= m < 2**18``; result ``2**24 / sqrt(m)``."""
