"""The data engine against the pseudo-code of LOAD and STORE, through an AXI memory that stalls."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st
from support.axi_memory import AxiMemory, get, pulse, put

from moevit.hw import isa
from moevit.hw.checks import encode_code
from moevit.hw.config import preset
from moevit.hw.isa import LoadKind
from moevit.hw.registers import Error
from moevit.hw.transfer import bursts, data

MICRO = preset("micro")
SHAPES = {
    "micro": MICRO,  # 8-byte words, two to a beat
    "ulx3s": MICRO.but(array__inputs=16, array__outputs=2),  # 4-byte words, four to a beat
    "default": MICRO.but(array__inputs=16, array__outputs=8, memory__ports=2),  # words of a beat
    "zcu104": MICRO.but(array__inputs=32, array__outputs=16, memory__ports=4),  # two beats a word
    "mixed": MICRO.but(limits__depth=128, array__inputs=64, array__outputs=8),  # four beats, one
}
SIZE = 1 << 17
LIMIT = 20_000  # cycles of a test
PROGRAM, IMAGE, OUTPUT = 0x1000, 0x8000, 0x10000


def fields(instruction):
    """An instruction for `put`."""
    return {name: getattr(instruction, name) for name in instruction.widths()}


@dataclass
class Bench:
    """The engine, its memory, and the memories on the chip as arrays of words of bytes."""

    config: object = MICRO
    latency: tuple[int, int] = (1, 12)
    stall: float = 0.3
    seed: int = 1
    deny: float = 0.4  # of a grant or a ready
    faults: list = field(default_factory=list)

    def __post_init__(self):
        config, memory = self.config, self.config.memory
        rng = np.random.default_rng(self.seed)
        self.dut = data.DataEngine(config)
        self.reset = Signal()
        self.contents = bytearray(rng.integers(0, 256, SIZE, np.uint8).tobytes())
        self.memory = AxiMemory(
            self.contents, read=self.dut.axi_r[0], write=self.dut.axi_w, latency=self.latency,
            stall=self.stall, seed=self.seed, faults=self.faults,
        )  # fmt: skip
        # The second port of LOADs, with a random order of its own.
        self.others = [
            AxiMemory(
                self.contents, read=axi, latency=self.latency, stall=self.stall,
                seed=self.seed + 7, faults=self.faults,
            )
            for axi in list(self.dut.axi_r)[1:]
        ]  # fmt: skip
        self.a = rng.integers(0, 256, (memory.activation_words, config.array.inputs), np.uint8)
        self.x = rng.integers(0, 256, (memory.residual_words, 2 * config.array.outputs), np.uint8)
        self.norm: dict = {}
        self.gives: list = []
        self.takes: list = []
        self.cycles = 0
        self.credit = True  # takes are answered

    async def chip(self, ctx):
        """Memories with random grants, and semaphores."""
        dut, rng = self.dut, random.Random(self.seed + 2)
        piece = self.config.piece_bytes
        denied = {"a_write": dut.a_write.ready, "x_write": dut.x_write.ready,
                  "norm": dut.norm.ready, "a": dut.a_grant, "x": dut.x_grant}  # fmt: skip
        grant = dict.fromkeys(denied, 0)
        takes = [dut.load_take, dut.store_take]
        answer = [0, 0]
        while True:
            sample = await ctx.tick().sample(
                dut.a_write.valid, dut.a_write.payload, dut.x_write.valid, dut.x_write.payload,
                dut.norm.valid, dut.norm.payload, dut.a_read.en, dut.a_read.addr, dut.x_read.en,
                dut.x_read.addr, dut.load_give.valid, dut.load_give.id, dut.load_give.count,
                dut.store_give.valid, dut.store_give.id, dut.store_give.count,
                *(s for take in takes for s in (take.valid, take.id, take.count)),
            )  # fmt: skip
            _, _, aw, a, xw, x, nw, n, ar, a_at, xr, x_at, *rest = sample
            gives, take = (rest[:3], rest[3:6]), rest[6:]
            self.cycles += 1
            if self.cycles > LIMIT:
                raise AssertionError("The test does not end")
            if aw and grant["a_write"]:
                for k in range(self.config.array.inputs):
                    if a.mask >> (k // piece) & 1:
                        self.a[a.addr, k] = a.data[k]
            if xw and grant["x_write"]:
                self.x[x.addr] = np.array(list(x.data), "<i2").view(np.uint8)
            if nw and grant["norm"]:
                self.norm[n.row, n.part] = n.data.to_bytes(16, "little")
            if ar and grant["a"]:
                ctx.set(dut.a_read.data, int.from_bytes(self.a[a_at].tobytes(), "little"))
            if xr and grant["x"]:
                words = self.x[x_at].view("<i2")
                ctx.set(dut.x_read.data, [int(word) for word in words])
            self.gives += [(at, count) for valid, at, count in gives if valid]
            for i, port in enumerate(takes):
                valid, id_, count = take[3 * i : 3 * i + 3]
                if valid and answer[i]:
                    self.takes.append((("load", "store")[i], id_, count))
                answer[i] = int(self.credit and rng.random() < 0.3)
                ctx.set(port.ready, answer[i])
            for name, signal in denied.items():
                grant[name] = int(rng.random() >= self.deny)
                ctx.set(signal, grant[name])

    async def bases(self, ctx):
        for name, value in (("program", PROGRAM), ("image", IMAGE), ("output", OUTPUT)):
            ctx.set(getattr(self.dut, name), value)
        ctx.set(self.dut.header_address, PROGRAM)

    async def until_idle(self, ctx):
        for _ in range(LIMIT):
            await ctx.tick()
            if not ctx.get(self.dut.store_busy) and not ctx.get(self.dut.load_busy):
                assert ctx.get(self.dut.quiet)
                return
        raise AssertionError("The engine is still busy")

    def run(self, test, *more):
        async def bench(ctx):
            await self.bases(ctx)
            await test(ctx)

        sim = Simulator(ResetInserter(self.reset)(self.dut))
        sim.add_clock(1e-6)
        reads = [memory.serve_reads for memory in (self.memory, *self.others)]
        for process in (*reads, self.memory.serve_writes, self.chip):
            sim.add_testbench(process, background=True)
        for process in (bench, *more):
            sim.add_testbench(process)
        sim.run()


def load_pixels(bench, a, i):
    """What LOAD PIXELS does to A (hw/isa.py)."""
    flat, memory = a.reshape(-1), np.frombuffer(bytes(bench.contents), np.uint8)
    for s in range(i.strips):
        for y in range(i.patch_rows):
            for p in range(i.patches):
                start = IMAGE + i.address + (s * i.patch_rows + y) * i.pitch + p * i.patch_bytes
                row = (i.target + (s * i.patches + p) * i.stride) * bench.config.array.inputs
                at = row + y * i.patch_bytes
                flat[at : at + i.patch_bytes] = memory[start : start + i.patch_bytes] - np.uint8(
                    128
                )


def pixel_load(draw, config):
    """A LOAD PIXELS with some of everything: padding, gaps, rows that end inside a word."""
    patch_bytes = config.piece_bytes * draw(st.integers(1, 13))
    patches, rows, strips = (draw(st.integers(1, high)) for high in (5, 4, 3))
    words = -(-patch_bytes * rows // config.array.inputs)
    row_bytes = -(-patches * patch_bytes // 16) * 16
    return isa.Load(
        kind=LoadKind.PIXELS,
        signal=draw(st.integers(0, 15)),
        address=16 * draw(st.integers(0, 300)),
        target=draw(st.integers(0, 99)),
        stride=words + draw(st.integers(0, 2)),
        strips=strips,
        patches=patches,
        patch_rows=rows,
        patch_bytes=patch_bytes,
        pitch=row_bytes + 16 * draw(st.integers(0, 2)),
    )


def store_rows(draw, config):
    """A STORE from either memory with gaps on both sides."""
    residual = draw(st.booleans())
    size = 2 * config.array.outputs if residual else config.array.inputs
    words = draw(st.integers(1, 12)) * max(16 // size, 1)
    return isa.Store(
        residual=residual,
        source=draw(st.integers(0, 50)),
        stride=words + draw(st.integers(0, 3)),
        words=words,
        rows=draw(st.integers(1, 7)),
        address=16 * draw(st.integers(0, 400)),
        pitch=words * size + 16 * draw(st.integers(0, 2)),
        wait=draw(st.integers(0, 2)),
        wait_count=draw(st.integers(0, 2)),
    )


@pytest.mark.parametrize("shape", sorted(SHAPES))
@settings(max_examples=3, deadline=None)
@given(st.data())
def test_pixels(shape, draws):
    bench = Bench(SHAPES[shape], seed=draws.draw(st.integers(0, 99)))
    expected, loads = bench.a.copy(), []
    for _ in range(draws.draw(st.integers(1, 5))):
        loads.append(pixel_load(draws.draw, bench.config))
        load_pixels(bench, expected, loads[-1])

    async def test(ctx):
        for load in loads:
            await put(ctx, bench.dut.load, fields(load))
        await bench.until_idle(ctx)
        assert ctx.get(bench.dut.fault) == Error.NONE

    bench.run(test)
    np.testing.assert_array_equal(bench.a, expected)
    assert bench.gives == [(load.signal, 1) for load in loads if load.signal]
    assert bench.takes == []


@pytest.mark.parametrize(
    ("shape", "patch_bytes", "least"),
    [("default", 48, 14.5), ("zcu104", 48, 14.5), ("default", 24, 9.3), ("zcu104", 24, 9.3)],
)
def test_pixel_throughput(shape, patch_bytes, least):
    config = SHAPES[shape].but(memory__landing_beats=256)
    bench = Bench(config, stall=0.0, deny=0.0, latency=(60, 60), seed=3)
    load = isa.Load(
        kind=LoadKind.PIXELS, strips=2, patches=16, patch_rows=8, patch_bytes=patch_bytes,
        pitch=16 * patch_bytes, stride=-(-patch_bytes * 8 // bench.config.array.inputs),
    )  # fmt: skip
    total = 2 * 16 * 8 * patch_bytes

    async def test(ctx):
        await put(ctx, bench.dut.load, fields(load))

    bench.run(test)
    rate = total / (bench.cycles - 60 - 20)
    assert rate >= least, (rate, bench.cycles, bench.memory.bursts)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_loads_of_words(shape):
    bench = Bench(SHAPES[shape], seed=4)
    x, word = bench.x.copy(), bench.x.shape[1]
    memory = np.frombuffer(bytes(bench.contents), np.uint8)
    beats = 70
    x.reshape(-1)[7 * word : 7 * word + 16 * beats] = memory[PROGRAM + 0xFC0 :][: 16 * beats]
    loads = [
        isa.Load(kind=LoadKind.RESIDUAL, address=0xFC0, target=7, beats=beats, wait=3, signal=2),
        isa.Load(kind=LoadKind.NORM, address=0x40, target=5, beats=21, wait=4, wait_count=9),
        isa.Load(kind=LoadKind.RESIDUAL, address=0x80, target=300, beats=beats, stored=1),
        isa.Load(kind=LoadKind.ACTIVATION, address=0x180, target=9, beats=84, stored=1, signal=5),
        isa.Load(kind=LoadKind.ACTIVATION, address=0x40, target=600, beats=24, wait=6),
    ]
    a, row = bench.a.copy(), bench.a.shape[1]
    for start, at, count in ((9, OUTPUT + 0x180, 84), (600, PROGRAM + 0x40, 24)):
        a.reshape(-1)[start * row : start * row + 16 * count] = memory[at:][: 16 * count]
    x.reshape(-1)[300 * word : 300 * word + 16 * beats] = memory[OUTPUT + 0x80 :][: 16 * beats]

    async def test(ctx):
        for load in loads:
            await put(ctx, bench.dut.load, fields(load))
        await bench.until_idle(ctx)
        assert ctx.get(bench.dut.fault) == Error.NONE

    bench.run(test)
    np.testing.assert_array_equal(bench.x, x)
    np.testing.assert_array_equal(bench.a, a)
    parts = bench.config.param_row_bytes // 16
    assert bench.norm == {
        (5 + i // parts, i % parts): memory[PROGRAM + 0x40 + 16 * i :][:16].tobytes()
        for i in range(21)
    }
    assert bench.gives == [(2, 1), (5, 1)]
    assert bench.takes == [("load", 3, 1), ("load", 4, 9), ("load", 6, 1)]


@pytest.mark.parametrize("shape", sorted(SHAPES))
@settings(max_examples=3, deadline=None)
@given(st.data())
def test_stores(shape, draws):
    bench = Bench(SHAPES[shape], seed=draws.draw(st.integers(0, 99)))
    expected, takes, stores = bytearray(bench.contents), [], []
    for _ in range(draws.draw(st.integers(1, 5))):
        store = store_rows(draws.draw, bench.config)
        stores.append(store)
        words = bench.x if store.residual else bench.a
        for r in range(store.rows):
            row = words[store.source + r * store.stride :][: store.words].tobytes()
            at = OUTPUT + store.address + r * store.pitch
            expected[at : at + len(row)] = row
        tiles = 1 if store.wait_count else -(-store.rows // bench.config.array.tokens)
        if store.wait:
            takes += [("store", store.wait, store.wait_count or 1)] * tiles

    async def test(ctx):
        for store in stores:
            await put(ctx, bench.dut.store, fields(store))
        await bench.until_idle(ctx)
        assert bench.memory.open_writes == 0
        assert ctx.get(bench.dut.fault) == Error.NONE

    bench.run(test)
    assert bench.contents == expected
    assert bench.takes == takes


def test_a_store_waits_for_its_tiles_and_for_the_answers():
    bench = Bench(stall=0.0, deny=0.0, latency=(20, 20))
    store = isa.Store(wait=1, words=2, rows=3, stride=2, pitch=16, signal=6)

    async def test(ctx):
        bench.credit = False
        ctx.set(bench.dut.store.payload, fields(store))
        ctx.set(bench.dut.store.valid, 1)
        await ctx.tick().repeat(60)
        assert bench.memory.write_bursts == [] and ctx.get(bench.dut.store_busy)
        bench.credit = True
        await ctx.tick().until(bench.dut.store.ready)
        ctx.set(bench.dut.store.valid, 0)
        assert len(bench.memory.write_bursts) == 3
        assert bench.memory.open_writes == 0  # complete when it is taken

    bench.run(test)
    assert bench.gives == [(6, 1)]


def test_a_load_reads_what_a_store_has_given_its_credit_for():
    bench = Bench(seed=5)
    rows, words = 7, 4
    beats = rows * words * bench.x.shape[1] // 16
    store = isa.Store(residual=1, source=40, stride=words, words=words, rows=rows, signal=3,
                      pitch=words * bench.x.shape[1], address=0x100)  # fmt: skip
    load = isa.Load(kind=LoadKind.RESIDUAL, stored=1, address=0x100, target=500, beats=beats)

    async def test(ctx):
        await put(ctx, bench.dut.store, fields(store))
        assert bench.memory.open_writes == 0
        await put(ctx, bench.dut.load, fields(load))
        await bench.until_idle(ctx)

    bench.run(test)
    np.testing.assert_array_equal(bench.x[500 : 500 + rows * words], bench.x[40:][: rows * words])


async def run_code(ctx, bench, address, words, *, pause=0.3, stop=None):
    """Starts the prefetcher and checks each instruction up to ``stop``."""
    dut, rng = bench.dut, random.Random(bench.seed)
    ctx.set(dut.code.address, address)
    ctx.set(dut.code.count, len(words))
    await pulse(ctx, dut.code.start)
    for i, word in enumerate(words[:stop]):
        while rng.random() < pause:
            await ctx.tick()
        got = await get(ctx, dut.code_o)
        assert (got.word, got.last, got.damaged) == (word, i == len(words) - 1, 0), i


def code_at(bench, address, count):
    """Random instructions with their checks, put into memory."""
    rng = random.Random(address)
    code = [rng.randbytes(32) for _ in range(count)]
    data = encode_code(code)
    bench.contents[address : address + len(data)] = data
    return [int.from_bytes(word, "little") for word in code]


def test_two_sides_load_at_a_time_and_give_in_order():
    """Residual words are there long before the pixels in front of them; their credit waits."""
    bench = Bench(SHAPES["zcu104"], stall=0, deny=0, latency=(20, 20))
    pixels = isa.Load(
        kind=LoadKind.PIXELS, strips=2, patches=2, patch_rows=8, patch_bytes=32, pitch=64,
        stride=16, signal=1,
    )  # fmt: skip
    words = isa.Load(kind=LoadKind.RESIDUAL, beats=4, signal=2)
    memory = np.frombuffer(bytes(bench.contents), np.uint8)
    there = []

    async def feed(ctx):
        for load in (pixels, words):
            await put(ctx, bench.dut.load, fields(load))

    async def watch(ctx):
        """Whether each side has written all of its words, when the first credit comes."""
        while not bench.gives:
            await ctx.tick()
            there[:] = [np.array_equal(bench.x.reshape(-1)[:64], memory[PROGRAM:][:64])]
            if there[0] and not bench.gives:
                return
        raise AssertionError("The residual words came behind the pixels")

    async def test(ctx):
        while len(bench.gives) < 2:
            await ctx.tick()

    bench.run(test, feed, watch)
    assert there == [True]
    assert [number for number, _ in bench.gives] == [1, 2]


@pytest.mark.parametrize("seed", [1, 2])
def test_header_and_code_beside_loads(seed):
    bench = Bench(seed=seed)
    programs = [(at, code_at(bench, at, n)) for at, n in ((0x2FE0, 50), (0x4000, 1), (0x5550, 33))]
    loads = [
        isa.Load(kind=LoadKind.RESIDUAL, beats=200, target=0),
        isa.Load(kind=LoadKind.RESIDUAL, beats=200, target=400, address=0x1230),
    ]
    x = bench.x.copy()
    for load in loads:
        raw = np.frombuffer(bytes(bench.contents), np.uint8)[PROGRAM + load.address :]
        x.reshape(-1)[8 * load.target :][: 16 * load.beats] = raw[: 16 * load.beats]

    async def feed(ctx):
        for load in loads:
            await put(ctx, bench.dut.load, fields(load))

    async def test(ctx):
        dut = bench.dut
        for at, code in programs:
            await pulse(ctx, dut.header_start)
            assert not ctx.get(dut.header_valid)
            await ctx.tick().until(dut.header_valid)
            header = bytes(bench.contents[PROGRAM : PROGRAM + 64])
            assert ctx.get(dut.header_data).to_bytes(64, "little") == header
            # A program that is left early must not leave anything to the next.
            await run_code(ctx, bench, at, code, stop=len(code) // 3)
            await run_code(ctx, bench, at, code)
        await bench.until_idle(ctx)

    bench.run(test, feed)
    np.testing.assert_array_equal(bench.x, x)


@pytest.mark.parametrize("seed", [1, 2])
def test_abort_in_flight_and_a_correct_second_run(seed):
    bench = Bench(latency=(10, 40), seed=seed)
    load = isa.Load(kind=LoadKind.RESIDUAL, beats=150, target=0)
    store = isa.Store(words=40, rows=6, stride=40, pitch=320)
    code = code_at(bench, 0x3000, 20)
    raw = bytes(bench.contents)
    stored = bench.a[: 6 * 40].tobytes()
    loaded = raw[PROGRAM : PROGRAM + 16 * load.beats]

    async def test(ctx):
        dut, memory, rng = bench.dut, bench.memory, random.Random(seed)
        for _ in range(4):
            for port, instruction in ((dut.load, load), (dut.store, store)):
                ctx.set(port.payload, fields(instruction))
                ctx.set(port.valid, 1)
            ctx.set(dut.code.address, 0x3000)
            ctx.set(dut.code.count, 20)
            await pulse(ctx, dut.code.start)
            await ctx.tick().repeat(rng.randint(1, 150))
            await pulse(ctx, dut.abort)
            bursts = len(memory.bursts) + len(memory.write_bursts)
            await ctx.tick().until(dut.quiet)
            assert memory.open_reads == memory.open_writes == 0
            assert len(memory.bursts) + len(memory.write_bursts) <= bursts + 2  # those offered
            await ctx.tick().repeat(60)
            assert ctx.get(dut.quiet) and memory.open_reads == memory.open_writes == 0
            for port in (dut.load, dut.store):
                ctx.set(port.valid, 0)
            await pulse(ctx, bench.reset)
        # Nothing but stored bytes may have been written.
        low = OUTPUT + len(stored)
        assert bytes(bench.contents[:OUTPUT]) == raw[:OUTPUT]
        assert bytes(bench.contents[low:]) == raw[low:]
        for i, byte in enumerate(bench.contents[OUTPUT:low]):
            assert byte in (raw[OUTPUT + i], stored[i])
        bench.contents[OUTPUT:low] = raw[OUTPUT:low]
        bench.x[:] = 0
        await run_code(ctx, bench, 0x3000, code)
        await put(ctx, dut.load, fields(load))
        await put(ctx, dut.store, fields(store))
        await bench.until_idle(ctx)
        assert ctx.get(dut.fault) == Error.NONE

    bench.run(test)
    assert bytes(bench.contents[OUTPUT:][: len(stored)]) == stored
    assert bench.x.tobytes()[: len(loaded)] == loaded


PIXELS = {
    "kind": LoadKind.PIXELS, "strips": 1, "patches": 2, "patch_rows": 2, "patch_bytes": 8,
    "pitch": 16, "stride": 2,
}  # fmt: skip
BEATS = {"kind": LoadKind.RESIDUAL, "beats": 8}
NORM = {"kind": LoadKind.NORM, "beats": 8}
STORE = {"words": 2, "rows": 2, "stride": 2, "pitch": 16}
WORDS, RESIDUALS = MICRO.memory.activation_words, MICRO.memory.residual_words


@pytest.mark.parametrize(
    ("port", "values", "error"),
    [
        ("load", PIXELS | {"strips": 0}, Error.FIELD),
        ("load", PIXELS | {"patches": 0}, Error.FIELD),
        ("load", PIXELS | {"patch_rows": 0}, Error.FIELD),
        ("load", PIXELS | {"patch_bytes": 0}, Error.FIELD),
        ("load", PIXELS | {"patch_bytes": 6}, Error.FIELD),
        ("load", PIXELS | {"pitch": 24}, Error.FIELD),
        ("load", PIXELS | {"address": 8}, Error.FIELD),
        ("load", PIXELS | {"kind": LoadKind.ACTIVATION}, Error.FIELD),  # no beats
        ("load", PIXELS | {"target": WORDS - 3}, Error.ADDRESS),
        ("load", BEATS | {"beats": 0}, Error.FIELD),
        ("load", BEATS | {"target": RESIDUALS - 15}, Error.ADDRESS),
        ("load", NORM | {"beats": 0}, Error.FIELD),
        ("load", NORM | {"target": MICRO.memory.norm_rows - 3}, Error.ADDRESS),
        ("load", BEATS | {"address": SIZE - PROGRAM - 64}, Error.READ),
        ("store", STORE | {"words": 0}, Error.FIELD),
        ("store", STORE | {"words": 3}, Error.FIELD),
        ("store", STORE | {"rows": 0}, Error.FIELD),
        ("store", STORE | {"pitch": 8}, Error.FIELD),
        ("store", STORE | {"address": 8}, Error.FIELD),
        ("store", STORE | {"source": WORDS - 3}, Error.ADDRESS),
        ("store", STORE | {"source": RESIDUALS - 3, "residual": 1}, Error.ADDRESS),
        ("store", STORE | {"address": SIZE - OUTPUT - 16}, Error.WRITE),
    ],
)
def test_faults(port, values, error):
    bench = Bench(stall=0.0, deny=0.0)
    kind = isa.Load if port == "load" else isa.Store
    before = bytes(bench.contents)

    async def test(ctx):
        stream = getattr(bench.dut, port)
        ctx.set(stream.payload, fields(kind(**values)))
        ctx.set(stream.valid, 1)
        for _ in range(200):
            await ctx.tick()
            if ctx.get(bench.dut.fault) != Error.NONE:
                break
        assert ctx.get(bench.dut.fault) == error
        ctx.set(bench.dut.abort, 1)
        await ctx.tick().until(bench.dut.quiet)
        assert bench.memory.open_reads == bench.memory.open_writes == 0
        ctx.set(stream.valid, 0)
        await pulse(ctx, bench.reset)
        assert ctx.get(bench.dut.fault) == Error.NONE

    bench.run(test)
    if port == "load":
        assert bytes(bench.contents) == before


@pytest.mark.parametrize("low", [0x1000, 0x3010])
def test_error_response_to_code(low):
    bench = Bench(faults=[(low, low + 16)])

    async def test(ctx):
        dut = bench.dut
        ctx.set(dut.code.address, 0x3000)
        ctx.set(dut.code.count, 4)
        await pulse(ctx, dut.header_start if low == PROGRAM else dut.code.start)
        for _ in range(200):
            await ctx.tick()
        assert ctx.get(dut.fault) == Error.READ

    bench.run(test)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"burst": (48, 16), "capacity": (64, 64), "first": 0}, "power of two up to 256"),
        ({"burst": (16, 512), "capacity": (64, None), "first": 0}, "not 512"),
        ({"burst": (16, 32), "capacity": (64, 31), "first": 0}, "at least a burst of 32"),
        ({"burst": (16, 16), "capacity": (64, 64), "first": 2}, "0 or 1, not 2"),
    ],
)
def test_bad_reader_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        bursts.Reader(**parameters)
