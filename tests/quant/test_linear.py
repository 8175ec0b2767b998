"""Linear layers: exactness, the accumulator's proof, rounding and saturation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.quant.formats import ACCUMULATOR, RESIDUAL, SCORE, VALUE, Multiplier, round_shift
from moevit.quant.operators.linear import Linear, matmul, to_activation, to_key_value


def make(weight: np.ndarray, bias: np.ndarray, scale: float) -> Linear:
    m, outputs = Multiplier.from_scale(scale), len(weight)
    mult, shift = np.full(outputs, m.mult, np.uint16), np.full(outputs, m.shift, np.uint8)
    return Linear(weight=weight.astype(np.int8), bias=bias.astype(np.int32), mult=mult, shift=shift)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.integers(1, 40),
    st.integers(1, 1600),
    st.integers(1, 40),
    st.sampled_from([7, 15]),
)
def test_matmul_is_exact(seed: int, rows: int, depth: int, outputs: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    limit = 1 << bits
    x = rng.integers(-limit, limit, (rows, depth))
    w = rng.integers(-limit, limit, (outputs, depth))
    x[0], w[0] = -limit, -limit  # the largest sum there is
    assert np.array_equal(matmul(x, w), x @ w.T)


def test_matmul_refuses_what_floats_cannot_hold() -> None:
    big = np.full((1, 2), 1 << 30)
    with pytest.raises(ValueError, match="more than floats hold exactly"):
        matmul(big, big)


def test_four_bit_weights_are_checked() -> None:
    linear = make(np.array([[-7, 7]]), np.zeros(1), 0.5)
    assert linear.weight_bits == 8
    assert dataclasses.replace(linear, weight_bits=4).weight_bits == 4
    with pytest.raises(ValueError, match="weight_bits must be 8 or 4, not 5"):
        dataclasses.replace(linear, weight_bits=5)
    wide = make(np.array([[-8, 7]]), np.zeros(1), 0.5)
    with pytest.raises(ValueError, match=r"weight must lie within \+-7 for 4 bits, found 8"):
        dataclasses.replace(wide, weight_bits=4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 9), st.integers(1, 200), st.integers(1, 30))
def test_values(seed: int, rows: int, depth: int, outputs: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (outputs, depth))
    bias = rng.integers(-10_000, 10_000, outputs)
    x = rng.integers(-128, 128, (rows, depth))
    scale = float(rng.uniform(0.001, 0.9))
    got = make(weight, bias, scale).values(x)
    exact = (x @ weight.T + bias) * scale
    clipped = np.clip(exact, VALUE.min, VALUE.max)
    assert np.all(np.abs(got - clipped) <= 0.5 + np.abs(exact) * 2.0**-16 + 1e-9)


def test_residual_addition_saturates() -> None:
    linear = make(np.full((1, 1), 127), np.zeros(1), 1.0)
    x = np.array([[127], [-128], [1]])
    residual = np.array([[32_000], [-32_000], [5]])
    assert linear.add(residual, x).tolist() == [[RESIDUAL.max], [RESIDUAL.min], [132]]


@given(st.integers(-128, 127), st.integers(0, SCORE.max), st.integers(-30_000, 30_000))
def test_scores_weight_the_value(x: int, score: int, residual: int) -> None:
    linear = make(np.full((1, 1), 100), np.zeros(1), 1.0)
    out = linear.add(np.array([[residual]]), np.array([[x]]), np.array([score]))
    expected = RESIDUAL.saturate(residual + round_shift(100 * x * score, SCORE.frac))
    assert out.tolist() == [[expected]]


def test_accumulator_proof_is_tight() -> None:
    depth = (ACCUMULATOR.max - 127) // (127 * 128)
    weight = np.full((2, depth), 127)
    room = ACCUMULATOR.max - depth * 127 * 128
    bias = np.array([0, -room])
    worst = make(weight, bias, 2.0**-20)
    acc = matmul(np.full((1, depth), -128), weight) + bias
    assert acc.min() == -ACCUMULATOR.max
    assert worst.shape == (2, depth)
    with pytest.raises(ValueError, match="Channel 1 can reach 67108864, more than"):
        make(weight, np.array([0, -room - 1]), 1.0)


def test_to_activation_saturates_after_the_zero_point() -> None:
    assert to_activation(np.array([-200, 100, 250]), -100).tolist() == [-128, 0, 127]
    assert to_activation(np.array([-200, 100, 250])).tolist() == [-128, 100, 127]


def test_keys_and_values_saturate_symmetrically() -> None:
    values = np.array([-32768, -129, -128, -127, 0, 127, 128, 32767])
    assert to_key_value(values).tolist() == [-127, -127, -127, -127, 0, 127, 127, 127]
