"""cocotb bench of hw.weights: stream and fetches into the rings, read as they come."""

import random
from typing import Any

import cocotb
import numpy as np
from support.agents import Bench, Lender, Source, pack, reset
from support.agents_axi import Reads

from moevit.hw.checks import crc32
from moevit.hw.config import preset
from moevit.hw.image import BlockHeader
from moevit.hw.interfaces import param_address, row_address
from moevit.hw.isa import Fetch

CONFIG = preset("micro")
MEMORY = CONFIG.memory
PROGRAM, STREAM, FETCHES = 0x2000, 0x4FC0, 0x2_0000


class Reader:
    """Reads the rows of a ring and its demand ring as they come, and releases them."""

    def __init__(self, dut: Any, port: str, names: tuple[str, str], address: Any) -> None:
        self.en, self.addr, self.data = (
            getattr(dut, f"{port}__{n}") for n in ("en", "addr", "data")
        )
        self.filled = [getattr(dut, f"{name}_filled") for name in names]
        self.released = [getattr(dut, f"{name}_released") for name in names]
        self.depths = [getattr(MEMORY, f"{name}_rows") for name in names]
        self.address = address
        self.seen, self.got = [0, 0], ([], [])
        self.asked: int | None = None
        self.bytes = len(self.data) // 8

    def drive(self) -> None:
        ring = random.randrange(2)
        row = len(self.got[ring])
        reads = self.seen[ring] > row and random.random() < 0.5 and self.asked is None
        self.en.value = reads
        if reads:
            self.addr.value = pack(self.address, {"row": row % self.depths[ring], "demand": ring})
        for released, rows in zip(self.released, self.got, strict=True):
            released.value = len(rows)
        self.next = ring if reads else None

    def observe(self) -> None:
        if self.asked is not None:
            data = int(self.data.value)
            self.got[self.asked].append(data.to_bytes(self.bytes, "little"))
        self.asked = self.next
        self.seen = [int(f.value) for f in self.filled]


@cocotb.test()
async def streams_and_fetches(dut: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))

    def rows(count: int, size: int) -> list[bytes]:
        return [rng.bytes(size) for _ in range(count)]

    def block(params: int, weights: int) -> tuple[list[bytes], list[bytes]]:
        return rows(params, CONFIG.param_row_bytes), rows(weights, CONFIG.row_bytes)

    stream = [block(*counts) for counts in ((3, 40), (0, 7), (260, 0), (0, 0), (9, 700))]
    image = b"".join(
        BlockHeader(
            param_rows=len(p), weight_rows=len(w), number=n, check=crc32(b"".join(p + w))
        ).encode()
        + b"".join(p + w)
        for n, (p, w) in enumerate(stream)
    )
    lengths = rng.integers(0, 3, CONFIG.limits.experts).tolist()
    lengths[:2] = [0, 1]
    orders, fetched, at = [], [], FETCHES
    memory = bytearray(1 << 18)
    memory[STREAM : STREAM + len(image)] = image
    for n in range(12):
        queue = n % CONFIG.limits.experts
        part = block(int(rng.integers(1, 9)), int(rng.integers(1, MEMORY.demand_rows)))
        data = b"".join(part[0] + part[1])
        memory[at : at + len(data)] = data
        orders.append(
            Fetch(queue=queue, address=at - PROGRAM, param_rows=len(part[0]),
                  weight_rows=len(part[1]), wait=2 * (n == 0), wait_count=3,
                  checked=n % 2, check0=crc32(data))
        )  # fmt: skip
        at += len(data)
        if lengths[queue]:
            fetched.append(part)

    source = Source(dut, "i", [int.from_bytes(o.encode(), "little") for o in orders])
    take = Lender(dut)
    weights = Reader(dut, "rows", ("ring", "demand"), row_address(CONFIG))
    params = Reader(dut, "params", ("param", "demand_param"), param_address(CONFIG))
    dut.lengths.value = sum(n << 13 * e for e, n in enumerate(lengths))
    dut.base.value, dut.beats.value, dut.program.value = STREAM, len(image) // 16, PROGRAM
    dut.abort.value = dut.start.value = 0
    bench = Bench(dut, [source, take, weights, params, Reads(dut, "axi__0__", memory)])
    await reset(dut)
    dut.start.value = 1
    await bench.run(lambda: True)
    dut.start.value = 0
    want = [
        [row for part in parts for row in part[kind]]
        for parts in (stream, fetched)
        for kind in (1, 0)
    ]
    got = [weights.got[0], params.got[0], weights.got[1], params.got[1]]
    await bench.run(lambda: all(len(g) >= len(w) for g, w in zip(got, want, strict=True)))
    for name, g, w in zip(("weights", "parameters", "fetched", "its"), got, want, strict=True):
        assert g == w, name
    await bench.run(lambda: bench.cycles % 16 == 0)
    assert not dut.busy.value and not dut.stream_busy.value
    assert dut.quiet.value
    assert dut.fault.value == 0
    assert take.taken == [(2, 3)]
