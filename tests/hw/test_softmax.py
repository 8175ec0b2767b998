"""hw.softmax against quant.softmax: awkward key counts, stalls on all sides, throughput."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.sim import Simulator
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moevit.hw.compute import softmax
from moevit.hw.config import ArrayConfig, preset
from moevit.quant.formats import ACCUMULATOR, SHIFT_BITS, Multiplier
from moevit.quant.operators.softmax import Softmax

MICRO = preset("micro")
SHAPES = {
    "micro": MICRO,
    "default": preset("default").but(limits__tokens=40),
    "eight tokens": MICRO.but(array=ArrayConfig(tokens=8, inputs=16, outputs=8), limits__tokens=24),
    "eight groups": MICRO.but(
        array=ArrayConfig(tokens=4, inputs=32, outputs=4), memory__ports=2, limits__depth=256
    ),
}


@dataclass
class Query:
    """One query tile: sums (T, keys) and its parameters."""

    acc: np.ndarray
    softmax: Softmax


@dataclass
class Run:
    """What a bench saw, for each query tile."""

    weights: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    accepted: list = field(default_factory=list)  # cycle of each key tile
    ready: list = field(default_factory=list)  # cycle of each completion
    cycles: int = 0
    latency: int = 0


def simulate(config, queries, *, seed=0, gap=0.0, lazy=0.0, stall=0.0, prelude=0, limit=20000):
    """``gap``, ``lazy``, ``stall``: how often i pauses, the array waits to read, rows waits.

    ``prelude``: cycles of a first try that a reset ends.
    """
    rng = np.random.default_rng(seed)
    a = config.array
    m = Module()
    dut, reset = softmax.Softmax(config), Signal()
    m.submodules.dut = ResetInserter(reset)(dut)
    begun = []
    run = Run(latency=dut.latency)

    def key_tiles():
        for query in queries:
            keys = query.acc.shape[1]
            for start in range(0, keys, a.outputs):
                acc = rng.integers(ACCUMULATOR.min, ACCUMULATOR.max, (a.tokens, a.outputs))
                part = query.acc[:, start : start + a.outputs]
                acc[:, : part.shape[1]] = part  # keys beyond the last are garbage
                yield {
                    "acc": acc.tolist(),
                    "tile": {
                        "last": int(start + a.outputs >= keys),
                        "valid": part.shape[1],
                        "mult": query.softmax.score.mult,
                        "shift": query.softmax.score.shift,
                        "out_mult": query.softmax.out.mult,
                        "out_shift": query.softmax.out.shift,
                    },
                }

    async def source(ctx):
        for n, payload in enumerate(key_tiles() if prelude else ()):
            ctx.set(dut.i.payload, payload)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().repeat(a.tokens // 2)
            if n * a.tokens // 2 > prelude:
                break
        ctx.set(dut.i.valid, 0)
        ctx.set(reset, int(prelude > 0))
        await ctx.tick()
        ctx.set(reset, 0)
        begun.append(True)
        for payload in key_tiles():
            while rng.random() < gap:
                await ctx.tick()
            ctx.set(dut.i.payload, payload)
            ctx.set(dut.i.valid, 1)
            while not ctx.get(dut.i.ready):
                await ctx.tick()
            run.accepted.append(run.cycles)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)

    async def array(ctx):
        half = 0
        while not begun:
            await ctx.tick()
        for query in queries:
            while not ctx.get(dut.weights.ready):
                await ctx.tick()
            assert ctx.get(dut.weights.half) == half
            assert ctx.get(dut.busy)
            while rng.random() < lazy:
                await ctx.tick()
            data = []
            count = -(-query.acc.shape[1] // a.inputs)
            for word in range(count):
                ctx.set(dut.weights.en, 1)
                ctx.set(dut.weights.addr, {"half": half, "word": word})
                ctx.set(dut.weights.release, int(word == count - 1))
                await ctx.tick()
                raw = ctx.get(dut.weights.data).to_bytes(a.tokens * a.inputs, "little")
                data.append(np.frombuffer(raw, np.uint8).reshape(a.tokens, a.inputs))
            ctx.set(dut.weights.en, 0)
            ctx.set(dut.weights.release, 0)
            run.weights.append(np.concatenate(data, axis=1))
            half ^= 1

    async def rows(ctx):
        while not begun:
            await ctx.tick()
        for _ in queries:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.rows.ready, 1)
            while not ctx.get(dut.rows.valid):
                await ctx.tick()
            run.rows.append([(ctx.get(r.mult), ctx.get(r.shift)) for r in dut.rows.payload])
            await ctx.tick()
            ctx.set(dut.rows.ready, 0)

    async def clock(ctx):
        complete = 0
        while not begun:
            await ctx.tick()
            run.cycles += 1
        while len(run.rows) < len(queries) or len(run.weights) < len(queries):
            if ctx.get(dut.weights.ready) > complete:
                run.ready.append(run.cycles)
            complete = ctx.get(dut.weights.ready)
            await ctx.tick()
            run.cycles += 1
            assert run.cycles < limit, "the unit hangs"
        for _ in range(3):
            await ctx.tick()
        assert not ctx.get(dut.busy)

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(clock)
    for bench in (source, array, rows):
        sim.add_testbench(bench, background=True)
    sim.run()
    return run


def expect(run, config, queries):
    for n, (query, weights, rows) in enumerate(zip(queries, run.weights, run.rows, strict=True)):
        keys = query.acc.shape[1]
        p = query.softmax.weights(query.softmax.scores(query.acc))
        np.testing.assert_array_equal(weights[:, :keys], p, f"query tile {n}")
        assert not weights[:, keys:].any(), f"padding of query tile {n}"
        mult, shift = query.softmax.row(p.sum(axis=1))
        shift = np.minimum(shift, (1 << SHIFT_BITS) - 1)
        np.testing.assert_array_equal(rows, np.stack([mult, shift], axis=1), f"query tile {n}")


def random_query(rng, config, keys):
    score = Multiplier(
        mult=int(rng.integers(1 << 16)), shift=int(rng.choice([0, 1, 9, 16, 24, 63]))
    )
    out = Multiplier(mult=int(rng.integers(1 << 15, 1 << 16)), shift=int(rng.integers(64)))
    reach = min(int(rng.choice([1, 100, 1 << 26])), ACCUMULATOR.max)
    acc = rng.integers(-reach, reach + 1, (config.array.tokens, keys))
    if rng.random() < 0.3:
        acc[0] = rng.choice([ACCUMULATOR.min, ACCUMULATOR.max], keys)
    return Query(acc=acc, softmax=Softmax(score=score, out=out))


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking simulations takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    gap=st.sampled_from([0.0, 0.4, 0.9]),
    lazy=st.sampled_from([0.0, 0.5, 0.95]),
    stall=st.sampled_from([0.0, 0.5, 0.98]),
    same=st.booleans(),
    prelude=st.sampled_from([0, 20, 60]),
    seed=st.integers(0, 1 << 20),
)
def test_against_reference(shape, gap, lazy, stall, same, prelude, seed):
    config, rng = SHAPES[shape], np.random.default_rng(seed)
    limit = config.limits.tokens
    keys = [int(rng.choice([1, 2, limit, rng.integers(1, limit + 1)])) for _ in range(7)]
    if same:
        keys = keys[:1] * 7
    queries = [random_query(rng, config, n) for n in keys]
    run = simulate(config, queries, seed=seed, gap=gap, lazy=lazy, stall=stall, prelude=prelude)
    expect(run, config, queries)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_throughput(shape):
    """Key tiles enter at full rate, query tile after query tile, where they hide the latency."""
    config, rng = SHAPES[shape].but(limits__tokens=100), np.random.default_rng(2)
    keys = config.limits.tokens - 3
    queries = [random_query(rng, config, keys) for _ in range(6)]
    run = simulate(config, queries)
    expect(run, config, queries)
    a = config.array
    tiles = -(-keys // a.outputs)
    assert run.accepted[-1] - run.accepted[0] == (6 * tiles - 1) * a.tokens // 2


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_latency(shape):
    config, rng = SHAPES[shape], np.random.default_rng(3)
    keys = config.limits.tokens
    run = simulate(config, [random_query(rng, config, keys)])
    a = config.array
    own = -(-keys // a.outputs) * a.tokens // 2
    assert run.ready[0] - run.accepted[-1] - own == run.latency
