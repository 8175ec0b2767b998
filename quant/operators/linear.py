"""A quantised linear layer and what its sums become: the epilogue of the compute unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import (
    ACCUMULATOR,
    ACTIVATION,
    RESIDUAL,
    SCORE,
    VALUE,
    WEIGHT,
    WEIGHT_BITS,
    Multiplier,
    round_shift,
    weight_max,
)
from .activations import activation

__all__ = ["HiddenOutput", "Linear", "matmul", "to_activation", "to_key_value"]


def matmul(x: Any, weight: Any) -> Any:
    """Exact integer product ``(..., N, K) x (..., O, K) -> (..., N, O)``, done by floats.

    A sum of products is exact whatever its order while the sum of their magnitudes is exact:
    float32 up to 2**24, float64 up to 2**53 (``ValueError`` beyond; 16-bit operands never are).
    """
    x, weight = np.asarray(x), np.asarray(weight)
    bound = x.shape[-1] * _magnitude(x) * _magnitude(weight)
    if bound > 1 << 53:
        raise ValueError(f"Sums may reach {bound}, more than floats hold exactly")
    kind = np.float32 if bound <= 1 << 24 else np.float64
    return (x.astype(kind) @ np.swapaxes(weight.astype(kind), -1, -2)).astype(np.int64)


def _magnitude(values: Any) -> int:
    return max(int(values.max()), -int(values.min())) if values.size else 0


def to_activation(value: Any, zero_point: int = 0) -> Any:
    """16-bit values to int8: add the zero point, saturate."""
    return ACTIVATION.saturate(np.asarray(value, np.int64) + zero_point)


def to_key_value(value: Any) -> Any:
    """16-bit values to keys and values: saturate at +-127, like weights, whose place they take."""
    return np.clip(np.asarray(value, np.int64), -WEIGHT.max, WEIGHT.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenOutput:
    """From the pre-activation (16 bits) through an activation function to int8 with a zero point.

    ``function`` is the name of one of :data:`~.activations.ACTIVATIONS`.
    """

    out: Multiplier
    zero_point: int
    function: str = "gelu"

    def compute(self, value: Any) -> Any:
        """Pre-activations to int8 hidden activations."""
        exact = activation(self.function).integer.compute(np.asarray(value))
        return to_activation(self.out.compute(exact), self.zero_point)

    @property
    def scale(self) -> float:
        """Float value of one step of the hidden activations."""
        return activation(self.function).step / self.out.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """``value = sat16(round((x @ weight.T + bias) * mult / 2**shift))``, per output channel.

    ``weight`` int8 ``(O, K)`` within +-127, ``bias`` int32 ``(O,)`` in units of the accumulator
    (zero points and a preceding affine are already folded in), ``mult`` uint16 ``(O,)``, ``shift``
    ``(O,)`` 0..63. ``scale`` is the float value of one output step (for reports and for the heads'
    read-out). With ``weight_bits`` 4 weights lie within +-7 and two share a byte in memory; the
    arithmetic is the same.
    """

    weight: np.ndarray
    bias: np.ndarray
    mult: np.ndarray
    shift: np.ndarray
    scale: float = 1.0
    weight_bits: int = 8

    def __post_init__(self) -> None:
        if self.weight_bits not in WEIGHT_BITS:
            raise ValueError(f"weight_bits must be 8 or 4, not {self.weight_bits!r}")
        limit = weight_max(self.weight_bits)
        peak = int(np.abs(self.weight.astype(np.int64)).max(initial=0))
        if self.weight_bits != 8 and peak > limit:
            raise ValueError(
                f"weight must lie within +-{limit} for {self.weight_bits} bits, found {peak}"
            )
        worst = np.abs(self.weight.astype(np.int64)).sum(axis=1) * 128 + np.abs(
            self.bias.astype(np.int64)
        )
        if worst.size and int(worst.max()) > ACCUMULATOR.max:
            raise ValueError(
                f"Channel {int(worst.argmax())} can reach {int(worst.max())}, "
                f"more than the accumulator's {ACCUMULATOR.max}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """``(O, K)``."""
        o, k = self.weight.shape
        return int(o), int(k)

    def values(self, x: Any) -> Any:
        """Activations ``(N, K)`` int8 to 16-bit values ``(N, O)``."""
        acc = matmul(x, self.weight) + self.bias.astype(np.int64)
        return VALUE.saturate(
            round_shift(acc * self.mult.astype(np.int64), self.shift.astype(np.int64))
        )

    def add(self, residual: Any, x: Any, scores: Any | None = None) -> Any:
        """Residual ``(N, O)`` plus the layer's values, weighted by ``scores`` ``(N,)`` if given."""
        v = self.values(x)
        if scores is not None:
            v = round_shift(v * np.asarray(scores, np.int64)[:, None], SCORE.frac)
        return RESIDUAL.saturate(np.asarray(residual, np.int64) + v)
