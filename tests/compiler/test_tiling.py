"""Pieces of rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moevit.compiler.plan.tiling import cut, even


@given(st.integers(1, 300), st.integers(-400, 400), st.integers(1, 12))
def test_even(total: int, most: int, unit: int) -> None:
    """As few pieces as possible, none above ``most``, all but the last multiples of ``unit``."""
    size = even(total, most, unit)
    if most < min(unit, total):
        assert size == 0
        return
    pieces = cut(total, size)
    assert sum(count for _, count in pieces) == total
    assert max(count for _, count in pieces) <= most
    assert all(first % unit == 0 for first, _ in pieces)
    least = 1 if most >= total else -(-total // (most // unit * unit))
    assert len(pieces) == least


@pytest.mark.parametrize(
    ("total", "size", "last"), [(10, 4, (8, 2)), (8, 4, (4, 4)), (3, 9, (0, 3))]
)
def test_cut(total: int, size: int, last: tuple[int, int]) -> None:
    assert cut(total, size)[-1] == last
