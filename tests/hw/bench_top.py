"""cocotb bench of the whole accelerator between cocotbext-axi's masters and memories."""

import random
from typing import Any

import cocotb
from cocotb.triggers import First, RisingEdge, Timer
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiRamRead,
    AxiRamWrite,
    AxiReadBus,
    AxiWriteBus,
)
from support.agents import pauses, reset
from support.programs import place, run_program
from support.rtl import mismatch

from moevit.compiler import compile_network
from moevit.hw.config import preset
from moevit.hw.registers import DEVICE_ID, Control, Error, Register, Status
from moevit.quant.random_network import Sizes, random_images, random_network

CONFIG = preset("micro")
SIZES = Sizes(image_width=16, dim=16, hidden=24, expert_hidden=20, experts=3, moe=(0,), depth=1)


@cocotb.test()
async def frames(dut: Any) -> None:
    seed = random.getrandbits(16)
    network = random_network(seed, SIZES)
    image = random_images(seed, network.geometry)[0]
    program = compile_network(network, CONFIG, threshold=3.0)
    contents, at = place(program, image)
    size = 1 << at.size.bit_length()

    reads = AxiRamRead(AxiReadBus.from_prefix(dut, "m_axi_0"), dut.clk, dut.rst, size=size)
    writes = AxiRamWrite(
        AxiWriteBus.from_prefix(dut, "m_axi_0"), dut.clk, dut.rst, size=size, mem=reads.mem
    )
    channels = [reads.ar_channel, reads.r_channel]
    channels += [getattr(writes, f"{name}_channel") for name in ("aw", "w", "b")]
    for port in range(1, CONFIG.memory.ports):
        bus = AxiReadBus.from_prefix(dut, f"m_axi_{port}")
        weights = AxiRamRead(bus, dut.clk, dut.rst, size=size, mem=reads.mem)
        channels += [weights.ar_channel, weights.r_channel]
    control = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    for name in ("aw", "w", "b"):
        channels.append(getattr(control.write_if, f"{name}_channel"))
    channels += [control.read_if.ar_channel, control.read_if.r_channel]
    for channel in channels:
        channel.set_pause_generator(pauses(0.25))
    await reset(dut, 8)

    assert await control.read_dword(Register.ID) == DEVICE_ID
    assert await control.read_qword(Register.HASH_LOW) == CONFIG.hash
    await control.write_dword(Register.IMAGE_BASE, at.image)
    await control.write_dword(Register.OUTPUT_BASE, at.output)
    await control.write_dword(Register.IRQ_ENABLE, 1)
    for task in network.tasks:
        reads.write(0, contents.tobytes())
        await control.write_dword(Register.PROGRAM_BASE, program.task(task).base)
        await control.write_dword(Register.CONTROL, 1 << Control.START)
        await First(RisingEdge(dut.irq), Timer(2, unit="ms"))
        assert dut.irq.value, "no interrupt in 200,000 cycles"
        assert await control.read_dword(Register.ERROR) == Error.NONE
        assert await control.read_dword(Register.STATUS) == 1 << Status.DONE
        output = program.task(task).output
        got = output.unpack(reads.read(at.output + output.address, output.size))
        want, _ = run_program(program, image, task)
        assert not (wrong := mismatch(got, want)), f"seed {seed}, {task}: {wrong}"
        await control.write_dword(Register.CONTROL, 1 << Control.CLEAR_IRQ)
        assert await control.read_dword(Register.STATUS) == 0
        assert not dut.irq.value
