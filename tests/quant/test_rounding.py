"""Rounding by output error: never worse than the nearest codes, and what few tokens may do."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.quant.ptq.rounding import cost, descend, diffused, gptq, moment, round_weights


def correlated(rng: Any, rows: int, depth: int) -> Any:
    """Inputs as behind GELU: few directions, a mean of their own."""
    basis = rng.normal(size=(max(depth // 3, 1), depth))
    return 20 * (rng.normal(size=(rows, len(basis))) @ basis + rng.normal(size=(rows, depth)) / 3)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    outputs=st.integers(1, 9),
    depth=st.integers(1, 40),
    rows=st.integers(1, 200),
    top=st.sampled_from([7, 127]),
)
def test_no_row_is_worse(seed: int, outputs: int, depth: int, rows: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    second = moment(correlated(rng, rows, depth))
    weight = rng.normal(0, top / 2, (outputs, depth))  # some beyond the range
    nearest = round_weights(weight, second, top, "nearest")
    assert np.array_equal(nearest, np.clip(np.round(weight), -top, top))
    before = cost(weight, nearest, second)
    for rounding in ("gptq", "descent"):
        codes = round_weights(weight, second, top, rounding)  # type: ignore[arg-type]
        assert np.array_equal(codes, np.round(codes)) and np.abs(codes).max() <= top
        after = cost(weight, codes, second)
        assert (after <= before * (1 + 1e-9) + 1e-9).all()
        before = after
    assert np.array_equal(
        round_weights(weight, second, top, "auto"),
        round_weights(weight, second, top, "gptq" if top < 127 else "nearest"),
    )


def test_it_pays_where_inputs_are_correlated() -> None:
    rng = np.random.default_rng(1)
    inputs = correlated(rng, 500, 48)
    weight = np.clip(rng.normal(0, 2.5, (32, 48)), -7, 7)
    second = moment(inputs)
    nearest, second_order, descent = (
        float(np.mean(((round_weights(weight, second, 7, how) - weight) @ inputs.T) ** 2))  # type: ignore[arg-type]
        for how in ("nearest", "gptq", "descent")
    )
    assert second_order < 0.7 * nearest
    assert descent <= second_order


def test_descent_ends_where_no_code_can_be_better() -> None:
    rng = np.random.default_rng(2)
    second = moment(correlated(rng, 60, 4))
    weight = rng.normal(0, 3, (5, 4))
    codes = descend(weight, np.round(weight).clip(-7, 7), second, 7, sweeps=50)
    least = cost(weight, codes, second)
    for j, change in itertools.product(range(4), (-1, 1)):
        other = codes.copy()
        other[:, j] = np.clip(other[:, j] + change, -7, 7)
        assert (cost(weight, other, second) >= least - 1e-9).all()


def test_independent_inputs_need_no_second_order() -> None:
    weight = np.random.default_rng(3).normal(0, 3, (6, 10))
    assert np.array_equal(gptq(weight, np.eye(10), 7), np.clip(np.round(weight), -7, 7))


def test_few_tokens_are_helped_by_the_others() -> None:
    """Codes from 3 tokens alone are bad for a fourth; with all the layer's tokens they are not."""
    rng = np.random.default_rng(4)
    everything = correlated(rng, 2000, 32)
    own, unseen = everything[:3], everything[1000:]
    weight = rng.normal(0, 2.5, (24, 32))

    def error(second: Any) -> float:
        change = round_weights(weight, second, 7, "descent") - weight
        return float(np.mean((change @ unseen.T) ** 2))

    assert error(moment(own, prior=everything[:900])) < 0.7 * error(moment(own))
    # With many tokens of its own the others hardly count.
    many = moment(everything, prior=1000 * everything[:5])
    assert np.allclose(moment(everything, centre=0.0), moment(everything, prior=None))
    assert many.trace() > moment(everything).trace()


@pytest.mark.parametrize("rounding", ["up", ""])
def test_unknown_roundings(rounding: str) -> None:
    from moevit.quant.ptq.quantize import Options

    with pytest.raises(ValueError, match=f"one of auto, nearest, gptq, descent, not '{rounding}'"):
        Options(rounding=rounding)  # type: ignore[arg-type]


def test_diffused_errors_cancel_between_taps() -> None:
    rng = np.random.default_rng(3)
    taps, channels = 9, 5
    weight = rng.normal(0, 30, (6, taps * channels))
    alike = np.tile(rng.normal(0, 50, (200, channels)), taps)
    codes = diffused(weight, taps, alike, 127)
    error = (codes - weight).reshape(6, taps, channels).sum(axis=1)
    assert np.abs(error).max() <= 0.5 + 1e-9
    nearest = np.round(weight)
    gain = np.mean((alike @ (codes - weight).T) ** 2) / np.mean((alike @ (nearest - weight).T) ** 2)
    assert gain < 0.4
    assert np.abs(diffused(3 * weight, taps, alike, 127)).max() <= 127
    opposite = alike.reshape(200, taps, channels) * (-1.0) ** np.arange(taps)[:, None]
    kept = diffused(weight, taps, opposite.reshape(200, -1), 127)
    for row, near, other in zip(kept, nearest, codes, strict=True):
        assert np.array_equal(row, near) or np.array_equal(row, other)
    assert np.mean((opposite.reshape(200, -1) @ (kept - weight).T) ** 2) <= np.mean(
        (opposite.reshape(200, -1) @ (nearest - weight).T) ** 2
    )
