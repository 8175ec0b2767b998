"""Two engines on one memory port: each gets its own, and none waits for the other's reader."""

from functools import partial

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st
from support.axi_memory import AxiMemory, put

from moevit.hw.transfer import bursts
from moevit.hw.transfer.port_share import Share

BURSTS = ((16, 16), (8, 16))
ROOM = ((32, 32), (8, 32))
LIMIT = 6_000  # cycles of a test


class Pair(Elaboratable):
    """Two readers behind one port, as in the core."""

    def __init__(self):
        self.readers = [
            bursts.Reader(burst=burst, capacity=room, first=0)
            for burst, room in zip(BURSTS, ROOM, strict=True)
        ]
        self.share = Share()

    def elaborate(self, platform):
        m = Module()
        m.submodules.share = self.share
        for n, reader in enumerate(self.readers):
            m.submodules[f"reader{n}"] = reader
            wiring.connect(m, reader.axi, self.share.masters[n])
        return m


class Bench:
    """Jobs for the four requesters; ``pause[n]`` is how often the places of one are not freed."""

    def __init__(self, seed=1, latency=(1, 20), stall=0.3, pause=(0.3, 0.3, 0.3, 0.3), faults=()):
        self.dut, self.pause = Pair(), list(pause)
        self.rng = np.random.default_rng(seed)
        contents = bytearray(self.rng.bytes(1 << 16))
        self.memory = AxiMemory(contents, read=self.dut.share.axi, latency=latency, stall=stall,
                                seed=seed, faults=list(faults))  # fmt: skip
        self.got = [b""] * 4
        self.jobs = [[] for _ in range(4)]
        self.cycles = 0

    def requester(self, n):
        """Reader and its requester."""
        return self.dut.readers[n // 2], n % 2

    def add(self, n, address, beats):
        self.jobs[n].append((address, beats))

    def expected(self, n):
        return b"".join(bytes(self.memory.contents[a : a + 16 * b]) for a, b in self.jobs[n])

    async def ask(self, ctx, n):
        reader, k = self.requester(n)
        for address, beats in self.jobs[n]:
            await put(ctx, reader.jobs[k], {"address": address, "beats": beats})

    async def take(self, ctx, n):
        """Keeps beats, and frees their places after a while."""
        reader, k = self.requester(n)
        held = 0
        while True:
            _, _, valid, data = await ctx.tick().sample(reader.valid[k], reader.data)
            if valid:
                self.got[n] += data.to_bytes(16, "little")
            free = held > 0 and self.rng.random() >= self.pause[n]
            held += valid - free
            ctx.set(reader.freed[k], free)

    async def clock(self, ctx):
        while True:
            await ctx.tick()
            self.cycles += 1
            assert self.cycles < LIMIT, "the test does not end"

    def run(self, test):
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        for n in range(4):
            sim.add_testbench(partial(self.take, n=n), background=True)
            sim.add_testbench(partial(self.ask, n=n), background=True)
        sim.add_testbench(self.clock, background=True)
        sim.add_testbench(self.memory.serve_reads, background=True)
        sim.add_testbench(test)
        sim.run()

    async def complete(self, ctx, requesters):
        while any(len(self.got[n]) < len(self.expected(n)) for n in requesters):
            await ctx.tick()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 16),
    latency=st.sampled_from([(1, 1), (1, 40), (60, 60)]),
    stall=st.sampled_from([0.0, 0.3, 0.7]),
    sizes=st.lists(st.integers(1, 70), min_size=4, max_size=12),
)
def test_each_gets_its_own_beats_in_order(seed, latency, stall, sizes):
    """The memory answers in any order between IDs and stalls on every channel."""
    bench = Bench(seed, latency, stall)
    for n, beats in enumerate(sizes):
        bench.add(n % 4, 16 * int(bench.rng.integers(0, 4000)), beats)

    async def test(ctx):
        await bench.complete(ctx, range(4))
        for reader in bench.dut.readers:
            await ctx.tick().until(reader.idle[0] & reader.idle[1])
            assert not ctx.get(reader.error)

    bench.run(test)
    assert bench.got == [bench.expected(n) for n in range(4)]
    for id_, address, beats in bench.memory.bursts:
        assert any(a <= address < a + 16 * b for a, b in bench.jobs[id_]), (id_, address, beats)


