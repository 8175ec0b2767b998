"""cocotb bench of the compute engine: GEMMs of awkward sizes one after the other, against quant."""

from typing import Any

import cocotb
import numpy as np
from support.agents import PARAMETERS
from support.compute_bench import run_compute

from moevit.hw.config import preset
from moevit.hw.image import pack_channels
from moevit.hw.isa import ACTIVATED, Destination, Gemm, Instruction
from moevit.quant.formats import Multiplier
from moevit.quant.operators.linear import Linear, to_activation
from moevit.sim.memories import OnChip

CONFIG = preset("micro")
I, O = CONFIG.array.inputs, CONFIG.array.outputs  # noqa: E741
SOURCES = 65  # words
OUT, ZERO_POINT = Multiplier.from_scale(0.07), -90


def random_linear(rng: np.random.Generator, o: int, k: int, gain: float) -> Linear:
    """Weights over their whole range; ``gain`` makes lively values of the sums."""
    scales = [Multiplier.from_scale(gain * s) for s in rng.uniform(0.2, 1, o)]
    return Linear(
        weight=rng.integers(-127, 128, (o, k)).astype(np.int8),
        bias=rng.integers(-3000, 3000, o).astype(np.int32),
        mult=np.array([s.mult for s in scales], np.uint16),
        shift=np.array([s.shift for s in scales], np.uint8),
    )


@cocotb.test()
async def gemms(dut: Any) -> None:
    rng = np.random.default_rng(PARAMETERS["seed"])
    chip = OnChip(CONFIG, PARAMETERS["seed"])
    want_a, want_x = chip.activations.copy(), chip.residual.copy()
    code: list[Instruction] = []
    end, end_x = SOURCES, 2  # what is taken of A and X
    for tokens, depth, otiles, name in PARAMETERS["cases"]:
        mode, source = Destination[name], int(rng.integers(SOURCES - 15))
        adds = mode == Destination.RESIDUAL
        linear = random_linear(rng, otiles * O, depth * I, 0.3 if mode in ACTIVATED else 0.02)
        zero = ZERO_POINT if mode in ACTIVATED else 3
        stride = otiles if adds else -(-otiles * O // I)
        target = end_x if adds else end
        code.append(
            Gemm(source=source, stride=depth, depth=depth, tokens=tokens, otiles=otiles, mode=mode,
                 target=target, target_stride=stride, mult=OUT.mult, shift=OUT.shift,
                 zero_point=zero)
        )  # fmt: skip
        tiles = linear.weight.reshape(otiles, O, depth, I).swapaxes(1, 2)
        params = pack_channels(linear.bias, linear.mult, linear.shift)
        rows = np.ascontiguousarray(tiles).reshape(otiles * depth, -1)
        chip.ring.put(params.reshape(otiles, -1), rows.view(np.uint8))
        x = want_a[source : source + tokens * depth].reshape(tokens, -1)
        if adds:
            end_x += tokens * stride
            old = want_x[target:end_x].reshape(tokens, -1)
            old[...] = linear.add(old, x)
        else:
            end += tokens * stride
            values = linear.values(x)
            if mode in ACTIVATED:
                values = OUT.compute(ACTIVATED[mode].compute(values))
            want_a[target:end].reshape(tokens, -1)[:, : otiles * O] = to_activation(values, zero)
    a, x = await run_compute(dut, CONFIG, code, chip, a_words=end, x_words=end_x)
    np.testing.assert_array_equal(a, want_a[:end])
    np.testing.assert_array_equal(x, want_x[:end_x])
