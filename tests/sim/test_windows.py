"""GEMMs over windows of a map: the interpreter does what the definition says, and no more."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.windows import Windows, window_cases

from moevit.hw.config import AcceleratorConfig, preset
from moevit.hw.isa import Destination, Gemm
from moevit.hw.registers import Error
from moevit.quant.operators.linear import Linear
from moevit.sim.engines import Bases, Engines
from moevit.sim.errors import DeviceError
from moevit.sim.memories import External, OnChip

SOURCE, TARGET = 5, 1000  # words of A; results in X begin at the same word


def engines(config: AcceleratorConfig, seed: int = 0) -> Engines:
    nowhere = Bases(program=0, image=0, output=0)
    return Engines(config, OnChip(config, seed), External(np.zeros(0, np.uint8)), nowhere)


def execute(engine: Engines, i: Gemm, linear: Linear, step: int) -> None:
    """All rows, ``step`` at a time."""
    engine.check_gemm(i)
    matrix: Any = (linear.weight, linear.bias, linear.mult, linear.shift)
    for first in range(0, i.tokens, step):
        rows = np.arange(first, min(first + step, i.tokens))
        engine.gemm_write(i, engine.gemm_targets(i, rows), engine.gemm_read(i, rows), matrix)


@settings(max_examples=100, deadline=None)
@given(
    case=window_cases(), name=st.sampled_from(("micro", "default")), step=st.sampled_from((4, 128))
)
def test_windows_of_a_map(case: Windows, name: str, step: int) -> None:
    config = preset(name)
    engine = engines(config, case.seed)
    activations, residual = engine.chip.activations, engine.chip.residual
    want_a, want_x = activations.copy(), residual.copy()
    end = SOURCE + case.height * case.width * case.words
    source = want_a[SOURCE:end].reshape(case.height, case.width, -1)
    wide = case.mode == Destination.RESIDUAL
    size = case.out_shape[0] * case.out_shape[1] * case.pixel_words(config)
    old = (want_x if wide else want_a)[TARGET : TARGET + size]
    if case.mode == Destination.ACT16:
        old = old.view("<i2")
    shape = (*case.out_shape, -1)
    old.reshape(shape)[...] = case.compute(config, source, old.reshape(shape))
    gemm = case.gemm(config, SOURCE, TARGET)
    execute(engine, gemm, case.linear(config), step)
    np.testing.assert_array_equal(activations, want_a)
    np.testing.assert_array_equal(residual, want_x)


@pytest.mark.parametrize("field", ["line", "source_line", "target_line", "span"])
@pytest.mark.parametrize(
    "fields",
    [
        {"use_queue": 1},
        {"mode": Destination.EXPERT},
        {"mode": Destination.KEY, "head_otiles": 1},
        {"mode": Destination.VALUE, "head_otiles": 1},
        {"mode": Destination.GATE, "experts": 2, "top_k": 1},
    ],
    ids=lambda fields: next(iter(fields)) + str(int(next(iter(fields.values())))),
)
def test_refused(field: str, fields: dict[str, int]) -> None:
    engine = engines(preset("micro"))
    plain = {"depth": 1, "tokens": 1, "otiles": 1, **fields}
    engine.check_gemm(Gemm(**plain))
    with pytest.raises(DeviceError, match="lines or spans") as caught:
        engine.check_gemm(Gemm(**plain, **{field: 1}))
    assert caught.value.code == Error.FIELD


@pytest.mark.parametrize("side", ["source_line", "target_line"])
def test_rows_beyond_twelve_bits(side: str) -> None:
    """Row 4,095 is the last one."""
    engine = engines(preset("micro"))
    step = {"source_line": engine.gemm_read, "target_line": engine.gemm_targets}[side]
    rows = np.arange(6)
    for pitch, wrong in ((819, False), (820, True)):
        gemm = Gemm(depth=1, tokens=6, otiles=1, line=1, **{side: pitch})
        if not wrong:
            step(gemm, rows)
            continue
        with pytest.raises(DeviceError, match="row 4100 of a map") as caught:
            step(gemm, rows)
        assert caught.value.code == Error.ADDRESS
