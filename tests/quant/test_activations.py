"""Every activation function of all 65,536 pre-activations, in its own format and as int8."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, ndtr

from moevit.quant.formats import ACTIVATION, VALUE, Multiplier
from moevit.quant.operators.activations import ACTIVATIONS, FRAC, Activation, activation
from moevit.quant.operators.linear import HiddenOutput

ALL = np.arange(VALUE.min, VALUE.max + 1)
EXACT = {
    "gelu": lambda x: x * ndtr(x),
    "silu": lambda x: x * expit(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * expit(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
}


@pytest.fixture(params=ACTIVATIONS.values(), ids=ACTIVATIONS)
def function(request: pytest.FixtureRequest) -> Activation:
    return request.param


def exact(function: Activation) -> np.ndarray:
    """In steps of the integers, from float64."""
    return EXACT[function.name](ALL * function.step) / function.step


def test_floats(function: Activation) -> None:
    x = np.linspace(-150, 150, 3001, dtype=np.float32)
    got = function(x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, EXACT[function.name](x.astype(np.float64)), atol=2e-6, rtol=2e-6
    )


def test_own_format_is_within_one_step(function: Activation) -> None:
    error = np.abs(function.integer.compute(ALL) - exact(function))
    assert error.max() <= 0.5 / function.finest


def test_far_from_zero_it_is_relu(function: Activation) -> None:
    integer = function.integer
    far = np.abs(ALL) >= max((steps.stop for steps, _ in integer.tables), default=0)
    assert np.array_equal(integer.compute(ALL)[far], np.maximum(ALL[far], 0))


def test_inputs_saturate_and_integers_agree_with_arrays(function: Activation) -> None:
    compute = function.integer.compute
    assert compute(1 << 20) == VALUE.max
    assert compute(-(1 << 20)) == 0
    assert [compute(int(v)) for v in ALL[::501]] == compute(ALL[::501]).tolist()


@pytest.mark.parametrize("zero_point", [0, -100, -128])
def test_int8_is_within_one_step(function: Activation, zero_point: int) -> None:
    """Scales up to the finest: output steps for each step of the function."""
    finest = function.finest
    for scale in (*np.geomspace(0.01, finest, 40), 0.25, 0.5):
        out = Multiplier.from_scale(float(scale))
        got = HiddenOutput(out=out, zero_point=zero_point, function=function.name).compute(ALL)
        want = np.clip(exact(function) * out.scale + zero_point, ACTIVATION.min, ACTIVATION.max)
        assert np.abs(got - want).max() < 1.0


def test_names() -> None:
    assert all(name == function.name for name, function in ACTIVATIONS.items())
    with pytest.raises(ValueError, match=r"must be one of gelu, .*not 'mish'"):
        activation("mish")


def test_steps(function: Activation) -> None:
    out = HiddenOutput(out=Multiplier.from_scale(0.25), zero_point=0, function=function.name)
    assert out.scale == pytest.approx(4 / function.gain / (1 << FRAC), rel=1e-4)
