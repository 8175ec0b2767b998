"""Attention weights and normalised outputs against exact softmax."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.quant.formats import LOGIT, VALUE, Multiplier
from moevit.quant.operators.softmax import Softmax

UNIT = Multiplier.from_scale(1.0)
PEAK = 127


def exact(scores: np.ndarray) -> np.ndarray:
    """Softmax to base 2 of logits ``(rows, keys)``, in float."""
    p = 2.0 ** ((scores - scores.max(axis=-1, keepdims=True)) / (1 << LOGIT.frac))
    return p / p.sum(axis=-1, keepdims=True)


def test_weight_of_every_score_is_within_one_step() -> None:
    """All 65,536 scores beside a largest of 32767, then all below each of some smaller maxima."""
    softmax = Softmax(score=UNIT, out=UNIT)
    for top in (LOGIT.max, 1000, 0, -1, -20_000):
        scores = np.arange(LOGIT.min, top + 1)[None]
        ideal = PEAK * 2.0 ** ((scores - top) / (1 << LOGIT.frac))
        weights = softmax.weights(scores)
        assert np.abs(weights - ideal).max() < 0.53
        assert weights.max() == weights[0, -1] == PEAK


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 300), st.integers(1, 33), st.floats(0, 6000))
def test_outputs_are_the_weighted_mean(seed: int, keys: int, dims: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    scores = LOGIT.saturate(rng.normal(0, spread, (9, keys)).round().astype(np.int64))
    v = rng.integers(-128, 128, (keys, dims))
    softmax = Softmax(score=UNIT, out=UNIT)
    weights = softmax.weights(scores)
    totals = weights.sum(axis=1)
    got = softmax.outputs(weights @ v, totals)
    # Of the integer weights: half a step of rounding and 1.1e-4 (reciprocal, product).
    mean = weights @ v / totals[:, None]
    assert np.abs(got - mean).max() <= 0.5 + 128 * 1.1e-4
    # Of exact softmax: what rounding the weights can move, |p - p'| <= 0.53 of PEAK steps each.
    moved = 128 * 2 * 0.53 * keys / totals[:, None]
    assert np.all(np.abs(got - exact(scores) @ v) <= 0.52 + moved)


def test_typical_rows_are_close_to_exact() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 400, (500, 129)).round().astype(np.int64)
    v = rng.normal(0, 40, (129, 32)).round().clip(-128, 127).astype(np.int64)
    softmax = Softmax(score=UNIT, out=Multiplier.from_scale(4.0))
    weights = softmax.weights(scores)
    error = softmax.outputs(weights @ v, weights.sum(axis=1)) - 4 * exact(scores) @ v
    assert np.sqrt(np.mean(error**2)) < 0.5  # of an int8 step
    assert np.quantile(np.abs(error), 0.999) < 2.5


@given(st.integers(1, 127 * 4096), st.floats(2.0**-12, 30.0))
def test_row_multiplier(total: int, out: float) -> None:
    softmax = Softmax(score=UNIT, out=Multiplier.from_scale(out))
    mult, shift = softmax.row(total)
    assert 1 << 14 <= mult < 1 << 16
    assert abs(mult * 2.0**-shift * total / out - 1) < 1.7e-4  # two cuts to 16 bits, one table


def test_scores_and_outputs_saturate() -> None:
    softmax = Softmax(score=Multiplier.from_scale(100.0), out=Multiplier.from_scale(1000.0))
    assert softmax.scores(np.array([[-(1 << 20), 1 << 20]])).tolist() == [[LOGIT.min, LOGIT.max]]
    out = softmax.outputs(np.array([[127 * 127, -127 * 128]]), np.array([127]))
    assert out.tolist() == [[VALUE.max, VALUE.min]]


@pytest.mark.parametrize("keys", [1, 2, 129])
def test_equal_scores_average(keys: int) -> None:
    softmax = Softmax(score=UNIT, out=UNIT)
    weights = softmax.weights(np.full((1, keys), -77))
    assert np.all(weights == PEAK)
    assert softmax.outputs(weights @ np.full((keys, 1), 100), weights.sum(axis=1))[0, 0] == 100
