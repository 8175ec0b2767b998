"""GELU of all 65,536 pre-activations, in its own format and as int8."""

import numpy as np
import pytest
from scipy.special import ndtr

from moevit.quant.formats import ACTIVATION, VALUE, Multiplier
from moevit.quant.operators.gelu import GELU
from moevit.quant.operators.linear import GeluOutput

ALL = np.arange(VALUE.min, VALUE.max + 1)
X = ALL / (1 << GELU.frac)
EXACT = X * ndtr(X)  # erf form


def test_own_format_is_within_one_step() -> None:
    error = np.abs(GELU.compute(ALL) - EXACT * (1 << GELU.frac))
    assert error.max() < 0.68
    assert GELU.compute(ALL).min() >= -(1 << GELU.entry_bits)


def test_tails_are_exact() -> None:
    far = np.abs(ALL) >= len(GELU.table) << GELU.step_bits
    assert np.array_equal(GELU.compute(ALL)[far], np.maximum(ALL[far], 0))


def test_inputs_saturate_and_integers_agree_with_arrays() -> None:
    assert GELU.compute(1 << 20) == VALUE.max
    assert GELU.compute(-(1 << 20)) == 0
    assert [GELU.compute(int(v)) for v in ALL[::501]] == GELU.compute(ALL[::501]).tolist()


@pytest.mark.parametrize("zero_point", [0, -100, -128])
@pytest.mark.parametrize("scale", [*np.geomspace(0.01, 0.73, 60), 0.25, 0.5, 1.0])
def test_int8_is_within_one_step(scale: float, zero_point: int) -> None:
    """``scale``: output steps for each 1/256 of GELU, so a step is at least 1/187 (or 1/256)."""
    out = Multiplier.from_scale(float(scale))
    got = GeluOutput(out=out, zero_point=zero_point).compute(ALL)
    exact = EXACT * (1 << GELU.frac) * out.scale + zero_point
    assert np.abs(got - np.clip(exact, ACTIVATION.min, ACTIVATION.max)).max() < 1.0
