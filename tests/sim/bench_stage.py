"""cocotb bench of `test_runner.Stage`: what goes in comes out, plus one, under random stalls."""

import json
import os
import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

PARAMETERS = json.loads(os.environ.get("MOEVIT_BENCH", "{}"))


async def reset(dut: Any) -> None:
    cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
    dut.i__valid.value = 0
    dut.o__ready.value = 0
    dut.rst.value = 1
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


@cocotb.test()
async def adds_one(dut: Any) -> None:
    await reset(dut)
    sent = [random.randrange(256) for _ in range(PARAMETERS.get("count", 100))]
    got: list[int] = []
    waiting = list(sent)
    while len(got) < len(sent):
        if not dut.i__valid.value:
            offer = bool(waiting) and random.random() < 0.6
            dut.i__valid.value = offer
            dut.i__payload.value = waiting[0] if offer else 0
        dut.o__ready.value = random.random() < 0.6
        await ReadOnly()
        taken = dut.i__valid.value and dut.i__ready.value
        if dut.o__valid.value and dut.o__ready.value:
            got.append(int(dut.o__payload.value))
        await RisingEdge(dut.clk)
        if taken:
            waiting.pop(0)
            dut.i__valid.value = 0
    add = PARAMETERS.get("add", 1)
    assert got == [(value + add) % 256 for value in sent]
