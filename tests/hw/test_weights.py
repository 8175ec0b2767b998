"""The weight engine against the blocks that it was given, through an AXI memory that stalls."""

import random
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal, Value
from amaranth.sim import Simulator
from support.axi_memory import AxiMemory, pulse, put

from moevit.hw import isa
from moevit.hw.checks import crc32
from moevit.hw.config import preset
from moevit.hw.image import BlockHeader
from moevit.hw.interfaces import POINTER_BITS
from moevit.hw.registers import Error
from moevit.hw.transfer import weights

MICRO = preset("micro").but(memory__ring_rows=32, memory__param_rows=32, memory__demand_rows=32)
WIDE = MICRO.but(array__inputs=16, memory__ports=2, memory__demand_param_rows=32, limits__depth=256)
STREAM_BASE = 0x3F40  # 12 beats before a page's end
PROGRAM = 0x1000
LIMIT = 20_000  # cycles of a test


class Rows(NamedTuple):
    """A block as the rings hold it, (rows, bytes) each; ``packed`` in memory or not."""

    params: np.ndarray
    rows: np.ndarray
    packed: bool = False


def blocks(config, counts, seed, packed=()):
    """Random blocks of so many parameter and weight rows; those numbered in ``packed`` are."""
    rng = np.random.default_rng(seed)
    out = []
    for n, (params, rows) in enumerate(counts):
        low, high = (-8, 8) if n in packed else (-128, 128)
        weights = rng.integers(low, high, (rows, config.row_bytes), np.int8).view(np.uint8)
        out.append(
            Rows(
                rng.integers(0, 256, (params, config.param_row_bytes), np.uint8),
                weights,
                n in packed,
            )
        )
    return out


def port_stream(config, data, port, *, headers):
    """The bytes of one port: its columns of each row."""
    out = b""
    for n, (params, rows, packed) in enumerate(data):
        block = b""
        for part in (params, rows):
            share = part.shape[1] // config.memory.ports
            mine = part[:, port * share : (port + 1) * share].tobytes()
            if packed and part is rows:
                pairs = zip(mine[::2], mine[1::2], strict=True)
                mine = bytes((b & 15) << 4 | a & 15 for a, b in pairs)
            block += mine
        if headers:
            head = BlockHeader(
                param_rows=len(params),
                weight_rows=len(rows),
                packed=packed,
                number=n,
                check=crc32(block),
            )
            out += head.encode()
        out += block
    return out


def image(config, data, *, at, headers, contents):
    """Writes the ports' streams one after the other; returns a port's beats."""
    streams = [port_stream(config, data, p, headers=headers) for p in range(config.memory.ports)]
    for p, stream in enumerate(streams):
        contents[at + p * len(stream) : at + (p + 1) * len(stream)] = stream
    return len(streams[0]) // 16


