"""LayerNorm on the integer residual stream: exact sums, one reciprocal square root a token.

With ``S = sum(x)``, ``Q = sum(x**2)``: ``x_hat = (D x - S) / sqrt(D Q - S**2 + D**2 eps)``. Nothing
is rounded before the multiplication with the reciprocal square root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import ACTIVATION, SHIFT_BITS, VALUE, Ints, QFormat, floor_log2, round_shift
from .pwl import RSQRT

__all__ = ["BIAS", "EPS", "GAIN", "X_HAT_FRAC", "LayerNorm", "fit_affine", "rsqrt"]

X_HAT_FRAC = 10
"""Fractional bits of the normalised token, a 16-bit number."""
GAIN = QFormat(width=16)
"""A channel's gain."""
BIAS = QFormat(width=32)
"""A channel's bias, in the units of ``x_hat * gain``."""
EPS = QFormat(width=32, signed=False)
"""What is added to ``D Q - S**2``."""


def rsqrt(value: Ints) -> tuple[Ints, Ints]:
    """``(r, e)``: ``1 / sqrt(value)`` is about ``r * 2**-(16 + e)``, ``e = floor(log4(value))``."""
    e = floor_log2(value) >> 1
    up = 16 - 2 * e
    if isinstance(value, np.ndarray):
        mantissa = (value.astype(np.int64) << np.maximum(up, 0)) >> np.maximum(-up, 0)
    else:
        mantissa = value << up if up >= 0 else value >> -up
    return RSQRT.compute(mantissa), e


def _headroom(value: Any, form: QFormat) -> Any:
    """Largest shift that keeps ``round(value * 2**shift)`` in the format, large where it is 0."""
    limit = form.max / np.maximum(np.abs(value), 2.0**-100)
    return np.floor(np.log2(limit)).astype(np.int64)


def fit_affine(step: Any, bias: Any) -> tuple[Any, Any, Any]:
    """``(gain, bias, shift)``, the nearest integers to ``y = x * step + bias``, float ``(D,)``.

    Each channel gets the largest shift with which its gain fits 16 bits and its bias 32. Raises
    ``ValueError`` where even shift 0 does not fit.
    """
    step, bias = np.asarray(step, np.float64), np.asarray(bias, np.float64)
    room = np.minimum(_headroom(step, GAIN), _headroom(bias, BIAS))
    if room.size and room.min() < 0:
        c = int(room.argmin())
        raise ValueError(f"Channel {c} is out of range: gain {step[c]!r}, bias {bias[c]!r}")
    shift = np.minimum(room, (1 << SHIFT_BITS) - 1)
    unit = 2.0**shift
    return (
        np.round(step * unit).astype(np.int16),
        np.round(bias * unit).astype(np.int32),
        shift.astype(np.uint8),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerNorm:
    """Per-channel affine ``y = sat8(round((x_hat * gain + bias) / 2**shift))``.

    ``gain`` int16 ``(D,)``, ``bias`` int32 ``(D,)``, ``shift`` ``(D,)`` 0..63; ``eps`` is the
    integer added to ``D Q - S**2`` (that is ``D**2 * eps / scale**2``, rounded), 0..2**32-1.
    """

    gain: np.ndarray
    bias: np.ndarray
    shift: np.ndarray
    eps: int

    @classmethod
    def from_affine(cls, gain: Any, bias: Any, eps: int) -> LayerNorm:
        """Nearest integers to ``y = x_hat * gain + bias``, float ``(D,)`` in steps of the output.

        Raises ``ValueError`` where a gain or bias does not fit (:func:`fit_affine`).
        """
        step = np.asarray(gain, np.float64) / (1 << X_HAT_FRAC)
        gain, bias, shift = fit_affine(step, bias)
        return cls(gain=gain, bias=bias, shift=shift, eps=eps)

    def normalised(self, x: Any) -> Any:
        """Residual tokens ``(..., D)`` int16 to ``x_hat``, 16 bits, 10 of them fractional."""
        x = np.asarray(x, np.int64)
        dim = x.shape[-1]
        s = x.sum(axis=-1, keepdims=True)
        v = np.maximum(dim * (x * x).sum(axis=-1, keepdims=True) - s * s + self.eps, 1)
        r, e = rsqrt(v)
        return VALUE.saturate(round_shift((dim * x - s) * r, e + 16 - X_HAT_FRAC))

    def compute(self, x: Any) -> Any:
        """Residual tokens ``(..., D)`` int16 to activations ``(..., D)`` int8."""
        y = self.normalised(x) * self.gain.astype(np.int64) + self.bias.astype(np.int64)
        return ACTIVATION.saturate(round_shift(y, self.shift.astype(np.int64)))
