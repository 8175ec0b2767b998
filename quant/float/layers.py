"""Float layers that more than one part of a network is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..reproducible import product
from ..typing import Floats32

__all__ = ["FloatLinear", "FloatNorm"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatLinear:
    """``x @ weight.T + bias``: weight ``(O, K)``, bias ``(O,)``."""

    weight: Floats32
    bias: Floats32

    def __call__(self, x: Floats32) -> Floats32:
        """``(..., K)`` to ``(..., O)``."""
        out: Floats32 = product(x, self.weight) + self.bias
        return out


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatNorm:
    """LayerNorm: ``gain`` and ``bias`` ``(D,)``, variance offset ``eps``."""

    gain: Floats32
    bias: Floats32
    eps: float

    def normalised(self, x: Floats32) -> Floats32:
        """``x_hat``: zero mean and unit variance over the last axis."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        out: Floats32 = centred / np.sqrt(variance + np.float32(self.eps))
        return out
