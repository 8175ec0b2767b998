"""hw.norm against quant.layernorm: random shapes, stalls, credits, faults and throughput."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moevit.hw.compute import norm
from moevit.hw.compute.norm_roots import longest_row
from moevit.hw.config import BEAT_BYTES, ArrayConfig, preset
from moevit.hw.image import pack_channels
from moevit.hw.interfaces import residual_word
from moevit.hw.isa import Norm
from moevit.hw.registers import Error
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.rescale import Rescale

MICRO = preset("micro")


@dataclass
class Run:
    """What a bench saw."""

    memory: dict = field(default_factory=dict)  # address -> {piece: bytes}
    write_cycles: list = field(default_factory=list)
    read_cycles: list = field(default_factory=list)
    taken: list = field(default_factory=list)
    given: list = field(default_factory=list)  # (id, count, bytes written before)
    fault: int = 0
    cycles: int = 0
    latency: Callable = None


def instruction(order):
    return {name: int(getattr(order, name)) for name in type(order).widths()}


def simulate(config, orders, x, params, *, seed=0, stall=0.0, prelude=0, limit=20000):
    """Run ``orders`` on an engine with residual words ``x`` (W, O) and parameter rows of bytes.

    ``prelude``: cycles of a first try that a reset ends.
    """
    rng = np.random.default_rng(seed)
    m = Module()
    dut, reset = norm.NormEngine(config), Signal()
    m.submodules.dut = ResetInserter(reset)(dut)
    m.submodules.x = memory = Memory(
        shape=residual_word(config),
        depth=len(x),
        init=[{n: int(v) for n, v in enumerate(row)} for row in x],
    )
    port = memory.read_port()
    m.d.comb += [
        port.en.eq(dut.residual.en),
        port.addr.eq(dut.residual.addr),
        dut.residual.data.eq(port.data),
    ]
    run = Run(latency=dut.latency)

    async def bench(ctx):
        for row, data in enumerate(params):
            for part, beat in enumerate(data.reshape(-1, BEAT_BYTES)):
                ctx.set(dut.load.valid, 1)
                ctx.set(
                    dut.load.payload,
                    {"row": row, "part": part, "data": int.from_bytes(beat.tobytes(), "little")},
                )
                await ctx.tick()
        ctx.set(dut.load.valid, 0)
        if prelude:
            ctx.set(dut.i.valid, 1)
            ctx.set(dut.i.payload, instruction(orders[0]))
            ctx.set(dut.take.ready, 1)
            ctx.set(dut.o.ready, int(rng.random() >= 0.5))
            await ctx.tick().repeat(prelude)
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
        waiting = list(orders)
        held = None
        while True:
            ctx.set(dut.i.valid, int(bool(waiting)))
            if waiting:
                ctx.set(dut.i.payload, instruction(waiting[0]))
            ctx.set(dut.o.ready, int(rng.random() >= stall))
            ctx.set(dut.take.ready, int(rng.random() >= stall))
            accepted = bool(waiting and ctx.get(dut.i.ready))
            if accepted:
                waiting.pop(0)
            if ctx.get(dut.take.valid) and ctx.get(dut.take.ready):
                run.taken.append((ctx.get(dut.take.id), ctx.get(dut.take.count)))
            if ctx.get(dut.residual.en):
                run.read_cycles.append((run.cycles, ctx.get(dut.residual.addr), len(run.taken)))
            if ctx.get(dut.give.valid):
                run.given.append(
                    (ctx.get(dut.give.id), ctx.get(dut.give.count), len(run.write_cycles))
                )
            offered = None
            if ctx.get(dut.o.valid):
                offered = ctx.get(dut.o.payload.as_value())
                if ctx.get(dut.o.ready):
                    word = run.memory.setdefault(ctx.get(dut.o.payload.addr), {})
                    data = [ctx.get(b) for b in dut.o.payload.data]
                    mask, piece = ctx.get(dut.o.payload.mask), config.piece_bytes
                    for n in range(config.array.inputs // piece):
                        if mask >> n & 1:
                            word[n] = data[n * piece : (n + 1) * piece]
                    run.write_cycles.append(run.cycles)
                    offered = None
            assert held is None or held == offered or (offered is None and ctx.get(dut.o.ready)), (
                f"the offered write changed in cycle {run.cycles}, seed {seed}"
            )
            held = offered
            run.fault = ctx.get(dut.fault)
            idle = (
                not (waiting or accepted) and not ctx.get(dut.busy) and not ctx.get(dut.give.valid)
            )
            if idle or run.cycles > limit or (run.fault and run.cycles > limit // 2):
                break
            await ctx.tick()
            run.cycles += 1

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return run


def random_norm(rng, dim, channels, spread=1 << 15):
    """A LayerNorm on ``dim`` channels, and gain, bias and shift padded to ``channels``."""
    gain, bias = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    shift = np.zeros(channels, np.int64)
    gain[:dim] = rng.integers(-(1 << 15), 1 << 15, dim)
    bias[:dim] = rng.integers(-(1 << 20), 1 << 20, dim)
    shift[:dim] = rng.integers(0, 40, dim)
    if dim > 2:
        gain[:2], bias[:2], shift[:2] = [-32768, 32767], [-(1 << 31), (1 << 31) - 1], [63, 0]
    eps = int(rng.choice([0, 1, 1 << 16, (1 << 32) - 1]))
    return (
        LayerNorm(gain=gain[:dim], bias=bias[:dim], shift=shift[:dim], eps=eps),
        gain,
        bias,
        shift,
    )


def expect(run, order, outputs, config, y):
    """``run``'s writes are those of ``order`` with result ``y`` (tokens, channels)."""
    want = {}
    groups = config.array.inputs // outputs
    pieces = outputs // config.piece_bytes
    for t in range(order.tokens):
        for ct in range(order.words):
            word = want.setdefault(order.target + t * order.stride + ct // groups, {})
            data = y[t, ct * outputs : (ct + 1) * outputs].astype(np.uint8).reshape(pieces, -1)
            for n in range(pieces):
                word[ct % groups * pieces + n] = data[n].tolist()
    assert run.memory == want


def make_case(rng, config, *, dim, tokens, amplitude, plain=False, **fields):
    outputs = config.array.outputs
    words = -(-dim // outputs)
    layer, gain, bias, shift = random_norm(rng, dim, words * outputs)
    source, params = int(rng.integers(0, 50)), int(rng.integers(0, 10))
    x = np.zeros((source + tokens * words, outputs), np.int64)
    values = rng.integers(-amplitude, amplitude, (tokens, dim))
    values[0] = rng.choice([-32768, 32767], dim)  # largest sums
    if tokens > 1:
        values[1] = rng.integers(-5, 5)  # no variance
    padded = np.zeros((tokens, words * outputs), np.int64)
    padded[:, :dim] = values
    x[source:] = padded.reshape(-1, outputs)
    rows = np.zeros((params + words, outputs * 8), np.uint8)
    rows[params:] = pack_channels(bias, gain, shift).reshape(words, -1)
    y = np.zeros_like(padded)
    if plain:
        layer = Rescale(gain=layer.gain, bias=layer.bias, shift=layer.shift)
    y[:, :dim] = layer.compute(values)
    stride = -(-words * outputs // config.array.inputs)
    fields = {"target": int(rng.integers(0, 100)), "stride": stride} | fields
    fields |= {"plain": 1} if plain else {"eps": layer.eps}
    order = Norm(source=source, words=words, tokens=tokens, params=params, dim=dim, **fields)
    return order, x, rows, y


SHAPES = {
    "micro": MICRO,
    "eight groups": MICRO.but(
        array=ArrayConfig(tokens=4, inputs=32, outputs=4), limits__depth=256, memory__ports=2
    ),
    "wide": preset("default").but(limits__depth=160, memory__norm_rows=40),
    "wider": MICRO.but(
        array=ArrayConfig(tokens=8, inputs=32, outputs=16), limits__depth=192, memory__ports=2
    ),
}


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking simulations takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    dim=st.integers(1, 90),
    tokens=st.integers(1, 9),
    stall=st.sampled_from([0.0, 0.3, 0.8]),
    up_front=st.booleans(),
    prelude=st.sampled_from([0, 30, 60]),
    plain=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
def test_against_reference(shape, dim, tokens, stall, up_front, prelude, plain, seed):
    rng, config = np.random.default_rng(seed), SHAPES[shape]
    tile = config.array.tokens
    order, x, rows, y = make_case(
        rng,
        config,
        dim=dim,
        tokens=tokens,
        amplitude=int(rng.choice([2, 300, 32768])),
        plain=plain,
        wait=3,
        signal=5,
        wait_count=7 if up_front else 0,
    )
    run = simulate(config, [order], x, rows, seed=seed, stall=stall, prelude=prelude)
    assert run.fault == 0
    expect(run, order, config.array.outputs, config, y)

    tiles = -(-tokens // tile)
    assert run.taken == ([(3, 7)] if up_front else [(3, 1)] * tiles)
    addresses = [a for _, a, _ in run.read_cycles]
    assert addresses == list(range(order.source, order.source + tokens * order.words))
    for n, (_, _, taken) in enumerate(run.read_cycles):
        needed = 1 if up_front else n // (tile * order.words) + 1
        assert taken >= needed, f"word {n} was read with {taken} credits"
    ends = [min(tokens, (n + 1) * tile) * order.words for n in range(tiles)]
    assert [g[:2] for g in run.given] == [(5, 1)] * tiles
    assert all(written >= end for (_, _, written), end in zip(run.given, ends, strict=True))


def test_largest_dim_and_two_instructions():
    """1023 channels of the largest magnitude; a second instruction follows at once."""
    config = MICRO.but(limits__depth=1024, memory__norm_rows=300)
    rng = np.random.default_rng(4)
    order, x, rows, y = make_case(
        rng, config, dim=1023, tokens=3, amplitude=32768, target=8, stride=200
    )
    again = Norm(
        **{n: getattr(order, n) for n in Norm.widths() if n != "opcode"} | {"target": 2000}
    )
    run = simulate(config, [order, again], x, rows)
    low = Run(memory={a: d for a, d in run.memory.items() if a < 2000})
    high = Run(memory={a: d for a, d in run.memory.items() if a >= 2000})
    expect(low, order, 4, config, y)
    expect(high, again, 4, config, y)
    assert run.taken == [(0, 1)] * 4 and not run.given


@pytest.mark.parametrize(("name", "dim"), [("wide", 96), ("wide", 32), ("micro", 250)])
def test_throughput(name, dim):
    """A word a cycle over many tokens, both where tokens are short and where they fill the ring."""
    config, rng = SHAPES[name], np.random.default_rng(1)
    order, x, rows, y = make_case(rng, config, dim=dim, tokens=24, amplitude=3000)
    run = simulate(config, [order], x, rows)
    expect(run, order, config.array.outputs, config, y)
    assert run.write_cycles[-1] - run.write_cycles[0] == 24 * order.words - 1


def test_latency():
    config, rng = MICRO, np.random.default_rng(1)
    for dim in (4, 64):
        order, x, rows, _ = make_case(rng, config, dim=dim, tokens=1, amplitude=3000)
        run = simulate(config, [order], x, rows)
        assert run.write_cycles[0] == run.latency(order.words)


@pytest.mark.parametrize(
    ("changes", "error", "reads", "writes"),
    [
        ({"tokens": 0}, Error.FIELD, 0, 0),
        ({"words": 0}, Error.FIELD, 0, 0),
        ({"words": longest_row(MICRO) + 1}, Error.FIELD, 0, 0),
        ({"dim": 0}, Error.FIELD, 0, 0),
        ({"dim": 1024}, Error.FIELD, 0, 0),
        ({"params": 127}, Error.ADDRESS, 0, 0),
        ({"source": MICRO.memory.residual_words - 9}, Error.ADDRESS, 9, 9),
        ({"target": MICRO.memory.activation_words - 1}, Error.ADDRESS, 12, 2),
        ({"target": (1 << 20) - 1, "stride": 4095}, Error.ADDRESS, 12, 0),
    ],
)
def test_faults(changes, error, reads, writes):
    fields = {"words": 3, "tokens": 4, "stride": 2, "dim": 12, "eps": 5}
    order = Norm(**fields | changes)
    x = np.zeros((MICRO.memory.residual_words, 4), np.int64)
    run = simulate(MICRO, [order], x, np.zeros((0, 32), np.uint8), limit=400)
    assert run.fault == error
    assert (len(run.read_cycles), len(run.write_cycles)) == (reads, writes)
