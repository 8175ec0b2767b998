"""Every operator a second time, from docs/numbers.md alone, one number at a time.

Nothing of moevit is imported, nothing is computed in floats: rationals are exact, and roots,
exponentials and the normal distribution are rationals so near that their rounding is proven (an
``ArithmeticError`` says where it is not).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from math import factorial, floor, isqrt

__all__ = [
    "FUNCTIONS",
    "add",
    "attention",
    "exponential",
    "gate",
    "gelu",
    "hidden",
    "layer_norm",
    "linear",
    "reciprocal",
    "relu",
    "requantised",
    "rescale",
    "root",
    "row",
    "sat",
    "silu",
    "stage",
    "token_mean",
    "values_of",
]

_DIGITS = 10**40
_NEAR = Fraction(1, 10**30)


def nearest(x: Fraction | int) -> int:
    """Halves go upwards."""
    return floor(x + Fraction(1, 2))


def surely(x: Fraction) -> int:
    """The nearest integer of a number known to within ``_NEAR``."""
    if nearest(x - _NEAR) != nearest(x + _NEAR):
        raise ArithmeticError(f"{float(x)} is too near to a half")
    return nearest(x)


def sat(value: int, low: int, high: int) -> int:
    """Limited to a range."""
    return low if value < low else high if value > high else value


def sat16(value: int) -> int:
    return sat(value, -32768, 32767)


def sat8(value: int) -> int:
    return sat(value, -128, 127)


def kv(value: int) -> int:
    return sat(value, -127, 127)


def lead(value: int) -> int:
    """``floor(log2 value)``, by halving."""
    if value < 1:
        raise ValueError(f"{value} has no logarithm")
    e = 0
    while value > 1:
        value //= 2
        e += 1
    return e


def requantised(acc: int, mult: int, shift: int) -> int:
    return sat16(nearest(Fraction(acc * mult, 2**shift)))


# Linear layers ------------------------------------------------------------------------------------
def linear(x: Sequence[int], weight: Sequence[int], bias: int, mult: int, shift: int) -> int:
    """One output channel of one token."""
    return requantised(sum(a * b for a, b in zip(x, weight, strict=True)) + bias, mult, shift)


def add(residual: int, value: int, score: int | None = None) -> int:
    """To the residual stream."""
    if score is not None:
        value = nearest(Fraction(value * score, 2**15))
    return sat16(residual + value)


# Tables -------------------------------------------------------------------------------------------
@cache
def _octave(peak: int, guard: int) -> tuple[int, ...]:
    table = []
    for i in range(256):
        # n = round(P * 2**(-i/256)): the last n with (n - 1/2)**256 * 2**i <= P**256.
        whole = peak * 2**guard
        low, high = 0, whole + 1
        while high - low > 1:
            middle = (low + high) // 2
            if (2 * middle - 1) ** 256 * 2**i <= (2 * whole) ** 256:
                low = middle
            else:
                high = middle
        table.append(low)
    return tuple(table)


def exponential(distance: int, peak: int, guard: int) -> int:
    n, i = divmod(distance, 256)
    return nearest(Fraction(_octave(peak, guard)[i], 2 ** (n + guard)))


def _chord(f: Callable[[Fraction], Fraction], a: int, b: int) -> tuple[int, int]:
    ends = f(Fraction(a)), f(Fraction(b))
    half = ((ends[0] + ends[1]) / 2 - f(Fraction(a + b, 2))) / 2
    return min(surely(ends[0] - half), 65535), surely(ends[0] - ends[1])


@cache
def _reciprocal_segment(i: int) -> tuple[int, int]:
    a = 256 * (128 + i)
    return _chord(lambda m: 2**31 / m, a, a + 256)


def reciprocal(value: int) -> tuple[int, int]:
    e = lead(value)
    m = floor(value * Fraction(2) ** (15 - e))
    base, slope = _reciprocal_segment(m // 256 - 128)
    return base - nearest(Fraction(slope * (m % 256), 256)), e


def _square_root(x: Fraction) -> Fraction:
    return Fraction(isqrt(x.numerator * _DIGITS**2 // x.denominator), _DIGITS)


@cache
def _root_segment(i: int) -> tuple[int, int]:
    a = 1024 * (64 + i)
    return _chord(lambda m: 2**24 / _square_root(m), a, a + 1024)


def root(value: int) -> tuple[int, int]:
    """Reciprocal square root."""
    e = lead(value) // 2
    m = floor(value * Fraction(2) ** (16 - 2 * e))
    base, slope = _root_segment(m // 1024 - 64)
    return base - nearest(Fraction(slope * (m % 1024), 1024)), e


# Softmax ------------------------------------------------------------------------------------------
def row(total: int, mult: int, shift: int) -> tuple[int, int]:
    """What multiplies a row's sums, and the shift behind it."""
    r, e = reciprocal(total)
    return floor(Fraction(r * mult, 2**16)), shift + e


