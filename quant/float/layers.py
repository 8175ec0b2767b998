"""Float layers that more than one part of a network is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FloatLinear", "FloatNorm"]

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatLinear:
    """``x @ weight.T + bias``: weight ``(O, K)``, bias ``(O,)``."""

    weight: Floats
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        """``(..., K)`` to ``(..., O)``."""
        out: Floats = x @ self.weight.T + self.bias
        return out


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatNorm:
    """LayerNorm: ``gain`` and ``bias`` ``(D,)``, variance offset ``eps``."""

    gain: Floats
    bias: Floats
    eps: float

    def normalised(self, x: Floats) -> Floats:
        """``x_hat``: zero mean and unit variance over the last axis."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        out: Floats = centred / np.sqrt(variance + np.float32(self.eps))
        return out
