"""The typed queue against `collections.deque`."""

import random
from collections import deque

import pytest
from amaranth.hdl import signed, unsigned
from amaranth.lib.data import StructLayout
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.hw.lib import fifo

PAYLOAD = StructLayout({"low": signed(9), "high": unsigned(70)})


def simulate(dut, test):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(test)
    sim.run()


@settings(max_examples=12, deadline=None)
@given(
    depth=st.integers(1, 9),
    seed=st.integers(0, 1 << 30),
    push=st.sampled_from([0.2, 0.7, 1.0]),
    pop=st.sampled_from([0.2, 0.7, 1.0]),
)
def test_order_and_room(depth, seed, push, pop):
    dut, rng = fifo.MemoryFifo(PAYLOAD, depth=depth), random.Random(seed)
    model: deque = deque()

    async def test(ctx):
        for _ in range(200):
            valid, ready, clear = rng.random() < push, rng.random() < pop, rng.random() < 0.01
            payload = {"low": rng.randint(-256, 255), "high": rng.getrandbits(70)}
            ctx.set(dut.i.payload, payload)
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.o.ready, ready)
            ctx.set(dut.clear, clear)
            assert ctx.get(dut.empty) == (not model)
            assert ctx.get(dut.i.ready) or len(model) >= depth
            assert not ctx.get(dut.i.ready) or len(model) <= depth
            if ctx.get(dut.o.valid):
                head = ctx.get(dut.o.payload)
                assert {"low": head.low, "high": head.high} == model[0]
                if ready:
                    model.popleft()
            if valid and ctx.get(dut.i.ready):
                model.append(payload)
            if clear:
                model.clear()
            await ctx.tick()

    simulate(dut, test)


def test_latency_and_throughput():
    dut, out = fifo.MemoryFifo(unsigned(8), depth=4), []

    async def test(ctx):
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for i in range(20):
            ctx.set(dut.i.payload, i)
            assert ctx.get(dut.i.ready)
            if ctx.get(dut.o.valid):
                out.append(ctx.get(dut.o.payload))
            await ctx.tick()

    simulate(dut, test)
    assert out == list(range(20 - fifo.MemoryFifo.latency))


@pytest.mark.parametrize("depth", [0, -1, 2.0, True])
def test_bad_depth(depth):
    with pytest.raises(ValueError, match="positive integer"):
        fifo.MemoryFifo(unsigned(8), depth=depth)


def test_bad_payload():
    with pytest.raises(ValueError, match="at least one bit"):
        fifo.MemoryFifo(unsigned(0), depth=2)
