"""Malformed programs end in the device's error codes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from support.programs import place, rewritten

from moevit.compiler import Program, compile_network
from moevit.hw.checks import instruction_offset
from moevit.hw.config import preset
from moevit.hw.image import PROGRAM_VERSION, BlockHeader
from moevit.hw.isa import Attention, Gemm, Halt, Load, Norm, Store, Sync
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
    return word(program, n, replace(program.instructions("task0")[n], **fields).encode())


def header(program: Program, **fields: int) -> Callable[[np.ndarray], None]:
    """The header with other fields."""
    return put(0, *replace(program.header("task0"), **fields).encode())


def word(program: Program, n: int, word: bytes) -> Callable[[np.ndarray], None]:
    """Another instruction ``n``, with its check."""

    def change(memory: np.ndarray) -> None:
        for at, data in rewritten(n, word).items():
            put(program.header("task0").code_offset + at, *data)(memory)

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
    assert f"version is 9, expected {PROGRAM_VERSION}" in str(error)
    assert run(program, put(60, 0)).code == Error.HEADER
    error = run(program, header(program, config_hash=0))
    assert error.code == Error.HASH
    assert f"{program.config.hash:016x}" in str(error)


def test_code(program: Program) -> None:
    assert run(program, word(program, 0, bytes(32))).code == Error.OPCODE
    assert run(program, header(program, code_count=3)).code == Error.TRUNCATED
    assert run(program, word(program, 0, Halt().encode())).code == Error.OPCODE
    third = instruction_offset(3) + program.header("task0").code_offset
    error = run(program, put(third + 9, program.memory[third + 9] ^ 4))
    assert (error.code, error.damage) == (Error.CODE, 3)


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
    start = program.header("task0").stream_offset
    assert run(program, put(start, program.memory[start] ^ 1)).code == Error.STREAM
    huge = BlockHeader(param_rows=1, weight_rows=0xFFFFFF).encode()
    assert run(program, put(start, *huge)).code == Error.STREAM
    assert run(program, header(program, stream_beats=1)).code == Error.STREAM
    error = run(program, put(start + 16, program.memory[start + 16] ^ 1))
    assert (error.code, error.damage) == (Error.WEIGHTS, 0)


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