@dataclass
class Bench:
    """The engine, its memories, and readers that take rows in order with random pauses."""

    config: object
    contents: bytearray = field(default_factory=lambda: bytearray(1 << 16))
    latency: tuple[int, int] = (1, 12)
    stall: float = 0.3
    seed: int = 1
    pause: float = 0.3
    faults: list = field(default_factory=list)

    def __post_init__(self):
        self.dut = weights.WeightEngine(self.config)
        self.reset = Signal()
        self.rows = {name: [] for name in ("ring", "param", "demand", "demand_param")}
        self.counts = {"beats_read": 0, "demand_read": 0, "misses": 0}
        self.memories = [
            AxiMemory(self.contents, read=axi, latency=self.latency, stall=self.stall,
                      seed=self.seed + p, faults=self.faults)
            for p, axi in enumerate(self.dut.axi)
        ]  # fmt: skip
        self.reading = True
        self.cycles = 0

    async def reader(self, ctx, port, names):
        rng = random.Random(self.seed)
        counts = dict.fromkeys(names, 0)
        data = Value.cast(port.data)
        while True:
            await ctx.tick()
            if ctx.get(self.reset):
                counts = dict.fromkeys(names, 0)
                for name in names:
                    ctx.set(getattr(self.dut, f"{name}_released"), 0)
                    self.rows[name].clear()
            for name in names:
                if not self.reading or rng.random() < self.pause:
                    continue
                if ctx.get(getattr(self.dut, f"{name}_filled")) == counts[name] % (
                    1 << POINTER_BITS
                ):
                    continue
                depth = getattr(self.config.memory, f"{name}_rows")
                ctx.set(port.addr.row, counts[name] % depth)
                ctx.set(port.addr.demand, name.startswith("demand"))
                ctx.set(port.en, 1)
                await ctx.tick()
                ctx.set(port.en, 0)
                self.rows[name].append(ctx.get(data).to_bytes(len(data) // 8, "little"))
                counts[name] += 1
                ctx.set(getattr(self.dut, f"{name}_released"), counts[name])

    async def observer(self, ctx):
        while True:
            _, _, *values = await ctx.tick().sample(
                *(getattr(self.dut, name) for name in self.counts)
            )
            for name, value in zip(self.counts, values, strict=True):
                self.counts[name] += value
            self.cycles += 1
            if self.cycles > LIMIT:
                raise AssertionError("The test does not end")

    async def idle(self, ctx, limit=LIMIT):
        """Until the engine is idle and everything has been read."""
        for _ in range(limit):
            await ctx.tick()
            if not ctx.get(self.dut.busy | self.dut.stream_busy):
                break
        else:
            raise AssertionError("The engine is still busy")
        await ctx.tick().repeat(4)
        while any(
            ctx.get(getattr(self.dut, f"{name}_filled"))
            != ctx.get(getattr(self.dut, f"{name}_released"))
            for name in self.rows
        ):
            await ctx.tick()

    async def start(self, ctx, beats, base=STREAM_BASE):
        ctx.set(self.dut.program, PROGRAM)
        ctx.set(self.dut.base, base)
        ctx.set(self.dut.beats, beats)
        await pulse(ctx, self.dut.start)

    async def fetch(self, ctx, **fields):
        await put(ctx, self.dut.i, {"opcode": int(isa.Opcode.FETCH), **fields})

    def run(self, test, *background):
        sim = Simulator(ResetInserter(self.reset)(self.dut))
        sim.add_clock(1e-6)
        for memory in self.memories:
            sim.add_testbench(memory.serve_reads, background=True)
        for port, names in (
            (self.dut.rows, ("ring", "demand")),
            (self.dut.params, ("param", "demand_param")),
        ):
            sim.add_testbench(partial(self.reader, port=port, names=names), background=True)
        for process in (self.observer, *background):
            sim.add_testbench(process, background=True)
        sim.add_testbench(test)
        sim.run()

    def check(self, data, params, rows):
        for name, part in ((params, 0), (rows, 1)):
            expected = [row.tobytes() for block in data for row in block[part]]
            assert len(self.rows[name]) == len(expected)
            for i, (got, want) in enumerate(zip(self.rows[name], expected, strict=True)):
                assert got == want, f"{name} row {i}"


@pytest.mark.parametrize("config", [MICRO, WIDE], ids=["1 port", "2 ports"])
@pytest.mark.parametrize("seed", [1, 2])
def test_stream_fills_the_rings_in_order(config, seed):
    bench = Bench(config, seed=seed)
    counts = [(3, 20), (0, 5), (2, 0), (0, 0), (40, 70), (1, 1), (2, 50), (1, 1), (3, 0), (1, 9)]
    data = blocks(config, counts, seed, packed={1, 3, 6, 7, 8})
    beats = image(config, data, at=STREAM_BASE, headers=True, contents=bench.contents)

    async def test(ctx):
        for frame in range(2):
            await bench.start(ctx, beats)
            await bench.idle(ctx)
            assert ctx.get(bench.dut.fault) == Error.NONE, frame
            assert bench.counts["beats_read"] == (frame + 1) * beats * config.memory.ports

    bench.run(test)
    bench.check(data * 2, "param", "ring")
    for p, memory in enumerate(bench.memories):
        covered = [a + 16 * i for _, a, n in memory.bursts for i in range(n)]
        first = STREAM_BASE + p * beats * 16
        assert covered == [first + 16 * i for i in range(beats)] * 2


def test_rings_are_never_overrun_and_the_stream_waits():
    bench = Bench(MICRO, stall=0.0)
    bench.reading = False
    data = blocks(MICRO, [(2, 100)], 3)
    beats = image(MICRO, data, at=STREAM_BASE, headers=True, contents=bench.contents)

    async def test(ctx):
        await bench.start(ctx, beats)
        await ctx.tick().repeat(400)
        assert ctx.get(bench.dut.ring_filled) == MICRO.memory.ring_rows
        assert ctx.get(bench.dut.busy | bench.dut.stream_busy)
        landed = bench.counts["beats_read"]
        assert landed <= 1 + 2 * 2 + 2 * MICRO.memory.ring_rows + MICRO.memory.landing_beats + 1
        bench.reading = True
        await bench.idle(ctx)

    bench.run(test)
    bench.check(data, "param", "ring")


@pytest.mark.parametrize("config", [MICRO, WIDE], ids=["1 port", "2 ports"])
def test_the_stream_leaves_port_0_to_loads_while_it_is_ahead(config):
    """It goes on with a nearly empty ring, however long the load; other ports do not stop."""
    bench = Bench(config, stall=0.0)
    bench.reading = False
    data = blocks(config, [(2, 28), (2, 60)], 11)
    beats = image(config, data, at=STREAM_BASE, headers=True, contents=bench.contents)

    async def test(ctx):
        dut, memory = bench.dut, bench.memories[0]
        ctx.set(dut.loading, 1)
        await bench.start(ctx, beats)
        await ctx.tick().until(dut.ring_filled == 4)  # of 32: more than a twelfth
        await ctx.tick().repeat(4)
        asked = [len(m.bursts) for m in bench.memories]
        await ctx.tick().repeat(200)
        assert len(memory.bursts) == asked[0]
        assert all(len(m.bursts) > n for m, n in zip(bench.memories[1:], asked[1:], strict=True))
        bench.reading = True
        await bench.idle(ctx)

    bench.run(test)
    bench.check(data, "param", "ring")


def test_the_last_of_four_ports_leaves_the_memory_to_pixels():
    config = MICRO.but(array__inputs=16, array__outputs=8, memory__ports=4)
    bench = Bench(config, stall=0.0)
    bench.reading = False
    data = blocks(config, [(2, 28), (2, 60)], 11)
    beats = image(config, data, at=STREAM_BASE, headers=True, contents=bench.contents)

    async def test(ctx):
        ctx.set(bench.dut.pixels, 1)
        await bench.start(ctx, beats)
        await ctx.tick().until(bench.dut.ring_filled == 4)
        await ctx.tick().repeat(4)
        asked = [len(m.bursts) for m in bench.memories]
        await ctx.tick().repeat(200)
        more = [len(m.bursts) > n for m, n in zip(bench.memories, asked, strict=True)]
        assert more == [True, True, True, False]
        bench.reading = True
        ctx.set(bench.dut.pixels, 0)
        await bench.idle(ctx)

    bench.run(test)
    bench.check(data, "param", "ring")


def test_a_beat_a_cycle_with_a_long_latency():
    config = MICRO.but(memory__landing_beats=256, memory__ring_rows=512)
    bench = Bench(config, latency=(80, 80), stall=0.0)
    data = blocks(config, [(2, 250), (2, 250)], 4)
    beats = image(config, data, at=STREAM_BASE, headers=True, contents=bench.contents)

    async def test(ctx):
        await bench.start(ctx, beats)
        await ctx.tick().until(bench.dut.ring_filled == 500)
        assert bench.cycles <= beats + 80 + 20

    bench.run(test)


def test_packed_rows_take_half_the_beats():
    config = MICRO.but(memory__landing_beats=256, memory__ring_rows=512)
    bench = Bench(config, latency=(80, 80), stall=0.0)
    data = blocks(config, [(2, 250), (2, 250)], 4, packed={0, 1})
    beats = image(config, data, at=STREAM_BASE, headers=True, contents=bench.contents)
    assert beats == 2 * (1 + 2 * config.param_row_beats + 250 * config.row_beats // 2)

    async def test(ctx):
        await bench.start(ctx, beats)
        await ctx.tick().until(bench.dut.ring_filled == 500)
        assert bench.cycles <= beats + 80 + 20

    bench.run(test)


def fetch_image(config, bench, data, at):
    """Like `image`, for one FETCH at PROGRAM + ``at``."""
    return image(config, data, at=PROGRAM + at, headers=False, contents=bench.contents)


@pytest.mark.parametrize("config", [MICRO, WIDE], ids=["1 port", "2 ports"])
def test_fetches_beside_the_stream(config):
    bench = Bench(config, latency=(5, 30), seed=5)
    data = blocks(config, [(3, 50), (10, 60)], 5)
    beats = image(config, data, at=STREAM_BASE, headers=True, contents=bench.contents)
    counts = [(4, 32), (1, 3), (0, 7), (3, 0), (20, 20)]
    wanted = blocks(config, counts, 6, packed={1, 3, 4})
    at = [0x100, 0x1000, 0x1200, 0x1410, 0x1600]
    for one, offset in zip(wanted, at, strict=True):
        fetch_image(config, bench, [one], offset)
    taken = []

    async def grants(ctx):
        take = bench.dut.take
        while True:
            await ctx.tick()
            if not ctx.get(take.valid):
                continue
            await ctx.tick().repeat(20)
            taken.append((ctx.get(take.id), ctx.get(take.count)))
            ctx.set(bench.dut.lengths[3], 9)  # the queue is only looked at from here on
            await pulse(ctx, take.ready)
            assert ctx.get(take.valid) == 0

    async def test(ctx):
        await bench.start(ctx, beats)
        for i, ((params, rows, packed), offset) in enumerate(zip(wanted, at, strict=True)):
            wait = {"wait": 7, "wait_count": 2} if i == 0 else {"wait": 6 if i == 1 else 0}
            counts = {"param_rows": len(params), "weight_rows": len(rows), "packed": packed}
            await bench.fetch(ctx, queue=3, address=offset, **counts, **wait)
            # An empty queue: nothing is read.
            await bench.fetch(ctx, queue=2, address=0x8000, param_rows=1, weight_rows=1)
        await bench.idle(ctx)
        assert ctx.get(bench.dut.fault) == Error.NONE

    bench.run(test, grants)
    bench.check(data, "param", "ring")
    bench.check(wanted, "demand_param", "demand")
    assert taken == [(7, 2), (6, 1)]
    assert bench.counts["misses"] == len(wanted)
    total = sum(b.params.size + b.rows.size // (1 + b.packed) for b in wanted)
    assert bench.counts["demand_read"] == total // 16
    assert not any(
        address >= PROGRAM + 0x8000 for m in bench.memories for _, address, _ in m.bursts
    )


@pytest.mark.parametrize(
    ("first", "second"), [((2, 20), (1, 13)), ((40, 1), (25, 1))], ids=["weights", "parameters"]
)
def test_a_fetch_waits_for_room_in_the_demand_rings(first, second):
    bench = Bench(MICRO, stall=0.0)
    bench.reading = False
    wanted = blocks(MICRO, [first, second], 10)
    for offset, one in zip((0x100, 0x1000), wanted, strict=True):
        fetch_image(MICRO, bench, [one], offset)

    async def test(ctx):
        dut = bench.dut
        ctx.set(dut.program, PROGRAM)
        ctx.set(dut.lengths[0], 1)
        await bench.fetch(ctx, address=0x100, param_rows=first[0], weight_rows=first[1])
        ctx.set(
            dut.i.payload,
            {"address": 0x1000, "param_rows": second[0], "weight_rows": second[1]},
        )
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(300)
        assert ctx.get(dut.demand_filled) == first[1]
        assert bench.counts["misses"] == 1 and ctx.get(dut.busy | dut.stream_busy)
        assert all(address < PROGRAM + 0x1000 for _, address, _ in bench.memories[0].bursts)
        bench.reading = True
        await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        await bench.idle(ctx)
        assert ctx.get(dut.fault) == Error.NONE and bench.counts["misses"] == 2

    bench.run(test)
    bench.check(wanted, "demand_param", "demand")


def test_abort_in_flight_and_a_correct_second_run():
    bench = Bench(MICRO, latency=(20, 60), stall=0.1)
    data = blocks(MICRO, [(3, 50), (10, 60)], 7)
    beats = image(MICRO, data, at=STREAM_BASE, headers=True, contents=bench.contents)
    wanted = blocks(MICRO, [(4, 32)], 8)
    fetch_image(MICRO, bench, wanted, 0x100)

    async def test(ctx):
        dut, memory = bench.dut, bench.memories[0]
        for cut in (1, 3, 30, 61, 100, 155):
            await bench.start(ctx, beats)
            ctx.set(dut.lengths[0], 1)
            ctx.set(dut.i.payload, {"param_rows": 4, "weight_rows": 32, "address": 0x100})
            ctx.set(dut.i.valid, 1)
            await ctx.tick().repeat(cut)
            await pulse(ctx, dut.abort)
            bursts = len(memory.bursts)
            await ctx.tick().until(dut.quiet)
            assert memory.open_reads == 0
            assert len(memory.bursts) <= bursts + 1  # the one whose address was already offered
            await ctx.tick().repeat(80)
            assert ctx.get(dut.quiet) and memory.open_reads == 0
            ctx.set(dut.i.valid, 0)
            await pulse(ctx, bench.reset)
            assert not ctx.get(dut.busy | dut.stream_busy)
        await bench.start(ctx, beats)
        await bench.fetch(ctx, param_rows=4, weight_rows=32, address=0x100)
        await bench.idle(ctx)
        assert ctx.get(dut.fault) == Error.NONE

    bench.run(test)
    bench.check(data, "param", "ring")
    bench.check(wanted, "demand_param", "demand")


def faulty(case):
    """A bench with one thing wrong, a port's beats, and the FETCH to do, if any."""
    bench = Bench(MICRO)
    data = blocks(MICRO, [(1, 4), (2, 6)], 9)
    beats = image(MICRO, data, at=STREAM_BASE, headers=True, contents=bench.contents)
    fetch = None
    second = STREAM_BASE + 16 * (1 + 2 + 4 * 2)
    if case == "magic":
        bench.contents[second] ^= 1
    elif case == "rows":
        bench.contents[second + 7] = 1
    elif case == "packing":
        bench.contents[second + 12] = 2
    elif case == "cut short":
        beats -= 1
    elif case == "stream response":
        bench.faults.append((second, second + 16))
    elif case == "fetch response":
        bench.faults.append((PROGRAM + 0x40, PROGRAM + 0x50))
        fetch = {"param_rows": 1, "weight_rows": 8}
    elif case == "queue":
        fetch = {"queue": MICRO.limits.experts}
    elif case == "weight rows":
        fetch = {"weight_rows": MICRO.memory.demand_rows + 1}
    elif case == "parameter rows":
        fetch = {"param_rows": MICRO.memory.demand_param_rows + 1}
    elif case == "address":
        fetch = {"address": 8, "param_rows": 1}
    return bench, beats, fetch


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("magic", Error.STREAM),
        ("packing", Error.STREAM),
        ("rows", Error.STREAM),
        ("cut short", Error.STREAM),
        ("stream response", Error.READ),
        ("fetch response", Error.READ),
        ("queue", Error.FIELD),
        ("weight rows", Error.FIELD),
        ("parameter rows", Error.FIELD),
        ("address", Error.FIELD),
    ],
)
def test_faults(case, error):
    bench, beats, fetch = faulty(case)

    async def test(ctx):
        dut = bench.dut
        await bench.start(ctx, beats)
        if fetch is not None:
            for queue in range(MICRO.limits.experts):
                ctx.set(dut.lengths[queue], 1)
            ctx.set(dut.i.payload, fetch)
            ctx.set(dut.i.valid, 1)
        for _ in range(500):
            await ctx.tick()
            if ctx.get(dut.fault) != Error.NONE:
                break
        assert ctx.get(dut.fault) == error
        ctx.set(dut.abort, 1)
        await ctx.tick().until(dut.quiet)
        assert ctx.get(dut.fault) == error and bench.memories[0].open_reads == 0

    bench.run(test)
