"""Reciprocal and reciprocal square root: every mantissa, and every path into the tables."""

import numpy as np
import pytest

from moevit.quant.operators.layernorm import rsqrt
from moevit.quant.operators.pwl import RECIPROCAL, RSQRT, Pwl
from moevit.quant.operators.softmax import normalise, reciprocal

RELATIVE = 4.2e-5  # of both tables: about 1.4 units of the 16-bit result at its smallest
DROPPED = 2.0**-15  # a mantissa whose low bits were cut off


@pytest.mark.parametrize("table", [RECIPROCAL, RSQRT], ids=["reciprocal", "rsqrt"])
def test_all_mantissas(table: Pwl) -> None:
    low = table.first << table.frac_bits
    m = np.arange(low, low + (table.segments << table.frac_bits))
    exact = table.gain * m**table.power
    out = table.compute(m)
    assert np.abs(out / exact - 1).max() < RELATIVE
    assert out.min() >= 1 << 15
    assert out.max() < 1 << 16
    assert np.all(np.diff(out) <= 1)  # falling, but for the rounding of one step at a seam


@pytest.mark.parametrize("table", [RECIPROCAL, RSQRT], ids=["reciprocal", "rsqrt"])
def test_mantissas_outside(table: Pwl) -> None:
    low = table.first << table.frac_bits
    for bad in (low - 1, low + (table.segments << table.frac_bits)):
        with pytest.raises(ValueError, match=f"Mantissa outside the table: {bad}"):
            table.compute(bad)


def some_integers(bits: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    wide = (2.0 ** rng.uniform(0, bits, 50_000)).astype(np.int64)
    edges = np.array([(1 << b) + d for b in range(2, bits) for d in (-1, 0, 1)])
    return np.concatenate([np.arange(1, 70_000), wide, edges])


def test_reciprocal_of_any_integer() -> None:
    v = some_integers(40)
    r, e = reciprocal(v)
    assert np.abs(r * 2.0 ** -(16.0 + e) * v - 1).max() < RELATIVE + DROPPED
    assert [reciprocal(int(t)) for t in v[::997]] == list(zip(r[::997], e[::997], strict=True))


def test_rsqrt_of_any_integer() -> None:
    v = some_integers(60)
    r, e = rsqrt(v)
    assert np.abs(r * 2.0 ** -(16.0 + e) * np.sqrt(v) - 1).max() < RELATIVE + DROPPED
    assert [rsqrt(int(t)) for t in v[::997]] == list(zip(r[::997], e[::997], strict=True))


def test_normalise_drops_low_bits() -> None:
    assert normalise(1) == (1 << 15, 0)
    assert normalise(0x1FFFF) == (0xFFFF, 16)
    assert normalise(5, bits=3) == (5, 2)
    with pytest.raises(ValueError, match="must be positive, not 0"):
        normalise(0)
