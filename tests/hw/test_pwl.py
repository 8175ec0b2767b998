"""hw.pwl against quant.pwl: every mantissa, and inverses of every size of argument."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from moevit.hw.lib import pwl
from moevit.quant.operators.layernorm import rsqrt
from moevit.quant.operators.pwl import RECIPROCAL, RSQRT
from moevit.quant.operators.softmax import reciprocal


def stream_through(dut, port, values, outputs):
    """Feed one value a cycle; rows of ``outputs`` for each, and the measured latency."""
    results, latency = [], None

    async def bench(ctx):
        nonlocal latency
        cycle = 0
        ctx.set(dut.valid, 1)
        while len(results) < len(values):
            ctx.set(dut.valid, int(cycle < len(values)))
            ctx.set(port, int(values[min(cycle, len(values) - 1)]))
            if ctx.get(dut.done):
                latency = cycle if latency is None else latency
                results.append([ctx.get(o) for o in outputs])
            await ctx.tick()
            cycle += 1
            assert cycle < len(values) + 100, "no result"

    m = Module()
    m.submodules.dut = dut
    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return np.array(results), latency


@pytest.mark.parametrize(
    ("table", "stride"), [(RECIPROCAL, 1), (RSQRT, 7)], ids=["reciprocal", "rsqrt"]
)
def test_every_mantissa(table, stride):
    first, end = table.first << table.frac_bits, (table.first + table.segments) << table.frac_bits
    edges = [first, end - 1, *range(first, end, 1 << table.frac_bits)]
    values = np.concatenate([edges, np.arange(first, end, stride)])
    dut = pwl.PiecewiseLinear(table)
    got, latency = stream_through(dut, dut.mantissa, values, [dut.value])
    assert latency == dut.latency
    np.testing.assert_array_equal(got[:, 0], table.compute(values))


@pytest.mark.parametrize(("table", "reference"), [(RECIPROCAL, reciprocal), (RSQRT, rsqrt)])
@pytest.mark.parametrize("width", [1, 2, 7, 15, 16, 17, 21, 33, 50])
def test_inverse(table, reference, width):
    rng = np.random.default_rng(width)
    powers = [v for k in range(width) for v in ((1 << k), (1 << k) + 1, (2 << k) - 1)]
    random = [int(rng.integers(1, 1 << int(rng.integers(1, width + 1)))) for _ in range(500)]
    values = np.array([v for v in powers + random if 0 < v < 1 << width], np.int64)
    dut = pwl.Inverse(table, width)
    got, latency = stream_through(dut, dut.i, values, [dut.value, dut.exponent])
    assert latency == dut.latency
    np.testing.assert_array_equal(got.T, np.array(reference(values)))


def test_bad_parameters():
    with pytest.raises(TypeError, match="must be a Pwl"):
        pwl.PiecewiseLinear(3)
    with pytest.raises(ValueError, match="positive integer, not 0"):
        pwl.Inverse(RSQRT, 0)