def values_of(
    p: Sequence[int], columns: Sequence[Sequence[int]], mult: int, shift: int
) -> list[int]:
    """A row's weights and the values' columns to int8."""
    m, s = row(sum(p), mult, shift)
    sums = (sum(a * b for a, b in zip(p, column, strict=True)) for column in columns)
    return [sat8(requantised(acc, m, s)) for acc in sums]


def attention(
    q: Sequence[int],
    k: Sequence[Sequence[int]],
    v: Sequence[Sequence[int]],
    score: tuple[int, int],
    out: tuple[int, int],
) -> list[int]:
    """One query of one head: ``k`` and ``v`` token by token."""
    s = [requantised(sum(a * b for a, b in zip(q, key, strict=True)), *score) for key in k]
    p = [exponential(max(s) - x, 127, 4) for x in s]
    return values_of(p, list(zip(*v, strict=True)), *out)


def token_mean(rows: Sequence[Sequence[int]], gain: tuple[int, int]) -> list[int]:
    columns = [[kv(x) for x in column] for column in zip(*rows, strict=True)]
    return values_of([127] * len(rows), columns, *gain)


# Activation functions -----------------------------------------------------------------------------
def _pi() -> Fraction:
    """Machin's formula."""

    def arctan(inverse: int) -> Fraction:
        return sum(
            (Fraction((-1) ** n, (2 * n + 1) * inverse ** (2 * n + 1)) for n in range(40)),
            Fraction(0),
        )

    return 16 * arctan(5) - 4 * arctan(239)


@cache
def _density_at_zero() -> Fraction:
    return 1 / _square_root(2 * _pi())


def _tail(u: Fraction) -> Fraction:
    """``Phi(-u)``: 1/2 less the density times ``u + u^3/3 + u^5/(3 5) + ...``."""
    square = u * u
    term, total, n = u, Fraction(0), 1
    while term > _NEAR / 1000:
        total += term
        n += 2
        term = Fraction(floor(term * square / n * _DIGITS), _DIGITS)
    half = square / 2
    growth = sum((half**n / factorial(n) for n in range(80)), Fraction(0))  # exp(u^2 / 2), u <= 4
    return Fraction(1, 2) - _density_at_zero() * total / growth


@cache
def _gelu_table() -> tuple[int, ...]:
    middles = (Fraction(4 * i + 1, 512) for i in range(512))
    return tuple(surely(256 * u * _tail(u)) for u in middles)


