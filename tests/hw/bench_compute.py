"""cocotb bench of the compute engine: a block's worth of instructions on random memories.

Keys, values and queries, attention, projection, a dense GELU layer, router and experts, logits of
16 bits: everything is compared with the interpreter's engines, down to the last word.
"""

import random
from typing import Any

import cocotb
import numpy as np
from support.compute_bench import execute, run_compute

from moevit.hw.config import preset
from moevit.hw.image import pack_channels
from moevit.hw.isa import Attention, Destination, Gemm, Instruction, Sync
from moevit.quant.formats import Multiplier
from moevit.sim.memories import OnChip

CONFIG = preset("micro")
T, I, O = CONFIG.array.tokens, CONFIG.array.inputs, CONFIG.array.outputs  # noqa: E741
A, X = 600, 300  # words that are preloaded and compared


def program(rng: np.random.Generator) -> tuple[list[Instruction], list[float]]:
    """Instructions, and for each GEMM the scale that makes lively values of its sums."""
    tokens, heads, chunks = int(rng.integers(1, 12)), int(rng.integers(1, 4)), 1
    hidden, experts = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    top_k = int(rng.integers(1, experts + 1))
    dim = heads * chunks  # in words of activations
    per = I // O
    tiles = -(-tokens // O)
    v_pitch = -(-tokens // I)
    v_base = heads * tiles * chunks
    y, q, h = 0, tokens * dim, 2 * tokens * dim  # activations, queries then attention, hidden
    out = h + 2 * experts * tokens * hidden
    score, gelu = Multiplier.from_scale(0.02), Multiplier.from_scale(0.07)
    wide = {"tokens": tokens, "stride": dim, "depth": dim, "otiles": dim * per}
    to_q = {"target": q, "target_stride": dim}
    kv = {"head_otiles": chunks * per}
    key = {**kv, "head_pitch": tiles * chunks, "tile_pitch": chunks}
    value = {**kv, "head_pitch": chunks * per * v_pitch, "tile_pitch": v_pitch, "target": v_base}
    act = {"mult": gelu.mult, "shift": gelu.shift, "zero_point": -90}
    code: list[Instruction] = [
        Gemm(source=y, mode=Destination.KEY, **wide, **key),
        Gemm(source=y, mode=Destination.VALUE, **wide, **value),
        Gemm(source=y, mode=Destination.ACT8, signal=1, **wide, **to_q),
        Attention(
            source=q, stride=dim, chunks=chunks, heads=heads, queries=tokens, keys=tokens, wait=1,
            k_pitch=tiles * chunks, v_base=v_base, v_pitch=chunks * per * v_pitch, signal=2,
            v_otiles=chunks * per, v_tile_pitch=v_pitch, score_mult=score.mult,
            score_shift=score.shift, out_mult=50000, out_shift=15, **to_q,
        ),
        Gemm(source=q, mode=Destination.RESIDUAL, target_stride=dim * per, wait=2, **wide),
        Gemm(source=y, mode=Destination.RESIDUAL, target_stride=dim * per, **wide),
        Gemm(source=y, mode=Destination.GATE, tokens=tokens, stride=dim, depth=dim,
             otiles=-(-experts // O), experts=experts, top_k=top_k, signal=4),
        Sync(wait=4, wait_count=1),
    ]  # fmt: skip
    scales = [0.004, 0.004, 0.004, 0.05, 0.05, 0.2]
    for e in rng.permutation(experts).tolist():
        place = h + 2 * e * tokens * hidden
        common: dict[str, Any] = {"use_queue": 1, "queue": e}
        code += [
            Gemm(source=y, stride=dim, depth=dim, gather=1, otiles=hidden * per, target=place,
                 target_stride=hidden, mode=Destination.GELU8, signal=5, **act, **common),
            Gemm(source=place, stride=hidden, depth=hidden, scatter=1, otiles=dim * per, wait=5,
                 mode=Destination.EXPERT, target_stride=dim * per, **common),
        ]  # fmt: skip
        scales += [0.3, 0.1]
    code.append(Gemm(source=y, mode=Destination.ACT16, target=out, target_stride=2 * dim, **wide))
    # One word again and again, first, while weights are scarce: two tiles wait and then follow one
    # another, and each sum needs the one before, which is still in the pipeline.
    again = Gemm(source=y, depth=1, tokens=1, otiles=1, mode=Destination.RESIDUAL, target=3)
    return [again] * 5 + code, [*[0.05] * 5, *scales, 0.1]


@cocotb.test()
async def a_block(dut: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    code, scales = program(rng)
    chip = OnChip(CONFIG, int(rng.integers(1 << 30)))
    gemms = [i for i in code if isinstance(i, Gemm)]
    for i, scale in zip(gemms, scales, strict=True):
        n = i.otiles * O
        factors = [Multiplier.from_scale(scale * s) for s in rng.uniform(0.1, 0.4, n)]
        params = pack_channels(
            rng.integers(-3000, 3000, n), [f.mult for f in factors], [f.shift for f in factors]
        )
        weights = rng.integers(-127, 128, (i.otiles * i.depth, CONFIG.row_bytes), np.int8)
        weights = weights.view(np.uint8)
        chip.ring.put(params.reshape(i.otiles, -1), weights)
    a, x = await run_compute(dut, CONFIG, code, chip, a_words=A, x_words=X)

    before = [[len(q.tokens) for q in chip.queues]]
    execute(CONFIG, code, chip)
    assert before != [[len(q.tokens) for q in chip.queues]]
    lengths = int(dut.lengths.value)
    assert [lengths >> 13 * e & 8191 for e in range(CONFIG.limits.experts)] == [
        len(q.tokens) for q in chip.queues
    ]
    np.testing.assert_array_equal(a, chip.activations[:A])
    np.testing.assert_array_equal(x, chip.residual[:X])
