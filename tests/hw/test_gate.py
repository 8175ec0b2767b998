"""hw.gate against quant.gate: ties, all sizes of k, stalls, several GEMMs, throughput."""

from dataclasses import asdict, dataclass, field

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.sim import Simulator
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moevit.hw.compute import gate
from moevit.hw.config import ArrayConfig, LimitConfig, preset
from moevit.quant.dial import AS_COMPILED, NEVER, Dial
from moevit.quant.formats import LOGIT, SCORE
from moevit.quant.operators.gate import Gate

MICRO = preset("micro")


def limits(experts):
    return LimitConfig(tokens=40, depth=48, experts=experts, top_k=min(experts, 8))


SHAPES = {
    "micro": MICRO.but(limits=limits(8)),
    "default": preset("default").but(limits=limits(16)),
    "eleven": MICRO.but(
        array=ArrayConfig(tokens=4, inputs=16, outputs=8), limits=limits(11), memory__ports=2
    ),
    "one": MICRO.but(limits=limits(1)),
    "eight slots": MICRO.but(
        array=ArrayConfig(tokens=8, inputs=16, outputs=8), limits=limits(6), memory__ports=2
    ),
}


@dataclass
class Run:
    """What a bench saw."""

    queues: list = field(default_factory=list)  # of each GEMM: for each expert its entries
    accepted: list = field(default_factory=list)  # cycle of each token's last row
    pushes: list = field(default_factory=list)  # cycles in which lengths grew
    sent: list = None
    cycles: int = 0
    latency: int = 0


def gate_rows(config, logits, k, base=0, least=0, renormalise=0, enough=0):
    """The rows of one GEMM as the epilogue sends them; experts that are not there are garbage."""
    a = config.array
    n, experts = logits.shape
    otiles = -(-experts // a.outputs)
    padded = np.full((n, otiles * a.outputs), LOGIT.max)
    padded[:, :experts] = logits
    for start in range(0, n, a.tokens):
        stop = min(n, start + a.tokens)
        for otile in range(otiles):
            for t in range(start, stop):
                yield {
                    "token": t,
                    "slot": t - start,
                    "otile": otile,
                    "last": int(otile == otiles - 1),
                    "first": int(t == 0 and otile == 0),
                    "end": int(t == n - 1 and otile == otiles - 1),
                    "experts": experts,
                    "top_k": k,
                    "base": base,
                    "least": least,
                    "enough": enough,
                    "renormalise": renormalise,
                    "logits": padded[t, otile * a.outputs : (otile + 1) * a.outputs].tolist(),
                }


def simulate(config, gemms, *, seed=0, gap=0.0, prelude=0, limit=20000, dial=AS_COMPILED):
    """``gemms``: arguments of :func:`gate_rows` one after the other, each read back before the
    next is sent.

    ``prelude``: rows of a first try that a reset ends. ``dial``: of the whole frame.
    """
    rng = np.random.default_rng(seed)
    m = Module()
    dut, reset = gate.Gate(config), Signal()
    m.submodules.dut = ResetInserter(reset)(dut)
    run = Run(latency=dut.latency)
    experts = config.limits.experts

    async def step(ctx):
        before = sum(ctx.get(n) for n in dut.lengths)
        await ctx.tick()
        run.cycles += 1
        if sum(ctx.get(n) for n in dut.lengths) > before:
            run.pushes.append(run.cycles)
        assert run.cycles < limit, "the unit hangs"

    async def bench(ctx):
        ctx.set(dut.dial, asdict(dial))
        for n, row in enumerate(gate_rows(config, *gemms[0])):
            if n == prelude:
                break
            ctx.set(dut.i.payload, row)
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        ctx.set(reset, int(prelude > 0))
        await ctx.tick()
        ctx.set(reset, 0)
        for gemm in gemms:
            for row in gate_rows(config, *gemm):
                while rng.random() < gap:
                    await step(ctx)
                ctx.set(dut.i.payload, row)
                ctx.set(dut.i.valid, 1)
                while not ctx.get(dut.i.ready):
                    await step(ctx)
                if row["last"]:
                    run.accepted.append(run.cycles)
                assert not ctx.get(dut.done)
                await step(ctx)
                ctx.set(dut.i.valid, 0)
                assert ctx.get(dut.busy)
            while not ctx.get(dut.done):
                await step(ctx)
            queues = []
            for e in range(experts):
                queue = []
                for slot in range(ctx.get(dut.lengths[e])):
                    ctx.set(dut.queue.en, 1)
                    ctx.set(dut.queue.addr, {"slot": slot, "expert": e})
                    await step(ctx)
                    data = dut.queue.data
                    queue.append((ctx.get(data.token), ctx.get(data.score)))
                queues.append(queue)
            run.queues.append(queues)
            ctx.set(dut.queue.en, 0)
            await step(ctx)
            assert not ctx.get(dut.done) and not ctx.get(dut.busy)
        run.sent = [ctx.get(n) for n in dut.tokens_sent]
        ctx.set(dut.clear, 1)
        await step(ctx)
        assert not any(ctx.get(n) for n in dut.tokens_sent)

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return run


def expect(run, config, gemms, dial=AS_COMPILED):
    sent = np.zeros(config.limits.experts, int)
    for n, ((logits, k, *rest), queues) in enumerate(zip(gemms, run.queues, strict=True)):
        experts = logits.shape[1]
        base, least, renormalise, enough = (*rest, *[0] * 4)[:4]
        gate = Gate(
            experts=experts, k=k, least=least, renormalise=bool(renormalise), enough=enough
        ).dialled(dial)
        want = [[] for _ in range(base)] + gate.queues(logits)
        want += [[] for _ in range(config.limits.experts - len(want))]
        assert queues == want, f"GEMM {n}"
        sent += [len(queue) for queue in want]
    assert run.sent == sent.tolist()


def random_gemm(rng, config):
    experts = int(rng.integers(1, config.limits.experts + 1))
    k = int(rng.integers(1, min(experts, config.limits.top_k) + 1))
    tokens = int(rng.integers(1, config.limits.tokens + 1))
    reach = int(rng.choice([1, 3, 600, 32767]))  # small ones tie often
    logits = rng.integers(-reach - 1, reach + 1, (tokens, experts))
    if rng.random() < 0.2:
        logits[:] = rng.choice([LOGIT.min, LOGIT.max], logits.shape)
    if rng.random() < 0.2:
        logits[:, 0] = LOGIT.max  # everyone to one expert
    base = int(rng.integers(0, config.limits.experts - experts + 1))
    least = int(rng.choice([0, 1, rng.integers(1, 1 << 15), SCORE.max]))
    return logits, k, base, least, int(rng.integers(2)), random_enough(rng)


def random_enough(rng):
    """Nothing in one of three; else some sum, often one that the first score reaches or no sum."""
    return int(rng.choice([0, rng.integers(1, 1 << 15), rng.choice([1, 32767, 32768, NEVER])]))


def random_dial(rng):
    """A frame's limits; often none."""
    if rng.random() < 0.3:
        return AS_COMPILED
    return Dial(
        top_k=int(rng.integers(0, 16)),
        least=int(rng.choice([0, rng.integers(1 << 15)])),
        enough=random_enough(rng),
    )


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking simulations takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    gap=st.sampled_from([0.0, 0.3, 0.9]),
    prelude=st.sampled_from([0, 3, 50]),
    seed=st.integers(0, 1 << 20),
)
def test_against_reference(shape, gap, prelude, seed):
    config, rng = SHAPES[shape], np.random.default_rng(seed)
    gemms, dial = [random_gemm(rng, config) for _ in range(2)], random_dial(rng)
    run = simulate(config, gemms, seed=seed, gap=gap, prelude=prelude, dial=dial)
    expect(run, config, gemms, dial)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_throughput(k):
    """A token every k cycles; with two output tiles rows bound it, two cycles a token."""
    config, rng = SHAPES["default"], np.random.default_rng(1)
    for experts, floor in ((8, 1), (16, 2)):
        gemms = [(rng.integers(-999, 999, (40, experts)), k)]
        run = simulate(config, gemms)
        expect(run, config, gemms)
        span = run.pushes[-1] - run.pushes[0]
        assert span <= 40 * max(k, floor) + 10


