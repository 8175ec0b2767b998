"""The residual memory where its last words are block RAM."""

import random

import pytest
from amaranth.sim import Simulator

from moevit.hw.config import preset
from moevit.hw.memories import Residual


@pytest.mark.parametrize("depth", [100, 4200])
def test_residual(depth: int) -> None:
    """Both copies give what was written last, and keep it until the next read."""
    dut, rng = Residual(preset("micro").but(memory__residual_words=depth)), random.Random(1)
    edge = min(depth - 2, 4095)
    addresses = [0, 1, edge - 1, edge, edge + 1, depth - 1]
    held: dict[int, list[int]] = {}

    async def test(ctx):
        write, epilogue, norm = dut.writes[0], dut.reads[0], dut.reads[1]
        for address in addresses:
            held[address] = [rng.randrange(-(1 << 15), 1 << 15) for _ in range(4)]
            ctx.set(write.payload, {"addr": address, "data": held[address]})
            ctx.set(write.valid, 1)
            await ctx.tick()
        ctx.set(write.valid, 0)
        for _ in range(40):
            pair = [rng.choice(addresses) for _ in range(2)]
            for port, address in zip((epilogue, norm), pair, strict=True):
                ctx.set(port.en, 1)
                ctx.set(port.addr, address)
            await ctx.tick()
            for port in (epilogue, norm):
                ctx.set(port.en, 0)
                ctx.set(port.addr, rng.choice(addresses))
            for _ in range(2):
                for port, address in zip((epilogue, norm), pair, strict=True):
                    assert list(ctx.get(port.data)) == held[address]
                await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(test)
    sim.run()
