"""cocotb bench of hw.gate: router GEMMs with ties, paused at random, against quant.gate."""

import random
from typing import Any

import cocotb
import numpy as np
from support.agents import Bench, Source, pack, reset

from moevit.hw.config import preset
from moevit.hw.interfaces import dial, gate_row
from moevit.quant.dial import Dial
from moevit.quant.operators.gate import Gate

CONFIG = preset("micro")
ARRAY = CONFIG.array


def rows(
    logits: Any, top_k: int, base: int, least: int, renormalise: bool, enough: int
) -> list[int]:
    """Payloads of one router GEMM, as the epilogue sends them."""
    tokens, experts = logits.shape
    otiles = -(-experts // ARRAY.outputs)
    padded = np.full((tokens, otiles * ARRAY.outputs), 32767)  # must not be chosen
    padded[:, :experts] = logits
    sent = []
    for first in range(0, tokens, ARRAY.tokens):
        for ot in range(otiles):
            for t in range(first, min(first + ARRAY.tokens, tokens)):
                last = ot == otiles - 1
                values = {
                    "token": t,
                    "slot": t - first,
                    "otile": ot,
                    "last": int(last),
                    "first": int(t == 0 and ot == 0),
                    "end": int(last and t == tokens - 1),
                    "experts": experts,
                    "top_k": top_k,
                    "base": base,
                    "least": least,
                    "enough": enough,
                    "renormalise": int(renormalise),
                    "logits": padded[t, ot * ARRAY.outputs :][: ARRAY.outputs].tolist(),
                }
                sent.append(pack(gate_row(CONFIG), values))
    return sent


class Reader:
    """Reads one queue entry after the other."""

    def __init__(self, dut: Any, addresses: list[int]) -> None:
        self.dut, self.left, self.got = dut, addresses, []
        self.asked = False

    def drive(self) -> None:
        self.dut.queue__en.value = bool(self.left)
        self.dut.queue__addr.value = self.left[0] if self.left else 0

    def observe(self) -> None:
        if self.asked:
            word = int(self.dut.queue__data.value)
            self.got.append((word & 4095, word >> 12))
        self.asked = bool(self.left)
        if self.left:
            self.left.pop(0)


@cocotb.test()
async def routers(dut: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    dut.clear.value = 0
    await reset(dut)
    for experts in (1, 2, 5, 8, 8):
        top_k = int(rng.integers(1, experts + 1))
        span = int(rng.choice([2, 40, 32767]))  # few values: many ties
        logits = rng.integers(-span, span, (int(rng.integers(1, 14)), experts))
        base = int(rng.integers(0, 9 - experts))
        least, renormalise = int(rng.choice([0, 9000])), bool(rng.integers(2))
        enough = int(rng.choice([0, 1, 20000, 32767]))
        limits = {
            "top_k": int(rng.choice([0, 0, 1, 3, 15])),
            "least": int(rng.choice([0, 4000])),
            "enough": int(rng.choice([0, 15000, 65535])),
        }
        dut.dial.value = pack(dial, limits)
        source = Source(dut, "i", rows(logits, top_k, base, least, renormalise, enough))
        await Bench(dut, [source]).run(lambda: dut.done.value)
        assert not source.left
        gate = Gate(
            experts=experts, k=top_k, least=least, renormalise=renormalise, enough=enough
        ).dialled(Dial(**limits))
        want = [[] for _ in range(base)] + gate.queues(logits)
        lengths = int(dut.lengths.value)
        for e, queue in enumerate(want):
            assert lengths >> 13 * e & 8191 == len(queue), f"expert {e} of {experts}"
            reader = Reader(dut, [e << 12 | slot for slot in range(len(queue))])
            await Bench(dut, [reader]).run(lambda n=len(queue), r=reader: len(r.got) == n)
            assert reader.got == [tuple(entry) for entry in queue], f"expert {e} of {experts}"
