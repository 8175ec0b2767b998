"""The compute engine in a cocotb bench: memories in, instructions, memories out."""

import random
from typing import Any

import numpy as np

from moevit.hw.config import AcceleratorConfig
from moevit.hw.interfaces import activation_write, residual_word, residual_write
from moevit.hw.isa import Attention, Destination, Gemm, Instruction
from moevit.sim.engines import Bases, Engines
from moevit.sim.memories import External, OnChip

from .agents import Bench, ReadMemory, Source, pack, reset, unpack

__all__ = ["execute", "run_compute"]


def execute(config: AcceleratorConfig, code: list[Instruction], chip: OnChip) -> None:
    """What the instructions do, one after the other."""
    engines = Engines(
        config, chip, External(np.zeros(0, np.uint8)), Bases(program=0, image=0, output=0)
    )
    for i in code:
        if isinstance(i, Attention):
            rows, heads = np.arange(i.queries), np.arange(i.heads)
            q = engines.attention_read(i, rows, heads)
            engines.attention_write(i, rows, engines.attention_values(i, q, heads), heads)
        elif isinstance(i, Gemm):
            engines.check_gemm(i)
            if engines.length(i):
                rows = np.arange(engines.length(i))
                x, targets = engines.gemm_read(i, rows), engines.gemm_targets(i, rows)
                engines.gemm_write(i, targets, x, chip.ring.matrix(i.otiles, i.depth))
                if i.mode == Destination.GATE:
                    engines.route(i)
            chip.ring.release(i.otiles, i.depth)


class Ring:
    """Weight rows that come in bursts; ``filled`` is ahead of the reader by no more than a ring."""

    def __init__(self, dut: Any, rows: int, size: int) -> None:
        self.dut, self.rows, self.size, self.filled, self.released = dut, rows, size, 0, 0

    def drive(self) -> None:
        if random.random() < 0.2:
            room = self.released + self.size
            self.filled = min(self.rows, room, self.filled + random.randrange(12))
        self.dut.ring_filled.value = self.filled

    def observe(self) -> None:
        self.released = int(self.dut.ring_released.value)


class ReadBack:
    """Reads the first words of a memory."""

    def __init__(self, dut: Any, name: str, count: int) -> None:
        self.en, self.addr, self.data = (
            getattr(dut, f"{name}__{n}") for n in ("en", "addr", "data")
        )
        self.count, self.address, self.got = count, 0, []

    def drive(self) -> None:
        self.en.value = self.address < self.count
        self.addr.value = self.address

    def observe(self) -> None:
        if 0 < self.address <= self.count:
            self.got.append(int(self.data.value))
        self.address += 1

    @property
    def done(self) -> bool:
        """All words are there."""
        return len(self.got) == self.count


async def run_compute(
    dut: Any,
    config: AcceleratorConfig,
    code: list[Instruction],
    chip: OnChip,
    *,
    a_words: int,
    x_words: int,
) -> tuple[np.ndarray, np.ndarray]:
    """``code`` on what ``chip`` holds, which stays as it is; the first words of A and X behind it.

    All rows of ``chip.ring`` must be used.
    """
    array = config.array
    rows = [int.from_bytes(r.tobytes(), "little") for r in chip.ring.weights]
    params = [int.from_bytes(r.tobytes(), "little") for r in chip.ring.params]

    everything = (1 << array.inputs // config.piece_bytes) - 1
    a = Source(
        dut, "a_write",
        [pack(activation_write(config), {"addr": n, "mask": everything, "data": w.tolist()})
         for n, w in enumerate(chip.activations[:a_words].view(np.uint8))], pause=0.0,
    )  # fmt: skip
    x = Source(
        dut, "x_write",
        [pack(residual_write(config), {"addr": n, "data": w.tolist()})
         for n, w in enumerate(chip.residual[:x_words])], pause=0.0,
    )  # fmt: skip
    dut.a_read__en.value = dut.x_read__en.value = dut.ring_filled.value = 0
    await reset(dut)
    await Bench(dut, [a, x]).run(lambda: not (a.left or x.left))

    bits, depth = len(dut.rows__addr) - 1, config.memory.ring_rows
    param_bits, param_depth = len(dut.params__addr) - 1, config.memory.param_rows
    ring = Ring(dut, len(rows), depth)

    def row(address: int) -> int:
        assert not address >> bits, "the demand ring is not used"
        return rows[ring.released + (address - ring.released) % depth]

    def param(address: int) -> int:
        assert not address >> param_bits, "the demand ring is not used"
        first = int(dut.param_released.value)
        return params[first + (address - first) % param_depth]

    source = Source(dut, "i", [int.from_bytes(i.encode(), "little") for i in code], pause=0.5)
    memories = [ReadMemory(dut, "rows", row), ReadMemory(dut, "params", param)]
    bench = Bench(dut, [source, ring, *memories, a, x])
    await bench.run(lambda: not source.left)
    for _ in range(20):  # idle, and still so after a while
        await bench.run(lambda: not dut.busy.value)
    assert dut.fault.value == 0
    assert ring.released == len(rows)
    reads = ReadBack(dut, "a_read", a_words), ReadBack(dut, "x_read", x_words)
    await Bench(dut, reads).run(lambda: all(r.done for r in reads))
    got = b"".join(w.to_bytes(array.inputs, "little") for w in reads[0].got)
    words = [unpack(residual_word(config), w) for w in reads[1].got]
    return np.frombuffer(got, np.int8).reshape(a_words, -1), np.array(words)
