"""Residual stream to int8 without normalisation: what a gate reads that sees its block's input.

M3ViT's option ``gate_input_ahead``: the router's input is the residual stream in front of the
block's first norm. Each channel has its own scale and centre, which the router's weights absorb, so
that channels of very different ranges all use their 256 codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import ACTIVATION, round_shift
from .layernorm import fit_affine

__all__ = ["Rescale"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescale:
    """Per-channel affine ``y = sat8(round((x * gain + bias) / 2**shift))`` of int16 ``x``.

    ``gain`` int16 ``(D,)``, ``bias`` int32 ``(D,)``, ``shift`` ``(D,)`` 0..63: a LayerNorm's
    parameters, so that the norm engine computes it.
    """

    gain: np.ndarray
    bias: np.ndarray
    shift: np.ndarray

    @classmethod
    def from_affine(cls, step: Any, bias: Any) -> Rescale:
        """Nearest integers to ``y = x * step + bias``, float ``(D,)`` in steps of the output.

        Raises ``ValueError`` where a gain or bias does not fit.
        """
        gain, offset, shift = fit_affine(step, bias)
        return cls(gain=gain, bias=offset, shift=shift)

    def compute(self, x: Any) -> Any:
        """Residual tokens ``(..., D)`` int16 to activations ``(..., D)`` int8."""
        y = np.asarray(x, np.int64) * self.gain.astype(np.int64) + self.bias.astype(np.int64)
        return ACTIVATION.saturate(round_shift(y, self.shift.astype(np.int64)))