@pytest.mark.parametrize("stuck", [(2, 3), (0, 1)], ids=["data", "weights"])
def test_what_is_never_taken_holds_nobody_up(stuck):
    """A reader whose places are never freed asks for what fits, and no more; the other goes on."""
    bench = Bench(stall=0.5)
    for n in range(4):
        bench.pause[n] = 1.0 if n in stuck else 0.2
        bench.add(n, 0x1000 * (n + 1), 120)
    others = [n for n in range(4) if n not in stuck]

    async def test(ctx):
        await bench.complete(ctx, others)
        await ctx.tick().repeat(200)

    bench.run(test)
    for n in stuck:
        asked = sum(beats for id_, _, beats in bench.memory.bursts if id_ == n)
        assert asked == len(bench.got[n]) // 16 <= ROOM[n // 2][n % 2]
    assert [bench.got[n] for n in others] == [bench.expected(n) for n in others]


def test_addresses_take_turns():
    """With both at work all the time neither runs away, and the port is always busy."""
    bench = Bench(latency=(1, 1), stall=0.0, pause=(0.0,) * 4)
    bench.add(0, 0, 400)
    bench.add(3, 0x8000, 400)

    async def test(ctx):
        await bench.complete(ctx, (0, 3))
        assert bench.cycles < 840  # a beat a cycle

    bench.run(test)
    order = [id_ for id_, _, _ in bench.memory.bursts]
    ahead = np.cumsum([1 if id_ else -1 for id_ in order[:48]])
    assert np.ptp(ahead) <= 4  # bursts; two fit a reader's places


@pytest.mark.parametrize("cut", [1, 2, 5, 17, 40, 90])
def test_cancelled_in_flight_and_correct_afterwards(cut):
    """`idle` rises when the memory owes nothing, for both; the next jobs are whole."""
    bench = Bench(latency=(10, 40), stall=0.3)
    later = [(0x2000 * (n + 1), 40 + n) for n in range(4)]
    for n in range(4):
        bench.add(n, 0x1000 * n, 100)

    async def test(ctx):
        readers = bench.dut.readers
        await ctx.tick().repeat(cut)
        for reader in readers:
            for k in range(2):
                ctx.set(reader.cancel[k], 1)
        await ctx.tick().repeat(2)
        for reader in readers:
            for k in range(2):
                await ctx.tick().until(reader.idle[k])
        assert bench.memory.open_reads == 0
        before = len(bench.memory.bursts)
        await ctx.tick().repeat(80)
        assert len(bench.memory.bursts) == before
        for reader in readers:
            for k in range(2):
                ctx.set(reader.cancel[k], 0)
        bench.got = [b""] * 4
        bench.jobs = [[job] for job in later]
        for n, (address, beats) in enumerate(later):
            reader, k = bench.requester(n)
            await put(ctx, reader.jobs[k], {"address": address, "beats": beats})
        await bench.complete(ctx, range(4))

    bench.run(test)
    assert bench.got == [bench.expected(n) for n in range(4)]


@pytest.mark.parametrize("guilty", range(4))
def test_an_error_response_is_its_readers(guilty):
    at = 0x1000 * (guilty + 1)
    bench = Bench(faults=[(at + 32, at + 48)])
    for n in range(4):
        bench.add(n, 0x1000 * (n + 1), 20)

    async def test(ctx):
        await bench.complete(ctx, range(4))
        await ctx.tick()
        for n, reader in enumerate(bench.dut.readers):
            assert ctx.get(reader.error) == (n == guilty // 2)

    bench.run(test)


@pytest.mark.parametrize("chance", [1.0, 0.4])
def test_the_arbiter_alternates(chance):
    """Two masters that always have an address, or often: whoever issued last yields."""
    dut = Share()
    rng = np.random.default_rng(3)
    seen = []

    async def test(ctx):
        for n, master in enumerate(dut.masters):
            ctx.set(master.arvalid, 1)
            ctx.set(master.arid, n)
        for _ in range(200):
            ctx.set(dut.axi.arready, bool(rng.random() < chance))
            _, _, valid, ready, id_ = await ctx.tick().sample(
                dut.axi.arvalid, dut.axi.arready, dut.axi.arid
            )
            if valid and ready:
                seen.append(id_)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(test)
    sim.run()
    assert len(seen) > 60
    assert set(seen[::2]) | set(seen[1::2]) == {0, 3}
    assert len(set(seen[::2])) == len(set(seen[1::2])) == 1
    if chance == 1.0:
        assert len(seen) == 199  # an address a cycle
