"""cocotb bench of hw.norm: instructions of random shapes under stalls, against quant.layernorm."""

import random
from typing import Any

import cocotb
import numpy as np
from support.agents import Bench, Giver, Lender, ReadMemory, Sink, Source, pack, reset, unpack

from moevit.hw.config import BEAT_BYTES, preset
from moevit.hw.image import pack_channels
from moevit.hw.interfaces import activation_write, load_beat, residual_word
from moevit.hw.isa import Norm
from moevit.quant.operators.layernorm import LayerNorm

CONFIG = preset("micro")
ARRAY = CONFIG.array


@cocotb.test()
async def layer_norms(dut: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    residual = rng.integers(-(1 << 15), 1 << 15, (CONFIG.memory.residual_words, ARRAY.outputs))
    rows = np.zeros((CONFIG.memory.norm_rows, CONFIG.param_row_bytes), np.uint8)
    chip = np.full((CONFIG.memory.activation_words, ARRAY.inputs), -1, np.int64)
    want = chip.copy()
    orders, params, source, target, tiles = [], 0, 0, 0, 0
    for n in range(8):
        dim, tokens = int(rng.integers(1, 80)), int(rng.integers(1, 9))
        words = -(-dim // ARRAY.outputs)
        width = words * ARRAY.outputs
        norm = LayerNorm(
            gain=rng.integers(-3000, 3000, dim).astype(np.int16),
            bias=rng.integers(-(1 << 20), 1 << 20, dim).astype(np.int32),
            shift=rng.integers(8, 24, dim).astype(np.uint8),
            eps=int(rng.integers(1000)),
        )
        padding = (0, width - dim)
        fields = (np.pad(v, padding) for v in (norm.bias, norm.gain, norm.shift))
        rows[params : params + words] = pack_channels(*fields).reshape(words, -1)
        x = residual[source : source + tokens * words].reshape(tokens, width)  # a view
        x[:, dim:] = 0  # as in a network
        stride = -(-width // ARRAY.inputs) + int(rng.integers(2))
        for t in range(tokens):
            flat = want[target + t * stride :].reshape(-1)
            flat[:width] = 0  # padding has no gain
            flat[:dim] = norm.compute(x[t : t + 1, :dim])[0]
        orders.append(
            Norm(
                source=source, words=words, tokens=tokens, target=target, stride=stride,
                params=params, dim=dim, eps=norm.eps, wait=1 + n, signal=15 - n,
            )
        )  # fmt: skip
        params, target = params + words, target + tokens * stride
        source += tokens * words
        tiles += -(-tokens // ARRAY.tokens)

    beats = rows[:params].reshape(params, -1, BEAT_BYTES)
    loads = [
        pack(
            load_beat(CONFIG),
            {"row": r, "part": p, "data": int.from_bytes(beats[r, p].tobytes(), "little")},
        )
        for r in range(params)
        for p in range(beats.shape[1])
    ]
    word = residual_word(CONFIG)
    load = Source(dut, "load", loads)
    orders_in = Source(dut, "i", [int.from_bytes(o.encode(), "little") for o in orders])
    memory = ReadMemory(dut, "residual", lambda n: pack(word, residual[n].tolist()))
    out, take, give = Sink(dut, "o"), Lender(dut), Giver(dut)
    await reset(dut)
    await Bench(dut, [load]).run(lambda: not load.left)
    bench = Bench(dut, [load, orders_in, memory, out, take, give])
    await bench.run(lambda: not orders_in.left and not dut.busy.value)
    assert dut.fault.value == 0

    piece = CONFIG.piece_bytes
    for payload in out.got:
        write = unpack(activation_write(CONFIG), payload)
        data = np.array(write["data"], np.uint8).view(np.int8)
        for n in range(ARRAY.inputs // piece):
            if write["mask"] >> n & 1:
                chip[write["addr"], n * piece : (n + 1) * piece] = data[n * piece : (n + 1) * piece]
    np.testing.assert_array_equal(chip, want)
    assert len(take.taken) == len(give.given) == tiles
