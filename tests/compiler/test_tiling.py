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
    assert [row for piece in pieces for row in piece] == list(range(total))
    assert max(map(len, pieces)) <= most
    assert all(piece.start % unit == 0 for piece in pieces)
    least = 1 if most >= total else -(-total // (most // unit * unit))
    assert len(pieces) == least


@pytest.mark.parametrize(
    ("rows", "size", "last"),
    [(10, 4, range(8, 10)), (8, 4, range(4, 8)), (3, 9, range(3)), (range(5, 12), 4, range(9, 12))],
)
def test_cut(rows: int | range, size: int, last: range) -> None:
    assert cut(rows, size)[-1] == last
