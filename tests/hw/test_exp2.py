"""hw.exp2 against quant.exp2: every distance that 16 bits hold."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from moevit.hw.lib import exp2
from moevit.quant.operators.exp2 import GATE_EXP, SOFTMAX_EXP, Exp2

LANES = 16


@pytest.mark.parametrize(
    "exp",
    [SOFTMAX_EXP, GATE_EXP, Exp2(peak=255, guard=0)],
    ids=["softmax", "gate", "no guard bits"],
)
def test_every_distance(exp):
    dut = exp2.Exp2Lanes(exp, count=LANES)
    distances = np.random.default_rng(1).permutation(1 << 16).reshape(-1, LANES)
    got, start = [], None

    async def bench(ctx):
        nonlocal start
        for cycle in range(len(distances) + dut.latency):
            ctx.set(dut.valid, int(cycle < len(distances)))
            if cycle < len(distances):
                ctx.set(dut.i, [int(d) for d in distances[cycle]])
            if ctx.get(dut.done):
                start = cycle if start is None else start
                got.append([int(v) for v in ctx.get(dut.o)])
            await ctx.tick()

    m = Module()
    m.submodules.dut = dut
    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert start == dut.latency
    np.testing.assert_array_equal(np.array(got), exp.compute(distances))


def test_bad_parameters():
    with pytest.raises(TypeError, match="must be an Exp2"):
        exp2.Exp2Lanes(None)
    with pytest.raises(ValueError, match="positive integer, not 0"):
        exp2.Exp2Lanes(GATE_EXP, count=0)
