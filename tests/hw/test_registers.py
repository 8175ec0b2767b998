"""The register map as data: complete, and what the hardware does."""

from __future__ import annotations

from enum import IntEnum

import pytest
from amaranth.sim import Simulator

from moevit.hw.config import preset
from moevit.hw.control.axi_lite import ControlRegisters
from moevit.hw.registers import COUNTER_BASE, Access, Control, Counter, Error, Register, Status

OKAY, SLAVE_ERROR = 0, 2


@pytest.mark.parametrize("kind", [Control, Status, Error, Counter, Register])
def test_every_member_says_what_it_means(kind: type[IntEnum]) -> None:
    assert all(member.meaning for member in kind)  # type: ignore[attr-defined]
    if kind is not Register:
        assert [int(member) for member in kind] == list(range(len(kind)))


def test_offsets() -> None:
    assert all(register % 4 == 0 and register < COUNTER_BASE for register in Register)
    assert Register(0x1C).access == Access.READ_WRITE


def test_access() -> None:
    """Each register answers a write as its access says, and keeps it only if it is rw."""
    dut = ControlRegisters(preset("micro"))
    answers: dict[Register, tuple[int, bool]] = {}

    async def bench(ctx) -> None:
        bus = dut.bus
        for signal in (bus.bready, bus.rready):
            ctx.set(signal, 1)

        async def read(register: Register) -> int:
            ctx.set(bus.araddr, register)
            ctx.set(bus.arvalid, 1)
            await ctx.tick().until(bus.arready)
            ctx.set(bus.arvalid, 0)
            (value,) = await ctx.tick().sample(bus.rdata).until(bus.rvalid)
            return value

        for register in Register:
            before = await read(register)
            ctx.set(bus.awaddr, register)
            ctx.set(bus.wdata, ~before & 0xFFFF_FFF8)  # no bit of CONTROL
            ctx.set(bus.wstrb, 15)
            ctx.set(bus.awvalid, 1)
            ctx.set(bus.wvalid, 1)
            await ctx.tick().until(bus.awready)
            ctx.set(bus.awvalid, 0)
            ctx.set(bus.wvalid, 0)
            response = ctx.get(bus.bresp)
            await ctx.tick()
            answers[register] = response, await read(register) != before

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    for register, (response, changed) in answers.items():
        assert (response == SLAVE_ERROR) == (register.access == Access.READ_ONLY), register.name
        kept = register.access == Access.READ_WRITE and register != Register.IRQ_ENABLE
        assert changed == kept, register.name  # IRQ_ENABLE has one bit, which stays 0 here
