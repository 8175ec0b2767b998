"""LayerNorm against float, over residuals of every size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.quant.formats import ACTIVATION, RESIDUAL
from moevit.quant.operators.layernorm import BIAS, GAIN, X_HAT_FRAC, LayerNorm


def plain(dim: int, eps: int) -> LayerNorm:
    zero = np.zeros(dim, np.int32)
    return LayerNorm(gain=zero.astype(np.int16), bias=zero, shift=zero, eps=eps)


def exact(x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.maximum(x.var(axis=-1, keepdims=True) + eps, 1e-30))


def tokens(seed: int, dim: int, spread: float, offset: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(offset, spread, (20, dim))
    x[:, rng.integers(dim)] *= rng.uniform(1, 20)  # an outlier channel, as transformers have
    return RESIDUAL.saturate(x.round().astype(np.int64))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.integers(2, 768),
    st.floats(0.6, 30_000),
    st.floats(-20_000, 20_000),
    st.integers(0, 50),
)
def test_normalised(seed: int, dim: int, spread: float, offset: float, eps: int) -> None:
    x = tokens(seed, dim, spread, offset)
    got = plain(dim, eps * dim**2).normalised(x) / (1 << X_HAT_FRAC)
    ideal = exact(x, eps)
    # Half a step of rounding, and the table's relative error with a mantissa cut to 18 bits.
    assert np.all(np.abs(got - ideal) <= 0.5 / (1 << X_HAT_FRAC) + 5e-5 * np.abs(ideal))


@given(st.integers(RESIDUAL.min, RESIDUAL.max), st.integers(1, 64), st.integers(0, 9))
def test_constant_tokens_give_zero(level: int, dim: int, eps: int) -> None:
    assert not plain(dim, eps).normalised(np.full((2, dim), level)).any()


def test_extreme_tokens() -> None:
    dim = 1536
    x = np.full((2, dim), RESIDUAL.min)
    x[:, ::2] = RESIDUAL.max
    x[1, 1:] = (
        RESIDUAL.max
    )  # one channel against all others: x_hat of sqrt(dim - 1), beyond 16 bits
    got = plain(dim, 0).normalised(x) / (1 << X_HAT_FRAC)
    assert np.abs(got[0] - exact(x, 0)[0]).max() < 1e-3
    assert got.min() >= -32
    assert got.max() < 32


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(2, 96), st.floats(1e-4, 500), st.floats(0, 120))
def test_affine(seed: int, dim: int, size: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    gain, bias = rng.normal(0, size, dim), rng.normal(0, offset, dim)
    gain[0] = 0.0
    norm = LayerNorm.from_affine(gain, bias, eps=dim**2)
    assert GAIN.min <= norm.gain.min()
    assert norm.gain.dtype == np.int16
    assert norm.bias.dtype == np.int32
    assert np.all(norm.shift <= 63)
    x = tokens(seed, dim, 300, 10)
    ideal = exact(x, 1.0)
    y = ideal * gain + bias
    error = np.abs(norm.compute(x) - np.clip(y, ACTIVATION.min, ACTIVATION.max))
    slack = np.abs(gain) * (0.5 / (1 << X_HAT_FRAC) + 1.2e-4 * np.abs(ideal))
    assert np.all(error <= 0.5 + slack + 1e-3)


@pytest.mark.parametrize(("gain", "bias"), [(1e9, 0.0), (1.0, 1e12)])
def test_affine_out_of_range(gain: float, bias: float) -> None:
    with pytest.raises(ValueError, match="Channel 1 is out of range"):
        LayerNorm.from_affine([1.0, gain], [0.0, bias], eps=1)


def test_affine_uses_all_bits() -> None:
    norm = LayerNorm.from_affine([30.0, 0.0, 1e-3], [1.0, 50.0, 0.0], eps=1)
    assert abs(int(norm.gain[0])) > GAIN.max // 2
    assert abs(int(norm.bias[1])) > BIAS.max // 2
    assert abs(int(norm.gain[2])) > GAIN.max // 2
