"""Rounding weights by what it does to a layer's outputs instead of to each weight alone.

For a row ``w`` in steps of its codes and inputs with second moment ``H``, codes ``q`` cost
``(q - w) H (q - w)``: the mean squared error of the output in steps. ``gptq`` rounds one column
after the other and lets the columns to come make up for each error (Frantar et al. 2023, OPTQ,
algorithm 1). ``descent`` then goes over the columns again and sets each code to the best one, the
others being given, which never raises the cost: the objective of AdaRound (Nagel et al. 2020,
equation 20) by coordinate descent (Behdin et al. 2023, QuantEase).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from ..formats import WEIGHT
from ..reproducible import inverse_factor, product

__all__ = [
    "Rounding",
    "check_rounding",
    "compensated",
    "cost",
    "descend",
    "diffused",
    "gptq",
    "moment",
    "round_weights",
    "seeks",
]

Floats = np.ndarray[Any, np.dtype[Any]]
Rounding = Literal["auto", "nearest", "gptq", "descent"]
"""``auto``: ``gptq`` below 8 bits, where it pays, and at 8 ``nearest``, but :func:`diffused` over
the pixels that a convolution reads."""

DAMPING = 0.01
"""Added to the diagonal of a second moment, as a share of its mean (OPTQ, section 3.3)."""

SWEEPS = 4


def check_rounding(rounding: str) -> None:
    """Raise ``ValueError`` unless ``rounding`` is a known method."""
    if rounding not in get_args(Rounding):
        known = ", ".join(get_args(Rounding))
        raise ValueError(f"Rounding must be one of {known}, not {rounding!r}")


def seeks(rounding: Rounding, top: int) -> bool:
    """Whether codes within ``+-top`` are to be other than the nearest."""
    return rounding not in ("auto", "nearest") or (rounding == "auto" and top < WEIGHT.max)


def moment(inputs: Floats, *, centre: Floats | float = 0.0, prior: Floats | None = None) -> Floats:
    """Second moment ``(K, K)`` of ``inputs (n, K)`` about ``centre``, damped to be positive.

    ``prior`` ``(m, K)`` are inputs of the same kind that say what ``n`` rows are too few to say (an
    expert with few tokens: all tokens of its layer); they count as ``K`` rows beside the ``n``.
    """
    rows, depth = inputs - centre, inputs.shape[1]
    found = product(rows.T, rows.T)
    count = float(len(rows))
    if prior is not None and len(prior):
        other = prior - centre
        found, count = found + product(other.T, other.T) * (depth / len(other)), count + depth
    found /= max(count, 1.0)
    found[np.diag_indices(depth)] += DAMPING * max(float(np.trace(found)) / depth, 1e-12)
    return found


def compensated(
    weight: Floats, bias: Floats, codes: Floats, wanted: Floats, damping: float
) -> tuple[Floats, Floats]:
    """``weight (O, K)`` and ``bias (O,)`` moved towards ``wanted (n, O)`` on ``codes (n, K)``.

    Least squares (ridge regression): a change of the weights costs as much as it does to inputs of
    ``damping`` times the codes' mean square.
    """
    codes = codes.astype(np.float64)
    error = wanted - product(codes, weight) - bias
    middle, mean = codes.mean(axis=0), error.mean(axis=0)
    rows, rest = codes - middle, error - mean
    second = product(rows.T, rows.T) / len(rows)
    second[np.diag_indices(len(second))] += max(
        damping * float(np.trace(second)) / len(second), 1e-9
    )
    upper = inverse_factor(second)
    slope = product(rest.T, rows.T) / len(rows)  # (O, K)
    change = product(product(slope, upper), upper.T)
    return weight + change, bias + mean - product(middle[None], change)[0]


def cost(weight: Floats, codes: Floats, second: Floats) -> Floats:
    """Mean squared output error of each row ``(O,)``, in steps: ``(q - w) H (q - w)``."""
    change = codes - weight
    out: Floats = (product(change, second.T) * change).sum(axis=1)
    return out


def gptq(weight: Floats, second: Floats, top: int) -> Floats:
    """Codes within ``+-top`` for ``weight (O, K)`` in steps, by falling diagonal of ``second``."""
    order = np.argsort(-np.diag(second), kind="stable")
    upper = inverse_factor(second[np.ix_(order, order)])
    rest = weight[:, order].astype(np.float64)
    codes = np.empty_like(rest)
    for j in range(rest.shape[1]):
        codes[:, j] = np.clip(np.round(rest[:, j]), -top, top)
        error = (rest[:, j] - codes[:, j]) / upper[j, j]
        rest[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    out = np.empty_like(codes)
    out[:, order] = codes
    return out


def descend(
    weight: Floats, codes: Floats, second: Floats, top: int, sweeps: int = SWEEPS
) -> Floats:
    """Codes of no greater :func:`cost`: each in turn the best one beside the others."""
    codes = codes.astype(np.float64).copy()
    slope = product(codes - weight, second.T)  # (O, K), half the cost's gradient
    for _ in range(sweeps):
        moved = False
        for j in range(codes.shape[1]):
            best = np.clip(np.round(codes[:, j] - slope[:, j] / second[j, j]), -top, top)
            change = best - codes[:, j]
            if change.any():
                moved = True
                codes[:, j] = best
                slope += change[:, None] * second[j]
        if not moved:
            break
    return codes


def diffused(weight: Floats, taps: int, inputs: Floats, top: int) -> Floats:
    """Codes within ``+-top`` for ``weight (O, taps * C)`` in steps, or the nearest ones.

    Pixels side by side are much alike, so that errors of a channel's taps add up: each tap makes up
    for the error of the one before (error diffusion). A row keeps the nearest codes where they cost
    less on ``inputs (n, taps * C)``.
    """
    outputs, depth = weight.shape
    nearest = np.clip(np.round(weight), -top, top)
    split = weight.reshape(outputs, taps, -1)
    codes, rest = np.empty_like(split), np.zeros_like(split[:, 0])
    for t in range(taps):
        wanted = split[:, t] + rest
        codes[:, t] = np.clip(np.round(wanted), -top, top)
        rest = wanted - codes[:, t]
    found = codes.reshape(outputs, depth)
    costs = [np.mean(product(inputs, c - weight) ** 2, axis=0) for c in (found, nearest)]
    return np.where((costs[0] < costs[1])[:, None], found, nearest)


def round_weights(weight: Floats, second: Floats, top: int, rounding: Rounding) -> Floats:
    """Codes ``(O, K)`` for weights in steps; the nearest ones where they happen to cost less."""
    nearest = np.clip(np.round(weight), -top, top)
    if not seeks(rounding, top):
        return nearest
    codes = gptq(weight, second, top)
    worse = cost(weight, codes, second) > cost(weight, nearest, second)
    codes = np.where(worse[:, None], nearest, codes)
    return descend(weight, codes, second, top) if rounding == "descent" else codes
