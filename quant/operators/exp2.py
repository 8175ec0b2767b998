"""Base-2 exponential of a non-positive fixed-point number by one table and one shift."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..formats import LOGIT, round_shift

__all__ = ["GATE_EXP", "SOFTMAX_EXP", "Exp2"]


@dataclass(frozen=True, kw_only=True)
class Exp2:
    """``round(peak * 2**(-d / 2**frac))`` for ``d >= 0``, within one step of exact.

    The table holds one octave with ``guard`` extra bits; whole octaves are a rounding right shift.
    """

    peak: int
    guard: int
    frac: int = LOGIT.frac

    @cached_property
    def table(self) -> list[int]:
        """``2**frac`` entries, ``round(peak * 2**guard * 2**(-i / 2**frac))``."""
        i = np.arange(1 << self.frac)
        octave = self.peak * 2.0**self.guard * 2.0 ** (-i / (1 << self.frac))
        return [round(t) for t in octave.tolist()]

    @property
    def table_bits(self) -> int:
        """Width of a table entry."""
        return max(self.table).bit_length()

    @property
    def max_shift(self) -> int:
        """Largest shift that can leave anything; larger ones give 0."""
        return self.table_bits

    @cached_property
    def _values(self) -> Any:
        """The result for every distance up to where only 0 remains."""
        d = np.arange((self.max_shift - self.guard + 1) << self.frac)
        low, high = d & ((1 << self.frac) - 1), d >> self.frac
        shifted = round_shift(np.asarray(self.table)[low], high + self.guard)
        return np.append(shifted, 0)

    def compute(self, distance: Any) -> Any:
        """The exponential of ``-distance`` (an int or integer array, all >= 0)."""
        d = np.asarray(distance, np.int64)
        if np.any(d < 0):
            raise ValueError(f"Distance must not be negative: {distance!r}")
        out = self._values[np.minimum(d, len(self._values) - 1)]
        return out if isinstance(distance, np.ndarray) else int(out)


SOFTMAX_EXP = Exp2(peak=127, guard=4)
"""Attention weights before normalisation: 0..127, the largest of a row is 127."""
GATE_EXP = Exp2(peak=32767, guard=2)
"""Router exponentials: 0..32767."""
