"""cocotb bench of hw.data: loads, stores and code at once, against the interpreter's engines."""

import random
from typing import Any

import cocotb
import numpy as np
from support.agents import (
    PARAMETERS,
    Bench,
    Giver,
    Lender,
    ReadMemory,
    Sink,
    Source,
    pack,
    reset,
    unpack,
)
from support.agents_axi import Reads, Writes

from moevit.hw.checks import encode_code
from moevit.hw.config import BEAT_BYTES, preset
from moevit.hw.interfaces import activation_write, load_beat, residual_word, residual_write
from moevit.hw.isa import INSTRUCTION_BYTES, Instruction, Load, LoadKind, Store
from moevit.sim.engines import Bases, Engines
from moevit.sim.memories import External, OnChip

PORTS = PARAMETERS.get("ports", 1)
CONFIG = preset("micro").but(array__inputs=8 * PORTS, array__outputs=4 * PORTS, memory__ports=PORTS)
ARRAY, PIECE = CONFIG.array, CONFIG.piece_bytes
SIZE = 1 << 18
BASES = Bases(program=0x1000, image=0x1_0000, output=0x2_0000)
CODE = 0x0FC0  # beside a page's end


def instructions(rng: np.random.Generator) -> tuple[list[Load], list[Store]]:
    """Loads of all kinds and stores from both memories."""
    loads, stores = [], []
    for n in range(12):
        patches, rows = int(rng.integers(1, 5)), int(rng.integers(1, 5))
        patch_bytes = PIECE * int(rng.integers(1, 7))
        pixels = {
            "stride": -(-patch_bytes * rows // ARRAY.inputs) + n % 2,
            "strips": int(rng.integers(1, 4)),
            "patches": patches,
            "patch_rows": rows,
            "patch_bytes": patch_bytes,
            "pitch": -(-patches * patch_bytes // BEAT_BYTES) * BEAT_BYTES,
        }
        kind = LoadKind(n % 4)
        loads.append(
            Load(
                kind=kind, address=BEAT_BYTES * int(rng.integers(0, 500)), wait=n % 2,
                target=int(rng.integers(0, 30)), signal=1 + n,
                stored=int(kind != LoadKind.PIXELS and n >= 6),
                **(pixels if kind == LoadKind.PIXELS else {"beats": 2 * int(rng.integers(1, 30))}),
            )
        )  # fmt: skip
        words = 2 * int(rng.integers(1, 12))
        stores.append(
            Store(
                residual=n % 2, source=int(rng.integers(0, 900)), stride=words + n % 3,
                words=words, rows=int(rng.integers(1, 8)), address=0x4000 + 0x800 * n, wait=2,
                signal=n,
                pitch=16 * int(rng.integers(words, words + 4)) // 2 * 2,
            )
        )  # fmt: skip
    return loads, stores


def reference(loads: list[Load], stores: list[Store], image: Any) -> tuple[OnChip, OnChip, Any]:
    """What is read from the chip, what the chip holds in the end, and what memory holds."""
    before, after, memory = OnChip(CONFIG, 1), OnChip(CONFIG, 1), image.copy()
    for order in loads:
        Engines(CONFIG, after, External(memory), BASES).load(order)
    for order in stores:
        engines = Engines(CONFIG, before, External(memory), BASES)
        engines.store(order, np.arange(order.rows))
    return before, after, memory


def words(orders: list[Any]) -> list[int]:
    return [int.from_bytes(o.encode(), "little") for o in orders]


@cocotb.test()
async def everything_at_once(dut: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    image = rng.integers(0, 256, SIZE, np.uint8)
    loads, stores = instructions(rng)
    code: list[Instruction] = [*loads, *stores] * 3
    program = encode_code([i.encode() for i in code])
    image[CODE : CODE + len(program)] = np.frombuffer(program, np.uint8)
    before, after, memory = reference(loads, stores, image)

    contents = bytearray(image.tobytes())
    dut.program.value, dut.image.value, dut.output.value = BASES.program, BASES.image, BASES.output
    dut.header_start.value = dut.abort.value = 0
    address, count = CODE, len(code)
    dut.code.value = 1 | address << 1 | count << 33
    load, store = Source(dut, "load", words(loads)), Source(dut, "store", words(stores))
    fetched = Sink(dut, "code_o", pause=0.8)
    a_write, x_write, norm = Sink(dut, "a_write"), Sink(dut, "x_write"), Sink(dut, "norm")
    give, stored = Giver(dut, "load_give"), Giver(dut, "store_give")

    def activation(n: int) -> int:
        return int.from_bytes(before.activations[n].tobytes(), "little")

    def residuals(n: int) -> int:
        return pack(residual_word(CONFIG), before.residual[n].tolist())

    bench = Bench(
        dut,
        [
            *(Reads(dut, f"axi_r__{side}__", contents) for side in range(PORTS)),
            Writes(dut, "axi_w__", contents),
            load, store, fetched, a_write, x_write, norm, give, stored,
            Lender(dut, "load_take"), Lender(dut, "store_take"),
            ReadMemory(dut, "a_read", activation, grant="a_grant"),
            ReadMemory(dut, "x_read", residuals, grant="x_grant"),
        ],
    )  # fmt: skip
    await reset(dut)
    await bench.run(lambda: True)
    dut.code.value = address << 1 | count << 33
    await bench.run(
        lambda: (
            not (load.left or store.left or dut.load_busy.value or dut.store_busy.value)
            and len(fetched.got) == count
        )
    )
    await bench.run(lambda: bench.cycles % 16 == 0)
    assert dut.fault.value == 0
    assert give.given == [(order.signal, 1) for order in loads]
    assert stored.given == [(order.signal, 1) for order in stores if order.signal]
    for n, got in enumerate(fetched.got):
        word = got & (1 << 8 * INSTRUCTION_BYTES) - 1
        assert (word, got >> 8 * INSTRUCTION_BYTES) == (words(code)[n], n == count - 1)
    assert contents == memory.tobytes()
    chip = OnChip(CONFIG, 1)
    for payload in a_write.got:
        write = unpack(activation_write(CONFIG), payload)
        pieces = np.array(write["data"], np.uint8).view(np.int8).reshape(-1, PIECE)
        for n, piece in enumerate(pieces):
            if write["mask"] >> n & 1:
                chip.activations[write["addr"], n * PIECE : (n + 1) * PIECE] = piece
    for payload in x_write.got:
        write = unpack(residual_write(CONFIG), payload)
        chip.residual[write["addr"]] = write["data"]
    for payload in norm.got:
        beat = unpack(load_beat(CONFIG), payload)
        data = np.frombuffer(beat["data"].to_bytes(BEAT_BYTES, "little"), np.uint8)
        start = beat["part"] * BEAT_BYTES
        chip.norm_params[beat["row"], start : start + BEAT_BYTES] = data
    np.testing.assert_array_equal(chip.activations, after.activations)
    np.testing.assert_array_equal(chip.residual, after.residual)
    np.testing.assert_array_equal(chip.norm_params, after.norm_params)
