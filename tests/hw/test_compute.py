"""Loader, array and epilogue together: GEMMs of awkward sizes into every destination."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.data import View
from amaranth.lib.wiring import Component, connect
from amaranth.sim import Simulator

from moevit.hw.compute.array import ComputeArray
from moevit.hw.compute.epilogue import Epilogue
from moevit.hw.compute.loader import Loader
from moevit.hw.config import preset
from moevit.hw.control.semaphore import Semaphores
from moevit.hw.isa import Destination, Gemm, Sync
from moevit.hw.memories import Activations, KeyValues, Residual
from moevit.quant.formats import Multiplier
from moevit.quant.operators.linear import GeluOutput, Linear, to_activation

CONFIG = preset("micro")
T, I, O = CONFIG.array.tokens, CONFIG.array.inputs, CONFIG.array.outputs  # noqa: E741


class Bench(Component):
    """The compute engine without weight, softmax and gate units."""

    def __init__(self) -> None:
        super().__init__({})
        self.loader, self.array, self.epilogue = (
            Loader(CONFIG),
            ComputeArray(CONFIG),
            Epilogue(CONFIG),
        )
        self.act, self.res, self.kv = Activations(CONFIG), Residual(CONFIG), KeyValues(CONFIG)
        self.sem = Semaphores(givers=1, takers=1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lo, ar, ep = self.loader, self.array, self.epilogue
        for name in ("loader", "array", "epilogue", "act", "res", "kv", "sem"):
            m.submodules[name] = getattr(self, name)
        connect(m, lo.o, ar.i)
        connect(m, ar.drain, ep.i)
        connect(m, lo.a, self.act.reads[0])
        connect(m, ar.kv, self.kv.read)
        connect(m, ep.x, self.res.reads[0])
        connect(m, ep.x_write, self.res.writes[0])
        connect(m, ep.a, self.act.writes[0])
        connect(m, ep.give, self.sem.give[0])
        connect(m, lo.take, self.sem.take[0])
        m.d.comb += [
            ar.write_en.eq(lo.write_en),
            ar.write_row.eq(lo.write_row),
            ar.write_half.eq(lo.write_half),
            ar.write_word.eq(lo.write_word),
            ar.write_data.eq(lo.a.data),
            lo.half_released.eq(ar.half_released),
            ep.tile_valid.eq(ar.tile_valid),
            ep.tile.eq(ar.tile),
            ar.tile_ready.eq(ep.tile_ready),
            self.kv.en.eq(ep.kv_en),
            self.kv.addr.eq(ep.kv_addr),
            self.kv.group.eq(ep.kv_group),
            self.kv.data.eq(ep.kv_data),
        ]
        return m


def pack(values: np.ndarray, bits: int) -> int:
    out = 0
    for i, v in enumerate(np.asarray(values).reshape(-1)):
        out |= (int(v) & ((1 << bits) - 1)) << (bits * i)
    return out


def unpack(word: int, bits: int, count: int) -> np.ndarray:
    raw = np.array([(word >> (bits * i)) & ((1 << bits) - 1) for i in range(count)], np.int64)
    return np.where(raw >> (bits - 1), raw - (1 << bits), raw)


def weight_rows(linear: Linear) -> list[int]:
    o, k = linear.shape
    w = linear.weight.reshape(o // O, O, k // I, I)
    return [pack(w[ot, :, c], 8) for ot in range(o // O) for c in range(k // I)]


def param_rows(linear: Linear) -> list[int]:
    rows = []
    for ot in range(linear.shape[0] // O):
        word = 0
        for i in range(O):
            c = ot * O + i
            one = (
                pack(linear.bias[c : c + 1], 32)
                | int(linear.mult[c]) << 32
                | int(linear.shift[c]) << 48
            )
            word |= one << (64 * i)
        rows.append(word)
    return rows


def random_linear(rng: np.random.Generator, o: int, k: int, gain: float = 0.02) -> Linear:
    scales = [Multiplier.from_scale(gain * s) for s in rng.uniform(0.2, 1, o)]
    return Linear(
        weight=rng.integers(-127, 128, (o, k)).astype(np.int8),
        bias=rng.integers(-3000, 3000, o).astype(np.int32),
        mult=np.array([s.mult for s in scales], np.uint16),
        shift=np.array([s.shift for s in scales], np.uint8),
    )


def run(program, *, acts, resid, rows, params, lengths=(), queues=None, watch, cycles=6000, seed=0):
    """Execute instructions; ``watch``: {'act'|'res'|'kv': number of words} to read back."""
    bench = Bench()
    sim = Simulator(bench)
    sim.add_clock(1e-6)
    rng = np.random.default_rng(seed)
    result: dict[str, list[int]] = {}

    async def weights(ctx):
        filled = 0
        for e, n in enumerate(lengths):
            ctx.set(bench.loader.lengths[e], n)
        while True:
            if filled < len(rows) and rng.random() < 0.7:
                filled += 1
            ctx.set(bench.array.ring_filled, filled)
            _, _, en, addr, pen, paddr, qen, qaddr = await ctx.tick().sample(
                bench.array.rows.en,
                bench.array.rows.addr,
                bench.epilogue.params.en,
                bench.epilogue.params.addr,
                bench.loader.queue.en,
                bench.loader.queue.addr,
            )
            if en:
                # A row that is not there yet is read as well, and never used.
                ctx.set(bench.array.rows.data, rows[addr] if addr < filled else -1)
            if pen:
                ctx.set(bench.epilogue.params.data.as_value(), params[paddr])
            if qen:
                token, score = queues[qaddr >> 12][qaddr & 4095]
                ctx.set(bench.loader.queue.data.token, token)
                ctx.set(bench.loader.queue.data.score, score)

    async def main(ctx):
        for i, word in enumerate(acts):
            p = bench.act.writes[2]
            ctx.set(p.payload.addr, i)
            ctx.set(p.payload.mask, -1)
            ctx.set(p.payload.data.as_value(), word)
            ctx.set(p.valid, 1)
            await ctx.tick()
        ctx.set(bench.act.writes[2].valid, 0)
        for i, word in enumerate(resid):
            p = bench.res.writes[1]
            ctx.set(p.payload.addr, i)
            ctx.set(p.payload.data.as_value(), word)
            ctx.set(p.valid, 1)
            await ctx.tick()
        ctx.set(bench.res.writes[1].valid, 0)
        for instruction in program:
            ctx.set(bench.loader.i.payload, int.from_bytes(instruction.encode(), "little"))
            ctx.set(bench.loader.i.valid, 1)
            await ctx.tick().until(bench.loader.i.ready)
            ctx.set(bench.loader.i.valid, 0)
        quiet = 0
        for _ in range(cycles):
            await ctx.tick()
            busy = (
                ctx.get(bench.loader.busy)
                | ctx.get(bench.array.busy)
                | ctx.get(bench.epilogue.busy)
            )
            quiet = 0 if busy else quiet + 1
            if quiet > 12:
                break
        else:
            raise AssertionError("the engine did not finish")
        for unit in (bench.loader, bench.array, bench.epilogue):
            assert ctx.get(unit.fault) == 0
        ports = {"act": bench.act.reads[1], "res": bench.res.reads[1], "kv": None}
        for name, count in watch.items():
            result[name] = []
            for i in range(count):
                port = ports[name]
                ctx.set(port.addr, i)
                ctx.set(port.en, 1)
                await ctx.tick()
                ctx.set(port.en, 0)
                data = port.data
                result[name].append(
                    ctx.get(data if not isinstance(data, View) else data.as_value())
                )

    sim.add_testbench(main)
    sim.add_testbench(weights, background=True)
    sim.run()
    return result


@pytest.mark.parametrize("tokens", [1, 2, 5])
@pytest.mark.parametrize(("k_words", "otiles"), [(1, 1), (3, 2), (2, 5)])
@pytest.mark.parametrize("mode", ["ACT8", "GELU8", "RESIDUAL"])
def test_gemm(tokens: int, k_words: int, otiles: int, mode: str) -> None:
    rng = np.random.default_rng([tokens, k_words, otiles])
    k, o = k_words * I, otiles * O
    linear = random_linear(rng, o, k, 0.3 if mode == "GELU8" else 0.02)
    x = rng.integers(-128, 128, (tokens, k))
    residual = rng.integers(-3000, 3000, (tokens, o))
    acts = [pack(row, 8) for row in x.reshape(-1, I)]
    resid = [pack(row, 16) for row in residual.reshape(-1, O)]
    base = len(acts)
    out_words = -(-o // I)
    gelu = GeluOutput(out=Multiplier.from_scale(0.07), zero_point=-90)
    gemm = Gemm(
        source=0,
        stride=k_words,
        depth=k_words,
        tokens=tokens,
        otiles=otiles,
        mode=Destination[mode],
        target=0 if mode == "RESIDUAL" else base,
        target_stride=otiles if mode == "RESIDUAL" else out_words,
        mult=gelu.out.mult,
        shift=gelu.out.shift,
        zero_point=gelu.zero_point if mode == "GELU8" else 3,
    )
    got = run(
        [gemm],
        acts=acts,
        resid=resid,
        rows=weight_rows(linear),
        params=param_rows(linear),
        watch={"act": base + tokens * out_words, "res": len(resid)},
    )
    values = linear.values(x)
    if mode == "RESIDUAL":
        want = linear.add(residual, x)
        have = np.array([unpack(w, 16, O) for w in got["res"]]).reshape(tokens, o)
    else:
        want = to_activation(values, 3) if mode == "ACT8" else gelu.compute(values)
        have = np.array([unpack(w, 8, I) for w in got["act"][base:]]).reshape(tokens, -1)[:, :o]
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("length", [0, 1, 4, 5])
def test_expert(length: int) -> None:
    """Gather by token into slots, then scatter weighted by the score; an empty queue is skipped."""
    rng = np.random.default_rng(length)
    tokens, k, hidden = 7, 2 * I, 3 * O
    fc1, fc2 = random_linear(rng, hidden, k, 0.3), random_linear(rng, k, 2 * I, 0.02)
    fc2.weight[:, hidden:] = 0
    x = rng.integers(-128, 128, (tokens, k))
    residual = rng.integers(-3000, 3000, (tokens, k))
    chosen = np.sort(rng.permutation(tokens)[:length])
    scores = rng.integers(0, 32768, length)
    gelu = GeluOutput(out=Multiplier.from_scale(0.07), zero_point=-90)
    acts = [pack(row, 8) for row in x.reshape(-1, I)]
    h_base = len(acts)
    acts += [0] * (2 * tokens)
    common = {"use_queue": 1, "queue": 3}
    program = [
        Gemm(
            source=0,
            stride=2,
            depth=2,
            gather=1,
            otiles=3,
            mode=Destination.GELU8,
            target=h_base,
            target_stride=2,
            mult=gelu.out.mult,
            shift=gelu.out.shift,
            zero_point=gelu.zero_point,
            signal=5,
            **common,
        ),
        Gemm(
            source=h_base,
            stride=2,
            depth=2,
            scatter=1,
            otiles=k // O,
            mode=Destination.EXPERT,
            target=0,
            target_stride=k // O,
            wait=5,
            **common,
        ),
        Sync(signal=2, count=1),
        Sync(wait=2, wait_count=1),
    ]
    got = run(
        program,
        acts=acts,
        resid=[pack(r, 16) for r in residual.reshape(-1, O)],
        rows=weight_rows(fc1) + weight_rows(fc2),
        params=param_rows(fc1) + param_rows(fc2),
        lengths=[0, 0, 0, length],
        queues={3: [(int(c), int(s)) for c, s in zip(chosen, scores, strict=True)]},
        watch={"res": tokens * k // O},
    )
    want = residual.copy()
    h = np.zeros((length, 2 * I), np.int64)
    h[:, :hidden] = gelu.compute(fc1.values(x[chosen]))
    want[chosen] = fc2.add(residual[chosen], h, scores)
    have = np.array([unpack(w, 16, O) for w in got["res"]]).reshape(tokens, k)
    np.testing.assert_array_equal(have, want)
