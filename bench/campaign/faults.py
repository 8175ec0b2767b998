"""Frames that fail on purpose, one way for each error code, on a device that is not reset."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moevit.compiler.program import Program
from moevit.hw.checks import CHECK_BYTES, check_offset, instruction_check, instruction_offset
from moevit.hw.image import ProgramHeader
from moevit.hw.isa import INSTRUCTION_BYTES, Instruction, Load, Norm
from moevit.hw.registers import Error, Register
from moevit.quant.typing import Ints
from moevit.sim.errors import DeviceError
from moevit.sim.native import DECERR, SLVERR, NativeSim
from moevit.sim.rtl import MEMORY_BASE, RtlDevice

__all__ = ["failed_frame"]


def failed_frame(
    fault: str,
    device: RtlDevice,
    sim: NativeSim,
    program: Program,
    image: Ints,
    task: str,
    rng: np.random.Generator,
    cycles: int,
) -> str:
    """Runs a frame of ``task`` that ends with the error named ``fault``; empty if it did.

    Otherwise what happened instead. Afterwards the program is as it was, and no fault is left.
    ``cycles``: of a good frame, of which an abort comes at a random one.
    """
    wanted = Error[fault]
    limit = device.max_cycles
    change = _change(fault, program, task, rng)
    if change is not None:
        offset, data = change
        sim.write(MEMORY_BASE + offset, data)
    elif wanted == Error.ABORTED:
        device.max_cycles = int(rng.integers(1, max(2, cycles * 3 // 4)))
    else:
        _break_bus(wanted, device, sim, program, task, rng)
    try:
        device.run(image, task)
    except DeviceError as error:
        code = sim.reg_read(Register.ERROR)
        if error.code == wanted == code:
            return ""
        return f"fault {fault} ended with {error.code.name}, register ERROR {code}"
    finally:
        device.max_cycles = limit
        sim.clear_faults()
        if change is not None:
            offset, data = change
            good = program.memory[offset : offset + len(data)].tobytes()
            sim.write(MEMORY_BASE + offset, good)
    return f"fault {fault} passed unnoticed"


def _change(
    fault: str, program: Program, task: str, rng: np.random.Generator
) -> tuple[int, bytes] | None:
    """Offset into the program and the bytes that break it; None for faults of other kinds."""
    base, header = program.task(task).base, program.header(task)
    code = program.instructions(task)

    def flipped(start: int, size: int) -> tuple[int, bytes]:
        at = start + int(rng.integers(size))
        return at, bytes([int(program.memory[at]) ^ 1 << int(rng.integers(8))])

    def instruction(n: int, data: bytes) -> tuple[int, bytes]:
        """What lies from its check to its end, with both of them others."""
        start = check_offset(n)
        at = instruction_offset(n) - start
        here = base + header.code_offset + start
        span = bytearray(program.memory[here : here + at + INSTRUCTION_BYTES])
        span[:CHECK_BYTES] = instruction_check(data, n).to_bytes(CHECK_BYTES, "little")
        span[at:] = data
        return here, bytes(span)

    def norm(**fields: int) -> tuple[int, bytes]:
        n = next(n for n, i in enumerate(code) if isinstance(i, Norm))
        broken: Instruction = replace(code[n], **fields)
        return instruction(n, broken.encode())

    if fault == "HEADER":
        return base, b"\0"
    if fault == "HASH":
        return base, _header(header, config_hash=header.config_hash ^ 1 << int(rng.integers(64)))
    if fault == "OPCODE":
        return instruction(int(rng.integers(len(code))), bytes(INSTRUCTION_BYTES))
    if fault == "FIELD":
        return norm(dim=0)
    if fault == "ADDRESS":
        return norm(source=(1 << 20) - 1)
    if fault == "STREAM":
        port = int(rng.integers(program.config.memory.ports))
        share = header.stream_offset + 16 * port * header.stream_beats
        blocks = program.blocks(task)
        which = int(rng.integers(len(blocks)))
        at = sum(1 + b.beats(program.config) for b in blocks[:which])
        return flipped(base + share + 16 * at, 16)
    if fault == "WEIGHTS":
        return flipped(base + header.stream_offset + 16, 16)  # of port 0's first block
    if fault == "TABLE":
        tables = [i for i in code if isinstance(i, Load) and i.checked]
        table = tables[int(rng.integers(len(tables)))]
        return flipped(base + table.address, 16 * table.beats)
    if fault == "CODE":
        n = int(rng.integers(len(code)))
        return flipped(base + header.code_offset + instruction_offset(n), INSTRUCTION_BYTES)
    if fault == "TRUNCATED":
        return base, _header(header, code_count=int(rng.integers(len(code))))
    if fault == "HANG":
        return base, _header(header, stream_beats=0)
    return None


def _header(header: ProgramHeader, **fields: int) -> bytes:
    return replace(header, **fields).encode()


def _break_bus(
    wanted: Error,
    device: RtlDevice,
    sim: NativeSim,
    program: Program,
    task: str,
    rng: np.random.Generator,
) -> None:
    """An address that answers with an error, where this frame reads or writes."""
    response = int(rng.choice([SLVERR, DECERR]))
    if wanted == Error.READ:
        header = program.header(task)
        ports = program.config.memory.ports
        size = header.stream_beats * ports
        offset = header.stream_offset + 16 * int(rng.integers(size))
        sim.inject(MEMORY_BASE + program.task(task).base + offset, 1, response)
        return
    output = program.task(task).output
    _, where = device.places[0]
    sim.inject(where + output.address + int(rng.integers(output.size)), 1, response)
