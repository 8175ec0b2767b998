"""Rescaled residual stream: within half a step of the affine it stands for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.quant.formats import ACTIVATION
from moevit.quant.operators.rescale import Rescale


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1 << 32), st.floats(-4, 4))
def test_nearest_code(dim: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    spread = 300 * 10 ** rng.uniform(-2, 2, dim)  # of the residual, channel by channel
    step = 40 / spread * rng.choice([-1, 1], dim)
    bias = rng.normal(0, 10**size, dim)
    x = np.clip(np.round(rng.normal(0, spread, (20, dim))), -32768, 32767)
    exact = x * step + bias
    rescale = Rescale.from_affine(step, bias)
    error = np.abs(rescale.compute(x) - np.clip(exact, ACTIVATION.min, ACTIVATION.max))
    # Rounding of the result, and of gain and bias to multiples of 2**-shift.
    bound = 0.5 + (np.abs(x) + 1) * 0.5 / 2.0**rescale.shift
    assert np.all(error <= bound + 1e-9)
    assert bound.max() < 1.01


def test_extremes_saturate() -> None:
    rescale = Rescale.from_affine([1.0, -1.0, 0.0], [0.0, 0.0, 5.0])
    got = rescale.compute(np.array([[-32768, -32768, 32767], [127, 127, 0]]))
    assert got.tolist() == [[ACTIVATION.min, ACTIVATION.max, 5], [127, -127, 5]]


def test_a_gain_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="Channel 1 is out of range"):
        Rescale.from_affine([1.0, 40000.0], [0.0, 0.0])