def gelu(value: int) -> int:
    a = abs(value)
    return max(value, 0) - (_gelu_table()[a // 2] if a < 1024 else 0)


@cache
def _silu_table() -> tuple[int, ...]:
    def exp(u: Fraction) -> Fraction:  # u <= 8
        return sum((u**n / factorial(n) for n in range(80)), Fraction(0))

    table = []
    for step, first, end in ((2, 0, 512), (8, 512, 2048)):
        for i in range(first // step, end // step):
            u = (step * i + Fraction(step - 1, 2)) / 256
            table += [surely(256 * u / (1 + exp(u)))] * step
    return tuple(table)


def silu(value: int) -> int:
    a = abs(value)
    return max(value, 0) - (_silu_table()[a] if a < 2048 else 0)


def relu(value: int) -> int:
    return max(value, 0)


FUNCTIONS: dict[str, Callable[[int], int]] = {"gelu": gelu, "silu": silu, "relu": relu}


def hidden(
    function: Callable[[int], int], value: int, mult: int, shift: int, zero_point: int
) -> int:
    """The hidden activation of a pre-activation."""
    return sat8(nearest(Fraction(function(value) * mult, 2**shift)) + zero_point)


# Norms --------------------------------------------------------------------------------------------
def rescale(x: int, gain: int, bias: int, shift: int) -> int:
    return sat8(nearest(Fraction(x * gain + bias, 2**shift)))


def layer_norm(x: Sequence[int], affine: Sequence[tuple[int, int, int]], eps: int) -> list[int]:
    """One token; ``affine``: gain, bias and shift of each channel."""
    d, s, q = len(x), sum(x), sum(a * a for a in x)
    r, e = root(max(d * q - s * s + eps, 1))
    normalised = [sat16(nearest(Fraction((d * a - s) * r, 2 ** (e + 6)))) for a in x]
    return [rescale(a, *parameters) for a, parameters in zip(normalised, affine, strict=True)]


# Router -------------------------------------------------------------------------------------------
def gate(
    logits: Sequence[int],
    k: int,
    *,
    renormalise: bool = False,
    least: int = 0,
    p: Fraction = Fraction(1),
) -> list[tuple[int, int]]:
    """The chosen experts and their scores, best first, without those that are dropped."""
    exponentials = [exponential(max(logits) - x, 32767, 2) for x in logits]
    chosen: list[int] = []
    for _ in range(k):
        rest = [i for i in range(len(logits)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: (logits[i], -i)))
    total = sum(exponentials[i] for i in chosen) if renormalise else sum(exponentials)
    r, e = reciprocal(total)
    scores = [sat(nearest(Fraction(exponentials[i] * r, 2 ** (e + 1))), 0, 32767) for i in chosen]
    taken: list[tuple[int, int]] = []
    for i, score in zip(chosen, scores, strict=True):
        share = Fraction(sum(scores[: len(taken)]), 2**15)
        # A score of one is 32767: what comes that close to one is reached by it.
        if p < 1 and share >= min(p, Fraction(32767, 2**15)):
            break
        taken.append((i, score))
    return [(i, score) for i, score in taken if score >= least]


# Upsampling heads ---------------------------------------------------------------------------------
def _reads(size: int, output: int, kernel: int, doubling: bool) -> dict[int, tuple[Fraction, ...]]:
    """Pixels of an axis that an output reads: for each, its part in each element of the kernel."""
    reach, length = kernel // 2, 2 * size if doubling else size
    found: dict[int, list[Fraction]] = {}
    for element in range(kernel):
        q = output - reach + element
        if not 0 <= q < length:  # the convolution adds zeros
            continue
        parts = [(q, Fraction(1))]
        if doubling:
            near = q // 2
            far = near + 1 if q % 2 else near - 1
            parts = [(near, Fraction(3, 4)), (sat(far, 0, size - 1), Fraction(1, 4))]
        for pixel, part in parts:
            found.setdefault(pixel, [Fraction(0)] * kernel)[element] += part
    return {pixel: tuple(parts) for pixel, parts in sorted(found.items())}


def _spans(size: int, kernel: int, doubling: bool) -> list[tuple[int, list[int]]]:
    """For each output of an axis its span's number, and the pixels that it reads."""
    factor = 2 if doubling else 1
    where: dict[int, tuple[int, list[int]]] = {}
    number, before = -1, None
    for phase in range(factor):
        for p in range(size):
            reads = _reads(size, factor * p + phase, kernel, doubling)
            kind = (phase, tuple((pixel - p, parts) for pixel, parts in reads.items()))
            number += kind != before
            before = kind
            where[factor * p + phase] = (number, list(reads))
    return [where[output] for output in range(factor * size)]


def stage(
    maps: Sequence[Sequence[Sequence[int]]],
    layers: Sequence[Sequence[tuple[Sequence[int], int, int, int]]],
    *,
    kernel: int,
    doubling: bool,
    relu: bool,
) -> list[list[list[int]]]:
    """One map ``[row][column][channel]``; ``layers[window][output]``: weights, bias, mult, shift
    of one output channel in one window."""
    down = _spans(len(maps), kernel, doubling)
    across = _spans(len(maps[0]), kernel, doubling)
    columns = 1 + max(number for number, _ in across)
    out = []
    for span, rows in down:
        line = []
        for other, pixels in across:
            x = [value for y in rows for z in pixels for value in maps[y][z]]
            values = [linear(x, *channel) for channel in layers[span * columns + other]]
            line.append([sat8(value - 128) for value in values] if relu else values)
        out.append(line)
    return out
