"""Formats, rounding shifts and multipliers."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moevit.quant.formats import (
    MULTIPLIER_BITS,
    SHIFT_BITS,
    Multiplier,
    QFormat,
    floor_log2,
    round_shift,
)

values = st.integers(-(1 << 42), (1 << 42) - 1)


def nearest(value: Fraction) -> int:
    """To nearest, halves upwards."""
    return floor(value + Fraction(1, 2))


@given(values, st.integers(0, 50))
def test_round_shift_is_to_nearest_halves_up(value: int, shift: int) -> None:
    expected = nearest(Fraction(value, 1 << shift))
    assert round_shift(value, shift) == expected
    assert round_shift(np.array([value]), shift).tolist() == [expected]
    assert round_shift(np.array([value, value]), np.array([shift, 0])).tolist() == [expected, value]


@given(st.integers(1, 63), st.booleans(), values)
def test_saturate_keeps_what_fits(width: int, signed: bool, value: int) -> None:
    form = QFormat(width=width, signed=signed)
    assert form.max - form.min == (1 << width) - 1
    out = form.saturate(value)
    assert out == form.saturate(np.array([value]))[0]
    assert form.min <= out <= form.max
    assert out == value or out == (form.max if value > 0 else form.min)


@pytest.mark.parametrize("width", [0, 64, 1.5, "8"])
def test_width_out_of_range(width: object) -> None:
    with pytest.raises(ValueError, match="Width must be an integer"):
        QFormat(width=width)  # type: ignore[arg-type]


def test_fractional_bits_must_be_an_integer() -> None:
    with pytest.raises(TypeError, match=r"Fractional bits must be an integer, not 0\.5"):
        QFormat(width=8, frac=0.5)  # type: ignore[arg-type]


@given(st.floats(2.0**-46, 65535.4, exclude_max=True))
def test_multiplier_is_within_half_a_step_of_its_mantissa(scale: float) -> None:
    m = Multiplier.from_scale(scale)
    assert abs(m.scale / scale - 1) <= 2.0**-MULTIPLIER_BITS
    assert m.mult >> (MULTIPLIER_BITS - 1) == 1


@given(st.floats(0, 2.0**-46))
def test_tiny_scales_keep_what_the_largest_shift_holds(scale: float) -> None:
    m = Multiplier.from_scale(scale)
    assert m.scale <= scale * (1 + 2.0**-MULTIPLIER_BITS)
    assert scale - m.scale < 2.0 ** -((1 << SHIFT_BITS) - 1)


@given(values.map(lambda v: v >> 16), st.integers(0, 65535), st.integers(0, 63))
def test_multiplier_computes_the_rounded_product(value: int, mult: int, shift: int) -> None:
    m = Multiplier(mult=mult, shift=shift)
    expected = nearest(Fraction(value * mult, 1 << shift))
    assert m.compute(value) == expected
    assert m.compute(np.array([value])).tolist() == [expected]


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf"), 65536.0, 1e9])
def test_bad_scales(scale: float) -> None:
    with pytest.raises(ValueError, match="Scale"):
        Multiplier.from_scale(scale)


@pytest.mark.parametrize(("mult", "shift"), [(65536, 0), (-1, 0), (1, 64), (1, -1)])
def test_multiplier_fields_must_fit(mult: int, shift: int) -> None:
    with pytest.raises(ValueError, match="must have"):
        Multiplier(mult=mult, shift=shift)


@given(st.lists(st.integers(1, (1 << 62) - 1), min_size=1))
def test_floor_log2(numbers: list[int]) -> None:
    expected = [n.bit_length() - 1 for n in numbers]
    assert floor_log2(np.array(numbers)).tolist() == expected
    assert [floor_log2(n) for n in numbers] == expected


def test_floor_log2_around_powers_of_two() -> None:
    edges = np.array([(1 << b) + d for b in range(2, 62) for d in (-1, 0, 1)])
    assert floor_log2(edges).tolist() == [int(e).bit_length() - 1 for e in edges]
    for bad in (0, -3, np.array([4, 0])):
        with pytest.raises(ValueError, match="must be positive"):
            floor_log2(bad)