def test_dropping_every_choice_still_ends():
    """The threshold empties all queues; the GEMM before left something in them."""
    config, rng = SHAPES["default"], np.random.default_rng(2)
    logits = rng.integers(-9, 9, (7, 16))
    gemms = [(logits, 2), (logits, 2, 0, SCORE.max, 0), (logits, 2)]
    run = simulate(config, gemms)
    assert not any(run.queues[1])
    expect(run, config, gemms)


def test_sums_begin_with_each_token():
    """Sums that are reached, just missed and never reached; the dial against the router."""
    config = SHAPES["default"]
    logits = np.tile([0, 0, 0, 0], (9, 1)) + np.arange(9)[:, None] % 3 * [0, 0, 50, 200]
    scores = Gate(experts=4, k=4).compute(logits)[1]
    for total in (int(scores[0, :2].sum()), int(scores[1, :3].sum())):
        gemms = [(logits, 4, 0, 0, 0, total + by) for by in (-1, 0, 1)]
        expect(simulate(config, gemms), config, gemms)
        gemms = [(logits, 4, 0, 0, 0, asked) for asked in (0, total - 1, total + 1)]
        for dial in (Dial(enough=total), Dial(enough=total, top_k=2), Dial(least=9000, top_k=9)):
            expect(simulate(config, gemms, dial=dial), config, gemms, dial)


def test_latency():
    config = SHAPES["default"]
    run = simulate(config, [(np.arange(16).reshape(1, 16), 1)])
    assert run.pushes[0] - run.accepted[0] == run.latency
