"""The exponential of every distance between two 16-bit logits."""

import numpy as np
import pytest

from moevit.quant.formats import LOGIT
from moevit.quant.operators.exp2 import GATE_EXP, SOFTMAX_EXP, Exp2

ALL = np.arange(LOGIT.max - LOGIT.min + 1)


@pytest.mark.parametrize("exp", [SOFTMAX_EXP, GATE_EXP], ids=["softmax", "gate"])
def test_every_distance_is_within_one_step(exp: Exp2) -> None:
    out = exp.compute(ALL)
    exact = exp.peak * 2.0 ** (-ALL / (1 << exp.frac))
    assert np.abs(out - exact).max() < 0.65  # half a step, and half a guard step
    assert out[0] == exp.peak
    assert np.all(np.diff(out) <= 0)


def test_far_distances_vanish() -> None:
    assert SOFTMAX_EXP.compute(12 << LOGIT.frac) == 0
    assert GATE_EXP.compute(1 << 40) == 0


def test_table_width() -> None:
    assert SOFTMAX_EXP.table_bits == 11
    assert len(SOFTMAX_EXP.table) == 1 << LOGIT.frac
    assert GATE_EXP.table_bits == 17


def test_negative_distance() -> None:
    with pytest.raises(ValueError, match="Distance must not be negative: -1"):
        SOFTMAX_EXP.compute(-1)
