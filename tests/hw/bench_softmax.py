"""cocotb bench of hw.softmax: query tiles of awkward key counts, against quant.softmax."""

import random
from typing import Any

import cocotb
import numpy as np
from support.agents import Bench, Sink, Source, pack, reset, unpack

from moevit.hw.config import preset
from moevit.hw.interfaces import accumulators, row_scales, score_tile
from moevit.quant.formats import SHIFT_BITS, Multiplier
from moevit.quant.operators.softmax import Softmax

CONFIG = preset("micro")
ARRAY = CONFIG.array
KEYS = (1, 2, 4, 5, 8, 9, 31, 64, 17, 3)


def key_tiles(acc: Any, softmax: Softmax, noise: np.random.Generator) -> list[int]:
    """Payloads of one query tile."""
    sent, keys = [], acc.shape[1]
    for first in range(0, keys, ARRAY.outputs):
        part = acc[:, first : first + ARRAY.outputs]
        tile = noise.integers(-(1 << 25), 1 << 25, (ARRAY.tokens, ARRAY.outputs))
        tile[:, : part.shape[1]] = part
        about = {
            "last": int(first + ARRAY.outputs >= keys),
            "valid": part.shape[1],
            "mult": softmax.score.mult,
            "shift": softmax.score.shift,
            "out_mult": softmax.out.mult,
            "out_shift": softmax.out.shift,
        }
        sums = pack(accumulators(CONFIG), tile.tolist())
        sent.append(pack(score_tile(CONFIG), about) | sums << score_tile(CONFIG).size)
    return sent


class Array:
    """Reads the words of the oldest complete half after a while, and releases it."""

    def __init__(self, dut: Any, counts: list[int]) -> None:
        self.dut, self.left = dut, counts
        self.bits = len(dut.weights__addr) - 1
        self.got: list[list[int]] = [[]]
        self.word = 0
        self.asked = self.ready = False
        self.half = 0

    def drive(self) -> None:
        dut, reads = self.dut, self.ready and random.random() < 0.4
        dut.weights__en.value = reads
        dut.weights__addr.value = self.word | self.half << self.bits
        dut.weights__release.value = reads and self.word == self.left[0] - 1

    def observe(self) -> None:
        if self.asked:
            self.got[-1].append(int(self.dut.weights__data.value))
            if self.word == 0:
                self.got.append([])
        self.asked = bool(self.dut.weights__en.value)
        self.ready, self.half = (
            bool(self.dut.weights__ready.value),
            int(self.dut.weights__half.value),
        )
        if self.asked:
            self.word += 1
            if self.dut.weights__release.value:
                self.left.pop(0)
                self.word, self.ready = 0, False


@cocotb.test()
async def softmaxes(dut: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    softmax = Softmax(
        score=Multiplier.from_scale(float(rng.uniform(0.01, 0.3))),
        out=Multiplier.from_scale(float(rng.uniform(1.2, 2.5))),
    )
    queries = [rng.integers(-40_000, 40_000, (ARRAY.tokens, keys)) for keys in KEYS]
    sent = [word for acc in queries for word in key_tiles(acc, softmax, rng)]
    source, rows = Source(dut, "i", sent), Sink(dut, "rows", pause=0.7)
    array = Array(dut, [-(-keys // ARRAY.inputs) for keys in KEYS])
    await reset(dut)
    bench = Bench(dut, [source, rows, array])
    await bench.run(lambda: not array.left and len(rows.got) == len(KEYS))

    for n, acc in enumerate(queries):
        weights = softmax.weights(softmax.scores(acc))
        want = np.zeros((ARRAY.tokens, -(-acc.shape[1] // ARRAY.inputs) * ARRAY.inputs), np.uint8)
        want[:, : acc.shape[1]] = weights
        words = [w.to_bytes(ARRAY.tokens * ARRAY.inputs, "little") for w in array.got[n]]
        got = np.concatenate(
            [np.frombuffer(w, np.uint8).reshape(ARRAY.tokens, ARRAY.inputs) for w in words], axis=1
        )
        np.testing.assert_array_equal(got, want, err_msg=f"query tile {n}")
        mult, shift = softmax.row(weights.sum(axis=-1))
        scales = unpack(row_scales(CONFIG), rows.got[n])
        assert [s["mult"] for s in scales] == mult.tolist(), f"query tile {n}"
        limit = (1 << SHIFT_BITS) - 1
        assert [s["shift"] for s in scales] == np.minimum(shift, limit).tolist()
