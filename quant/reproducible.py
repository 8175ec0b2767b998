"""Float arithmetic whose last bit is the same on every machine.

The sums of a BLAS depend on its kernels and its threads, and the libraries' transcendental
functions on the processor; whoever rounds what follows from them gets other integers elsewhere.
Here a product rounds its operands to as many bits as make every sum exact, in whatever order it is
done (the first slice of Ozaki et al. 2012, section 3), and functions are polynomials in single
additions and multiplications, which IEEE 754 defines, around tables from decimal arithmetic.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache
from math import factorial
from typing import Any

import numpy as np

from .typing import Floats

__all__ = ["exp", "inverse_factor", "log", "ndtr", "power", "product", "sine"]

_OCTAVE = 6
_STEPS = 1 << _OCTAVE  # of exp's table in an octave
_GRID = 32  # of ndtr's table in 1
_FARTHEST = 9
_DIGITS = 60
_LN2 = Decimal("0.693147180559945309417232121458176568075500134360255254120680")
_PI_REST = 0.0009676535897932385  # pi - 3.140625
_SINE = tuple((-1) ** n / factorial(2 * n + 1) for n in range(10, -1, -1))
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def product(x: Any, y: Any) -> Floats:
    """``x (..., N, K)`` times ``y (..., O, K)`` transposed, ``(..., N, O)``.

    Rows are rounded to about ``(53 - log2(K)) / 2`` bits of their largest element: 23 for 64
    columns, 20 for 4096. The result is float32 if both operands are, else float64.
    """
    x, y = np.asarray(x), np.asarray(y)
    kind = np.result_type(x.dtype, y.dtype, np.float32)
    bits = (53 - max(x.shape[-1] - 1, 1).bit_length()) // 2
    (left, up), (right, down) = _whole(x, bits), _whole(y, bits)
    out: Floats = left @ right.swapaxes(-1, -2)
    out *= up
    out *= down.swapaxes(-1, -2)
    return out.astype(kind, copy=False)


def _whole(x: Any, bits: int) -> tuple[Floats, Floats]:
    """Rows as whole numbers within ``2**bits``, and what a step of each row is, a power of 2."""
    peak = np.abs(x).max(axis=-1, keepdims=True, initial=0).astype(np.float64)
    exponent = np.clip(np.frexp(peak)[1], -900, 900) - bits
    out: Floats = np.multiply(x, np.ldexp(1.0, -exponent), dtype=np.float64)
    return np.rint(out, out=out), np.ldexp(1.0, exponent)


def exp(x: Any) -> Floats:
    """Exponential, with a relative error of at most 1e-12; of the type of ``x``."""
    x = np.asarray(x)
    roots, powers, step = _octave()
    t = np.multiply(np.atleast_1d(x), 1 / step, dtype=np.float64)
    np.clip(t, -1070 * _STEPS, 1023 * _STEPS, out=t)
    whole = np.rint(t)
    t -= whole
    t *= step
    out: Floats = _polynomial(t, (1 / 24, 1 / 6, 1 / 2, 1.0, 1.0))
    k = whole.astype(np.int32)
    out *= roots[k & (_STEPS - 1)]
    out *= powers[(k >> _OCTAVE) + 1070]
    return out.astype(x.dtype).reshape(x.shape)


def log(x: Any) -> Floats:
    """Natural logarithm of normal positive numbers, with an error of about 1e-15 of their size."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    low = mantissa < 0.7
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    s = (mantissa - 1) / (mantissa + 1)  # within 0.18
    series = _polynomial(s * s, tuple(2 / n for n in range(23, 0, -2)))
    out: Floats = exponent * float(_LN2) + s * series
    return out


def power(x: Any, exponent: float) -> Floats:
    """Positive numbers to a power."""
    x = np.asarray(x)
    if exponent in (0, 1):
        return np.ones_like(x) if exponent == 0 else x
    return exp(log(x) * exponent).astype(x.dtype)


