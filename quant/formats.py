"""Fixed-point formats and the two integer primitives that every operator is made of.

Every width of the number system is named here once; operators, golden model, compiler and hardware
import it. All references are integer only: a float appears only where a scale is turned into a
multiplier and a shift (:meth:`Multiplier.from_scale`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .dial import SCORE_BITS

__all__ = [
    "ACCUMULATOR",
    "ACTIVATION",
    "LOGIT",
    "MULTIPLIER_BITS",
    "RESIDUAL",
    "SCORE",
    "SHIFT_BITS",
    "VALUE",
    "WEIGHT",
    "WEIGHT_BITS",
    "Multiplier",
    "QFormat",
    "floor_log2",
    "round_shift",
    "weight_max",
]

Ints = Any  # an int or an integer numpy array


@dataclass(frozen=True, slots=True, kw_only=True)
class QFormat:
    """A two's complement (or unsigned) integer of ``width`` bits with ``frac`` fractional bits."""

    width: int
    frac: int = 0
    signed: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.width, int) or not 1 <= self.width <= 63:
            raise ValueError(f"Width must be an integer from 1 to 63, not {self.width!r}")
        if not isinstance(self.frac, int):
            raise TypeError(f"Fractional bits must be an integer, not {self.frac!r}")

    @property
    def min(self) -> int:
        """Smallest representable integer."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest representable integer."""
        return (1 << (self.width - self.signed)) - 1

    def saturate(self, value: Ints) -> Ints:
        """``value`` limited to the format's range."""
        if isinstance(value, np.ndarray):
            return np.clip(value, self.min, self.max)
        return min(max(int(value), self.min), self.max)


ACTIVATION = QFormat(width=8)
"""What the array multiplies: activations, -128..127."""
WEIGHT = QFormat(width=8)
"""Weights, keys and values, all within +-``WEIGHT.max``: -128 does not occur. A product with an
activation is then at most 127 * 128 in magnitude, so that eight fit the 18-bit lane of a packed
pair of sums (hw/compute/dot.py)."""
WEIGHT_BITS = (8, 4)
"""Widths of weights in memory; on the chip all have those of ``WEIGHT``."""
ACCUMULATOR = QFormat(width=27)
"""Sum of products plus bias. The quantiser proves that no channel can leave it."""
RESIDUAL = QFormat(width=16)
"""The residual stream: one scale for the whole network."""
VALUE = QFormat(width=16)
"""A requantised sum before its destination narrows, adds or weights it."""
LOGIT = QFormat(width=16, frac=8)
"""Attention scores and router logits, in units of log2: ``2**(x / 256)`` is the exponential."""
SCORE = QFormat(width=SCORE_BITS, frac=SCORE_BITS, signed=False)
"""An expert's score, 0..32767 for 0..1."""


def weight_max(bits: int) -> int:
    """Largest magnitude of a weight of ``bits`` bits: ranges are symmetric, 127 or 7."""
    return (1 << (bits - 1)) - 1


MULTIPLIER_BITS = 16
SHIFT_BITS = 6


def round_shift(value: Ints, shift: Ints) -> Ints:
    """``value / 2**shift`` rounded to nearest, halves upwards (``shift`` 0 returns ``value``)."""
    if isinstance(value, np.ndarray) or isinstance(shift, np.ndarray):
        value, shift = np.asarray(value, np.int64), np.asarray(shift, np.int64)
        half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
        return (value + half) >> shift
    return (value + (1 << (shift - 1))) >> shift if shift > 0 else value


def floor_log2(value: Ints) -> Ints:
    """Position of the leading one of positive integers: ``floor(log2(value))``, exact to 62 bits.

    Raises ``ValueError`` if any value is not positive.
    """
    if not isinstance(value, np.ndarray):
        if value <= 0:
            raise ValueError(f"Value must be positive, not {value!r}")
        return int(value).bit_length() - 1
    value = value.astype(np.int64)
    if value.size and value.min() <= 0:
        raise ValueError(f"Value must be positive, not {int(value.min())!r}")
    exponent = np.frexp(value.astype(np.float64))[1].astype(np.int64) - 1
    # Beyond 53 bits the conversion may have rounded up to the next power of two.
    return exponent - ((value >> np.minimum(exponent, 62)) == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiplier:
    """A positive scale as ``mult * 2**-shift`` (gemmlowp's form, with a 16-bit mantissa)."""

    mult: int
    shift: int

    def __post_init__(self) -> None:
        if not 0 <= self.mult < 1 << MULTIPLIER_BITS:
            raise ValueError(f"Multiplier must have {MULTIPLIER_BITS} bits, not {self.mult!r}")
        if not 0 <= self.shift < 1 << SHIFT_BITS:
            raise ValueError(f"Shift must have {SHIFT_BITS} bits, not {self.shift!r}")

    @classmethod
    def from_scale(cls, scale: float) -> Multiplier:
        """Nearest multiplier to ``scale``; 0 gives 0. Raises ``ValueError`` out of range."""
        if not np.isfinite(scale) or scale < 0:
            raise ValueError(f"Scale must be finite and not negative, not {scale!r}")
        if scale == 0:
            return cls(mult=0, shift=0)
        mantissa, exponent = np.frexp(scale)  # 0.5 <= mantissa < 1
        mult = round(float(mantissa) * (1 << MULTIPLIER_BITS))
        shift = MULTIPLIER_BITS - int(exponent)
        if mult == 1 << MULTIPLIER_BITS:
            mult, shift = mult >> 1, shift - 1
        if shift >= 1 << SHIFT_BITS:  # too small to matter: keep the top bits that fit
            mult, shift = mult >> (shift - (1 << SHIFT_BITS) + 1), (1 << SHIFT_BITS) - 1
        if shift < 0:
            raise ValueError(f"Scale {scale!r} is too large for a {MULTIPLIER_BITS}-bit multiplier")
        return cls(mult=mult, shift=shift)

    @property
    def scale(self) -> float:
        """The scale that this multiplier stands for."""
        return float(self.mult) * 2.0**-self.shift

    def compute(self, value: Ints) -> Ints:
        """``round(value * scale)``, not saturated."""
        if isinstance(value, np.ndarray):
            return round_shift(value.astype(np.int64) * self.mult, self.shift)
        return round_shift(int(value) * self.mult, self.shift)
