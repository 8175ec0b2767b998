"""The control registers against hw/registers.py, from an AXI4-Lite master with random timing."""

import random

import pytest
from amaranth.sim import Simulator

from moevit.hw.config import ISA_VERSION, preset
from moevit.hw.control import axi_lite as control
from moevit.hw.registers import (
    COUNTER_BASE,
    DEVICE_ID,
    EXPERT_BASE,
    Control,
    Counter,
    Error,
    Register,
    Status,
)

DIAL = {Register.TOP_K: 4, Register.MIN_SCORE: 15, Register.TOP_P: 16}
"""Registers of a frame's dial, and their bits."""

CONFIG = preset("micro").but(limits__top_k=2, limits__experts=6)
OKAY, SLVERR = 0, 2
START, ABORT, CLEAR = (1 << bit for bit in (Control.START, Control.ABORT, Control.CLEAR_IRQ))


class Master:
    """Accesses with random gaps between address, data and the taking of the answer."""

    def __init__(self, ctx, dut, seed):
        self.ctx, self.bus, self.rng = ctx, dut.bus, random.Random(seed)

    async def gap(self):
        for _ in range(self.rng.choice((0, 0, 1, 3))):
            await self.ctx.tick()

    async def write(self, address, data, strobe=15):
        ctx, bus = self.ctx, self.bus
        ctx.set(bus.awaddr, address)
        ctx.set(bus.wdata, data)
        ctx.set(bus.wstrb, strobe)
        for signal in self.rng.sample([bus.awvalid, bus.wvalid], 2):
            await self.gap()
            ctx.set(signal, 1)
        await ctx.tick().until(bus.awready & bus.wready)
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        assert ctx.get(bus.bvalid)
        await self.gap()
        ctx.set(bus.bready, 1)
        (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
        ctx.set(bus.bready, 0)
        assert not ctx.get(bus.bvalid)
        return response

    async def read(self, address):
        ctx, bus = self.ctx, self.bus
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        await ctx.tick().until(bus.arready)
        ctx.set(bus.arvalid, 0)
        await self.gap()
        ctx.set(bus.rready, 1)
        data, response = await ctx.tick().sample(bus.rdata, bus.rresp).until(bus.rvalid)
        ctx.set(bus.rready, 0)
        assert not ctx.get(bus.rvalid)
        return data, response


def simulate(test, *, seed=0):
    dut = control.ControlRegisters(CONFIG)
    pulses = {"abort": 0}

    async def count(ctx):
        while True:
            _, _, abort = await ctx.tick().sample(dut.abort)
            pulses["abort"] += abort

    async def bench(ctx):
        await test(ctx, dut, Master(ctx, dut, seed), pulses)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(count, background=True)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_word_of_the_map(seed):
    async def test(ctx, dut, master, pulses):
        values = {}
        for counter in Counter:
            values[COUNTER_BASE + 4 * counter] = value = master.rng.getrandbits(32)
            ctx.set(dut.counters[int(counter)], value)
        for expert in range(CONFIG.limits.experts):
            values[EXPERT_BASE + 4 * expert] = value = master.rng.getrandbits(16)
            ctx.set(dut.experts[expert], value)
        for register in (Register.PROGRAM_BASE, Register.IMAGE_BASE, Register.OUTPUT_BASE):
            values[register] = master.rng.getrandbits(32)
            assert await master.write(register, values[register]) == OKAY
        for register, width in DIAL.items():
            value = master.rng.getrandbits(32)
            values[register] = value & ((1 << width) - 1)
            assert await master.write(register, value) == OKAY
        assert await master.write(Register.IRQ_ENABLE, 0xFFFF_FFFF) == OKAY
        values |= {
            Register.ID: DEVICE_ID,
            Register.VERSION: ISA_VERSION,
            Register.HASH_LOW: CONFIG.hash & 0xFFFF_FFFF,
            Register.HASH_HIGH: CONFIG.hash >> 32,
            Register.CONTROL: 0,
            Register.STATUS: 0,
            Register.ERROR: 0,
            Register.IRQ_ENABLE: 1,
            Register.FRAMES: 0,
            Register.DAMAGE: 0,
        }
        addresses = [*range(0, 0x300, 4), 0x800, 0xC00, 0xFFC]
        for address in master.rng.sample(addresses, len(addresses)):
            expected = (values[address], OKAY) if address in values else (0, SLVERR)
            assert await master.read(address) == expected, hex(address)

    simulate(test, seed=seed)


def test_byte_strobes_and_registers_that_cannot_be_written():
    async def test(ctx, dut, master, pulses):
        assert await master.write(Register.PROGRAM_BASE, 0x11223344) == OKAY
        assert await master.write(Register.PROGRAM_BASE, 0xAABBCCDD, strobe=0b0101) == OKAY
        assert await master.read(Register.PROGRAM_BASE) == (0x11BB33DD, OKAY)
        read_only = (Register.ID, Register.STATUS, Register.ERROR, Register.FRAMES, COUNTER_BASE)
        for address in (*read_only, 0x34, 0xFFC):
            assert await master.write(address, 0xFFFF_FFFF) == SLVERR
        assert await master.write(Register.CONTROL, START, strobe=0b1110) == OKAY
        assert pulses == {"abort": 0} and not ctx.get(dut.frames.valid)

    simulate(test)


def test_a_frame_from_start_to_interrupt():
    async def test(ctx, dut, master, pulses):
        async def status():
            return (await master.read(Register.STATUS))[0]

        async def finish(signal):
            ctx.set(signal, 1)
            ctx.set(dut.busy, 0)
            await ctx.tick()
            ctx.set(signal, 0)

        async def take():
            """The sequencer takes a frame and runs it."""
            ctx.set(dut.busy, 1)
            ctx.set(dut.frames.ready, 1)
            await ctx.tick()
            ctx.set(dut.frames.ready, 0)

        await master.write(Register.IRQ_ENABLE, 1)
        assert await master.write(Register.CONTROL, START) == OKAY
        assert await status() == 1 << Status.BUSY
        await take()
        assert await status() == 1 << Status.BUSY and not ctx.get(dut.frames.valid)
        await finish(dut.done)
        assert ctx.get(dut.irq) and await status() == 1 << Status.DONE
        await master.write(Register.CONTROL, CLEAR)
        assert not ctx.get(dut.irq) and await status() == 0

        await master.write(Register.CONTROL, START)
        await take()
        await master.write(Register.CONTROL, ABORT)
        await ctx.tick()
        assert pulses == {"abort": 1}
        ctx.set(dut.error, Error.ABORTED)
        await finish(dut.failed)
        ctx.set(dut.error, 0)
        assert ctx.get(dut.irq) and await status() == 1 << Status.FAILED
        assert await master.read(Register.ERROR) == (Error.ABORTED, OKAY)
        await master.write(Register.CONTROL, CLEAR)
        assert await master.read(Register.ERROR) == (Error.ABORTED, OKAY)
        assert await master.read(Register.FRAMES) == (2, OKAY)
        await master.write(Register.CONTROL, START)
        assert await master.read(Register.ERROR) == (Error.NONE, OKAY)
        assert await status() == 1 << Status.BUSY and not ctx.get(dut.irq)

    simulate(test)


def test_frames_wait_with_what_they_were_started_with():
    async def test(ctx, dut, master, pulses):
        async def start(n):
            for register in DIAL:
                assert await master.write(register, n + register % 16) == OKAY
            for register in (Register.PROGRAM_BASE, Register.IMAGE_BASE, Register.OUTPUT_BASE):
                assert await master.write(register, register * 4096 + 64 * n) == OKAY
            assert await master.write(Register.CONTROL, START) == OKAY

        async def taken():
            ctx.set(dut.frames.ready, 1)
            _, _, frame = await ctx.tick().sample(dut.frames.payload)
            ctx.set(dut.frames.ready, 0)
            dial = frame.dial
            n = dial.top_k
            assert (dial.least, dial.enough) == (n + 4, n + 8)
            bases = (frame.program, frame.image, frame.output)
            return n, *(base % 4096 // 64 for base in bases)

        async def waits():
            return bool((await master.read(Register.STATUS))[0] >> Status.FULL & 1)

        await start(0)
        ctx.set(dut.busy, 1)
        assert await taken() == (0, 0, 0, 0)
        for n in range(1, control.WAITING + 1):
            assert not await waits()
            await start(n)
        assert await waits()
        await start(9)  # no room
        for n in range(1, control.WAITING + 1):
            assert await taken() == (n, n, n, n)
        assert not ctx.get(dut.frames.valid)

        # DONE stays while frames follow one another; a failed frame takes those behind it along.
        ctx.set(dut.done, 1)
        await ctx.tick()
        ctx.set(dut.done, 0)
        await start(5)
        assert (await master.read(Register.STATUS))[0] == 1 << Status.DONE | 1 << Status.BUSY
        ctx.set(dut.failed, 1)
        await ctx.tick()
        ctx.set(dut.failed, 0)
        ctx.set(dut.busy, 0)
        assert not ctx.get(dut.frames.valid)
        status = (await master.read(Register.STATUS))[0]
        assert status == 1 << Status.DONE | 1 << Status.FAILED

    simulate(test)


@pytest.mark.parametrize(
    ("register", "value", "bad"),
    [
        (Register.PROGRAM_BASE, 0xFFFF_FFC0, 0),
        (Register.PROGRAM_BASE, 0x20, 1),
        (Register.IMAGE_BASE, 0x10, 0),
        (Register.IMAGE_BASE, 0x8, 1),
        (Register.OUTPUT_BASE, 0x8000_0001, 1),
    ],
)
def test_alignment_of_the_bases(register, value, bad):
    async def test(ctx, dut, master, pulses):
        await master.write(register, value)
        await master.write(Register.CONTROL, START)
        await ctx.tick().until(dut.frames.valid)
        assert ctx.get(dut.frames.payload.bad) == bad

    simulate(test)