def ndtr(x: Any) -> Floats:
    """The normal distribution function, with an error of about 1e-11; of the type of ``x``."""
    x = np.asarray(x)
    area, density = _normal()
    t = np.clip(np.atleast_1d(x), -_FARTHEST, _FARTHEST).astype(np.float64)
    t *= _GRID
    whole = np.rint(t)
    t -= whole
    t *= 1 / _GRID
    k = whole.astype(np.int32) + _FARTHEST * _GRID
    whole *= 1 / _GRID  # the grid's point; the rest are Taylor's coefficients there, over density
    squared = whole * whole
    out: Floats = (3 - squared) * whole * (1 / 24)
    for c in ((squared - 1) * (1 / 6), -0.5 * whole, 1.0):
        out *= t
        out += c
    out *= t
    out *= density[k]
    out += area[k]
    return out.astype(x.dtype).reshape(x.shape)


def sine(x: Any) -> Floats:
    """Sine of angles up to a million, with an error of about 1e-15; of the type of ``x``."""
    x = np.asarray(x)
    t = np.atleast_1d(x).astype(np.float64)
    whole = np.rint(t * (1 / np.pi))
    t -= whole * 3.140625  # pi in two parts, the first of few bits
    t -= whole * _PI_REST
    squared = t * t
    t *= _polynomial(squared, _SINE)
    out: Floats = np.where(whole % 2, -t, t)
    return out.astype(x.dtype).reshape(x.shape)


def inverse_factor(matrix: Floats) -> Floats:
    """The upper triangle ``U`` with ``U' U`` the inverse of a positive definite ``matrix``.

    ``matrix`` is ``R R'`` with an upper ``R``, found from the last column on, and ``U`` its
    inverse. Raises ``ValueError`` for a matrix that is not positive definite.
    """
    rest = matrix.astype(np.float64)
    size = len(rest)
    factor = np.zeros_like(rest)
    for j in range(size - 1, -1, -1):
        if not rest[j, j] > 0:
            raise ValueError("Matrix is not positive definite")
        column = rest[: j + 1, j] / np.sqrt(rest[j, j])
        factor[: j + 1, j] = column
        rest[:j, :j] -= column[:j, None] * column[:j]
    out = np.eye(size)
    for j in range(size - 1, -1, -1):  # rows of the inverse, from the last one on
        out[j, j:] /= factor[j, j]
        out[:j, j:] -= factor[:j, j, None] * out[j, j:]
    return out


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    """Horner's rule; the highest power's coefficient comes first."""
    out = x * coefficients[0]
    for c in coefficients[1:-1]:
        out += c
        out *= x
    out += coefficients[-1]
    return out


@cache
def _octave() -> tuple[Floats, Floats, float]:
    """``2**(i / STEPS)``, ``2**(n - 1070)``, and the logarithm of a step."""
    with localcontext() as context:
        context.prec = _DIGITS
        step = _LN2 / _STEPS
        roots = np.array([float((step * i).exp()) for i in range(_STEPS)])
    return roots, np.ldexp(1.0, np.arange(-1070, 1024)), float(step)


@cache
def _normal() -> tuple[Floats, Floats]:
    """Distribution function and density at multiples of ``1 / GRID`` up to ``FARTHEST``."""
    area, density = [], []
    with localcontext() as context:
        context.prec = _DIGITS
        norm = 1 / (2 * _PI).sqrt()
        for i in range(_FARTHEST * _GRID + 1):
            t = Decimal(i) / _GRID
            here = norm * (-t * t / 2).exp()
            term = total = t
            n = 1
            while term > total * Decimal("1e-45"):  # Marsaglia 2004: t + t^3/3 + t^5/15 ...
                n += 2
                term *= t * t / n
                total += term
            area.append(Decimal("0.5") + here * total)
            density.append(here)
        below = [float(1 - a) for a in area[:0:-1]]
    above, sides = [float(a) for a in area], [float(d) for d in density]
    return np.array(below + above), np.array(sides[:0:-1] + sides)
