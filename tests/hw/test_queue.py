"""The small queue against `collections.deque`, cycle by cycle."""

import random
from collections import deque

import pytest
from amaranth.hdl import signed, unsigned
from amaranth.lib.data import StructLayout
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.hw.lib.queue import SmallFifo

PAYLOAD = StructLayout({"low": signed(9), "high": unsigned(70)})


@settings(max_examples=12, deadline=None)
@given(
    depth=st.integers(1, 9),
    seed=st.integers(0, 1 << 30),
    push=st.sampled_from([0.2, 0.7, 1.0]),
    pop=st.sampled_from([0.2, 0.7, 1.0]),
)
def test_every_cycle(depth, seed, push, pop):
    """A payload is offered in the cycle after it came, in order, and all ``depth`` places serve."""
    dut, rng = SmallFifo(PAYLOAD, depth), random.Random(seed)
    model: deque = deque()

    async def test(ctx):
        for _ in range(200):
            valid, ready = rng.random() < push, rng.random() < pop
            payload = {"low": rng.randint(-256, 255), "high": rng.getrandbits(70)}
            ctx.set(dut.i.payload, payload)
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.o.ready, ready)
            assert ctx.get(dut.i.ready) == (len(model) < depth)
            assert ctx.get(dut.o.valid) == bool(model)
            room = len(model) < depth
            if model:
                head = ctx.get(dut.o.payload)
                assert {"low": head.low, "high": head.high} == model[0]
                if ready:
                    model.popleft()
            if valid and room:
                model.append(payload)
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(test)
    sim.run()


@pytest.mark.parametrize("depth", [0, -1, 2.0])
def test_bad_depth(depth):
    with pytest.raises(ValueError, match="positive integer"):
        SmallFifo(unsigned(8), depth)
