"""hw.lib.pipeline: shifting in two stages is shifting in one, for every shift, then rounding."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator

from moevit.hw.lib.pipeline import coarse_shift, double_shift, fine_shift, round_saturate
from moevit.quant.formats import ACTIVATION, SHIFT_BITS, VALUE, QFormat, round_shift


@pytest.mark.parametrize(("bits", "form"), [(43, VALUE), (17, VALUE), (31, ACTIVATION)])
def test_two_stages(bits: int, form: QFormat) -> None:
    m = Module()
    value, shift = Signal(signed(bits)), Signal(SHIFT_BITS)
    coarse = coarse_shift(value, shift, form.width)
    once = round_saturate(m, double_shift(value, shift), form, name="once")
    twice = round_saturate(m, fine_shift(coarse, form.width), form, name="twice")
    rng = np.random.default_rng(bits)
    sizes = rng.integers(0, bits, 20)  # of as many lengths, and around powers of two
    values = [int(v) for n in sizes for v in (rng.integers(-(1 << n), 1 << n), (1 << n) - 1)]
    values += [-(1 << (bits - 1)), (1 << (bits - 1)) - 1, 0, -1]

    async def bench(ctx):
        for s in range(1 << SHIFT_BITS):
            ctx.set(shift, s)
            for v in values:
                ctx.set(value, v)
                want = int(form.saturate(round_shift(v, s)))
                assert (ctx.get(once), ctx.get(twice)) == (want, want), (v, s)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
