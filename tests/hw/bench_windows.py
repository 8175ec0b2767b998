"""cocotb bench of the compute engine: windows of maps, against arrays and the interpreter."""

from typing import Any

import cocotb
import numpy as np
from support.agents import PARAMETERS
from support.compute_bench import execute, run_compute
from support.windows import Windows

from moevit.hw.config import preset
from moevit.hw.image import pack_channels
from moevit.hw.isa import Destination, Instruction
from moevit.sim.memories import OnChip

CONFIG = preset("micro")
SOURCE = 3  # every map is here; the results lie behind the largest, one after the other
MAP = 7 * 9 * 3


@cocotb.test()
async def windows(dut: Any) -> None:
    cases = [Windows.from_dict(case) for case in PARAMETERS["cases"]]
    chip = OnChip(CONFIG, PARAMETERS["seed"])
    want_a, want_x = chip.activations.copy(), chip.residual.copy()
    code: list[Instruction] = []
    ends = {False: SOURCE + MAP, True: 1}  # of A and of X
    for case in cases:
        wide = case.mode == Destination.RESIDUAL
        target, rows = ends[wide], case.out_shape[0] * case.out_shape[1]
        end = target + rows * case.pixel_words(CONFIG)
        if end > len(want_x if wide else want_a):
            continue
        ends[wide] = end
        code.append(case.gemm(CONFIG, SOURCE, target))
        linear = case.linear(CONFIG)
        o, i = CONFIG.array.outputs, CONFIG.array.inputs
        tiles = linear.weight.reshape(case.otiles, o, case.depth, i).swapaxes(1, 2)
        params = pack_channels(linear.bias, linear.mult, linear.shift)
        weights = np.ascontiguousarray(tiles).reshape(case.otiles * case.depth, -1)
        chip.ring.put(params.reshape(case.otiles, -1), weights.view(np.uint8))
        source = want_a[SOURCE : SOURCE + case.height * case.width * case.words]
        old = (want_x if wide else want_a)[target:end]
        if case.mode == Destination.ACT16:
            old = old.view("<i2")
        old, source = (
            old.reshape(*case.out_shape, -1),
            source.reshape(case.height, case.width, -1),
        )
        old[...] = case.compute(CONFIG, source, old)
    a, x = await run_compute(dut, CONFIG, code, chip, a_words=ends[False], x_words=ends[True])
    np.testing.assert_array_equal(a, want_a[: ends[False]])
    np.testing.assert_array_equal(x, want_x[: ends[True]])
    execute(CONFIG, code, chip)
    np.testing.assert_array_equal(chip.activations, want_a)
    np.testing.assert_array_equal(chip.residual, want_x)
