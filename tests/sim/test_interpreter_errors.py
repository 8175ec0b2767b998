"""Malformed programs end in the device's error codes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from support.programs import place

from moevit.compiler import Program, compile_network
from moevit.hw.config import preset
from moevit.hw.isa import INSTRUCTION_BYTES, Attention, Gemm, Halt, Load, Norm, Store, Sync
from moevit.hw.registers import Error
from moevit.quant.random_network import random_images, random_network
from moevit.sim.errors import DeviceError
from moevit.sim.interpreter import Interpreter


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(random_network(0), preset("micro"))


def run(
    program: Program, change: Callable[[np.ndarray], None] | None = None, **bases: int
) -> DeviceError:
    """The error of a frame whose memory was changed before."""
    image = random_images(0, program.geometry)[0]
    memory, at = place(program, image)
    if change:
        change(memory)
    where = {"program_base": 0, "image_base": at.image, "output_base": at.output}
    with pytest.raises(DeviceError) as caught:
        Interpreter(program.config).run(memory, **{**where, **bases})
    return caught.value


def patch(program: Program, n: int, **fields: int) -> Callable[[np.ndarray], None]:
    """Instruction ``n`` with other fields."""

    def change(memory: np.ndarray) -> None:
        word = replace(program.instructions("task0")[n], **fields).encode()
        start = program.header("task0").code_offset + n * INSTRUCTION_BYTES
        memory[start : start + INSTRUCTION_BYTES] = np.frombuffer(word, np.uint8)

    return change


def find(program: Program, kind: type, which: int = 0) -> int:
    code = program.instructions("task0")
    return [n for n, i in enumerate(code) if type(i) is kind][which]


def put(address: int, *values: int) -> Callable[[np.ndarray], None]:
    def change(memory: np.ndarray) -> None:
        memory[address : address + len(values)] = values

    return change


def test_header(program: Program) -> None:
    assert run(program, put(0, 0)).code == Error.HEADER
    error = run(program, put(4, 9))
    assert error.code == Error.HEADER
    assert "version is 9, expected 1" in str(error)
    error = run(program, put(8, 0, 0, 0, 0, 0, 0, 0, 0))
    assert error.code == Error.HASH
    assert f"{program.config.hash:016x}" in str(error)


def test_code(program: Program) -> None:
    start = program.header("task0").code_offset
    assert run(program, put(start, 0)).code == Error.OPCODE
    assert run(program, put(16 + 4, 3, 0)).code == Error.TRUNCATED  # code_count
    halt = Halt().encode()
    assert run(program, put(start, *halt)).code == Error.OPCODE


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Gemm, {"source": (1 << 20) - 1}),
        (Gemm, {"target": (1 << 20) - 1}),
        (Norm, {"params": 4095}),
        (Norm, {"source": 1 << 19}),
        (Attention, {"k_base": 60000}),
        (Attention, {"target": 1 << 19}),
        (Store, {"source": 1 << 19}),
        (Load, {"target": 1 << 19}),
    ],
)
def test_addresses(program: Program, kind: type, fields: dict[str, int]) -> None:
    n = find(program, kind)
    error = run(program, patch(program, n, **fields))
    assert error.code == Error.ADDRESS
    assert f"instruction {n} ({kind.__name__.upper()})" in str(error)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Gemm, {"otiles": 0}),
        (Gemm, {"depth": 1000}),
        (Gemm, {"tokens": 0}),
        (Norm, {"tokens": 0}),
        (Attention, {"heads": 0}),
        (Attention, {"keys": 4000}),
        (Store, {"rows": 0}),
        (Load, {"beats": 0}),
    ],
)
def test_fields(program: Program, kind: type, fields: dict[str, int]) -> None:
    assert run(program, patch(program, find(program, kind), **fields)).code == Error.FIELD


def test_stream(program: Program) -> None:
    header = program.header("task0")
    assert run(program, put(header.stream_offset, 0)).code == Error.STREAM
    huge = put(header.stream_offset + 8, 0xFF, 0xFF, 0xFF, 0)
    assert run(program, huge).code == Error.STREAM
    assert run(program, put(28, 1, 0, 0, 0)).code == Error.STREAM  # stream_beats


def test_bus(program: Program) -> None:
    assert run(program, image_base=1 << 30).code == Error.READ
    assert run(program, output_base=1 << 30).code == Error.WRITE
    assert run(program, program_base=1 << 30).code == Error.READ


def test_missing_credit(program: Program) -> None:
    """An instruction that waits for what nobody gives would hang the device."""
    norm = find(program, Norm)
    error = run(program, patch(program, norm, signal=0))
    assert error.code == Error.HANG
    assert f"semaphore {program.instructions('task0')[norm].signal}, 0 given" in str(error)
    sync = find(program, Sync)
    assert run(program, patch(program, sync, wait_count=2)).code == Error.HANG


def test_more_rows_than_there_are(program: Program) -> None:
    error = run(program, patch(program, find(program, Gemm), otiles=40))
    assert error.code in (Error.HANG, Error.ADDRESS)
