"""GELU as ReLU minus a small symmetric table (the form of Edge-MoE, Sarkar et al. 2023, sec. IV-D).

``gelu(x) = relu(x) - t(|x|)`` with ``t(u) = u * Phi(-u)``, which is symmetric and vanishes from
``|x| = 4`` on. The argument is a 16-bit number with 8 fractional bits, the result likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import erfc, sqrt
from typing import Any

import numpy as np

from ..formats import VALUE

__all__ = ["GELU", "Gelu"]


@dataclass(frozen=True, kw_only=True)
class Gelu:
    """``compute(v)`` for ``v`` in units of ``2**-frac``; table of ``2**table_bits`` entries.

    An entry covers ``2**step_bits`` arguments and holds the value at their middle.
    """

    frac: int = 8
    step_bits: int = 1
    table_bits: int = 9

    @cached_property
    def table(self) -> list[int]:
        """``round(2**frac * u * Phi(-u))`` at the middle of each step, 6 bits unsigned."""
        step = 1 << self.step_bits
        u = (np.arange(1 << self.table_bits) * step + (step - 1) / 2) / (1 << self.frac)
        phi = np.array([0.5 * erfc(x / sqrt(2)) for x in u])
        return [round(t) for t in (u * phi * (1 << self.frac)).tolist()]

    @property
    def entry_bits(self) -> int:
        """Width of a table entry."""
        return max(self.table).bit_length()

    def compute(self, value: Any) -> Any:
        """GELU of ``value`` (16 bits, ``frac`` fractional bits), in the same format."""
        v = VALUE.saturate(np.asarray(value, np.int64))
        index = np.abs(v) >> self.step_bits
        inside = index < len(self.table)
        t = np.where(inside, np.asarray(self.table)[np.where(inside, index, 0)], 0)
        out = np.maximum(v, 0) - t
        return out if isinstance(value, np.ndarray) else int(out)


GELU = Gelu()
"""The accelerator's GELU."""
