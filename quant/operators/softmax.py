"""Single-pass softmax over one row of attention scores, with the normalisation left to the output.

Every score is exponentiated once, relative to the row's maximum; the weights ``p`` (0..127) go to
the array as they are, and the row's ``1 / sum(p)`` multiplies the accumulated ``sum(p * v)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import LOGIT, MULTIPLIER_BITS, VALUE, Ints, Multiplier, floor_log2, round_shift
from .exp2 import SOFTMAX_EXP, Exp2
from .linear import to_activation, to_key_value
from .pwl import RECIPROCAL

__all__ = ["Softmax", "normalise", "reciprocal", "token_mean"]


def normalise(value: Ints, bits: int = 16) -> tuple[Ints, Ints]:
    """``(mantissa, e)``: ``e = floor(log2(value))``, the mantissa's leading bit is ``bits - 1``.

    Bits that do not fit are dropped (not rounded). ``value``, an int or an integer array, must be
    positive.
    """
    e = floor_log2(value)
    up = bits - 1 - e
    if isinstance(value, np.ndarray):
        return (value.astype(np.int64) << np.maximum(up, 0)) >> np.maximum(-up, 0), e
    return (value << up if up >= 0 else value >> -up), e


def reciprocal(value: Ints) -> tuple[Ints, Ints]:
    """``(r, e)`` with ``1 / value`` close to ``r * 2**-(16 + e)``; ``r`` has 16 bits."""
    mantissa, e = normalise(value)
    return RECIPROCAL.compute(mantissa), e


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """Attention's integer parameters of one layer.

    ``score``: from the accumulated ``q . k`` to :data:`LOGIT` (with ``1/sqrt(d)`` and ``log2(e)``).
    ``out``: from ``sum(p * v) / sum(p)`` to the int8 output; its mantissa has the top bit set.
    """

    score: Multiplier
    out: Multiplier
    exp: Exp2 = SOFTMAX_EXP

    def scores(self, acc: Any) -> Any:
        """Accumulator ``q . k`` (int array) to saturated scores."""
        return LOGIT.saturate(self.score.compute(np.asarray(acc, np.int64)))

    def weights(self, scores: Any) -> Any:
        """Scores ``(..., keys)`` to weights 0..127 of the same shape, each row's largest 127."""
        scores = np.asarray(scores, np.int64)
        return self.exp.compute(scores.max(axis=-1, keepdims=True) - scores)

    def row(self, total: Ints) -> tuple[Ints, Ints]:
        """``(mult, shift)`` of a row whose weights sum to ``total``."""
        r, e = reciprocal(total)
        return (r * self.out.mult) >> MULTIPLIER_BITS, self.out.shift + e

    def outputs(self, acc: Any, totals: Any) -> Any:
        """``sum(p * v)`` ``(..., dims)`` and row sums ``(...)`` to 16-bit values."""
        mult, shift = self.row(np.asarray(totals, np.int64)[..., None])
        return VALUE.saturate(round_shift(np.asarray(acc, np.int64) * mult, shift))


def token_mean(rows: Any, gain: Multiplier) -> Any:
    """Mean over tokens: int8 ``(..., N, D)`` to int8 ``(..., 1, D)``, multiplied by ``gain``.

    It is attention with equal weights, the largest there are: rows pass as values do.
    """
    values = np.asarray(to_key_value(rows), np.int64)
    total = np.full((*values.shape[:-2], 1), SOFTMAX_EXP.peak * values.shape[-2])
    acc = SOFTMAX_EXP.peak * values.sum(axis=-2, keepdims=True)
    return to_activation(Softmax(score=gain, out=gain).outputs(acc, total))
