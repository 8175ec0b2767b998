"""The second half of the epilogue, for every 16-bit value, against quant."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from moevit.hw.compute.activation import Activate
from moevit.hw.compute.narrow import ResidualAdd, ToBytes
from moevit.hw.config import preset
from moevit.hw.isa import ACTIVATED, Destination
from moevit.quant.formats import RESIDUAL, SCORE, Multiplier, round_shift
from moevit.quant.operators.linear import to_activation

CONFIG = preset("micro")
LANES = CONFIG.array.outputs
VALUES = np.arange(-(1 << 15), 1 << 15).reshape(-1, LANES)


def pack(rows: np.ndarray) -> list[int]:
    """Each row's 16-bit values as one integer: quicker to set than a view."""
    return [int.from_bytes(row.astype("<i2").tobytes(), "little") for row in rows]


def unpack(rows: list[int], kind: np.dtype) -> np.ndarray:
    """Values of ``kind``, a row for each integer."""
    size = LANES * kind.itemsize
    data = b"".join(row.to_bytes(size, "little") for row in rows)
    return np.frombuffer(data, kind).reshape(-1, LANES)


def run(mode: int, x: np.ndarray, *, mult: int, shift: int, zero: int, score: int) -> tuple:
    """Bytes and words of all ``VALUES``, a row a cycle, as the epilogue connects the three."""
    m = Module()
    m.submodules.first = first = Activate(CONFIG)
    m.submodules.narrow, m.submodules.add = narrow, add = ToBytes(CONFIG), ResidualAdd(CONFIG)
    later = [Signal(16 * LANES, name=f"values_{n}") for n in range(Activate.latency + 1)]
    m.d.comb += [later[0].eq(first.values.as_value()), first.valid.eq(1)]
    m.d.sync += [after.eq(before) for before, after in pairwise(later)]
    for part in (narrow, add):
        m.d.comb += [
            part.valid.eq(1),
            part.mode.eq(mode),
            part.values.as_value().eq(later[-1]),
            part.products.eq(first.products),
        ]
    m.d.comb += [
        first.mode.eq(mode),
        first.mult.eq(mult),
        first.score.eq(score),
        narrow.shift.eq(shift),
        narrow.zero_point.eq(zero),
    ]
    got: tuple[list[int], list[int]] = ([], [])
    latency = Activate.latency + ToBytes.latency
    values, words = pack(VALUES), pack(x)

    async def bench(ctx) -> None:
        for n in range(len(values) + latency):
            if n < len(values):
                ctx.set(first.values.as_value(), values[n])
            if Activate.latency <= n < len(values) + Activate.latency:
                ctx.set(add.residual.as_value(), words[n - Activate.latency])
            if n >= latency:
                got[0].append(ctx.get(narrow.bytes.as_value()))
                got[1].append(ctx.get(add.words.as_value()))
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return unpack(got[0], np.dtype("i1")), unpack(got[1], np.dtype("<i2"))


@pytest.mark.slow
@pytest.mark.parametrize("score", [32767, 12345])
def test_expert(score: int) -> None:
    x = np.random.default_rng(score).integers(RESIDUAL.min, RESIDUAL.max + 1, VALUES.shape)
    _, words = run(Destination.EXPERT, x, mult=9, shift=1, zero=7, score=score)
    want = RESIDUAL.saturate(x + round_shift(VALUES * score, SCORE.frac))
    np.testing.assert_array_equal(words, want)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ACTIVATED)
def test_activation_functions(mode: Destination) -> None:
    got, _ = run(mode, VALUES, mult=40000, shift=18, zero=-90, score=5)
    out = Multiplier(mult=40000, shift=18).compute(ACTIVATED[mode].compute(VALUES))
    np.testing.assert_array_equal(got, to_activation(out, -90))


@pytest.mark.slow
def test_plain() -> None:
    got, words = run(Destination.ACT8, VALUES, mult=7, shift=3, zero=3, score=9)
    np.testing.assert_array_equal(got, to_activation(VALUES, 3))
    np.testing.assert_array_equal(words, RESIDUAL.saturate(VALUES * 2))
