"""From lowered tasks to one memory image: programs first, then the pool that they share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moevit.hw.config import AcceleratorConfig
from moevit.hw.image import HEADER_BYTES, ProgramHeader
from moevit.hw.isa import INSTRUCTION_BYTES

from .passes.emit import Code
from .plan.layout import Bytes, round_up

__all__ = ["ALIGNMENT", "Linked", "link"]

ALIGNMENT = 64
"""Bytes: programs, code, streams and pool entries begin at multiples of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Linked:
    """The memory image, and where each task's program begins in it."""

    memory: Bytes
    bases: dict[str, int]


def link(codes: dict[str, Code], config: AcceleratorConfig) -> Linked:
    """Place every task's header, code and stream, then the pool, and resolve addresses into it.

    Pool entries lie behind all programs, since an instruction's addresses count up from the base of
    its program. Raises ``ValueError`` if the image exceeds 32-bit addresses.
    """
    streams = {task: _stream(code, config) for task, code in codes.items()}
    bases, end = {}, 0
    headers = {}
    for task, code in codes.items():
        bases[task] = end
        stream_offset = round_up(HEADER_BYTES + len(code.items) * INSTRUCTION_BYTES, ALIGNMENT)
        headers[task] = ProgramHeader(
            config_hash=config.hash,
            code_offset=HEADER_BYTES,
            code_count=len(code.items),
            stream_offset=stream_offset,
            stream_beats=_beats(code, config),
        )
        end = round_up(end + stream_offset + len(streams[task]), ALIGNMENT)
    pool: dict[str, int] = {}
    data: dict[str, Bytes] = {}
    for code in codes.values():
        for name, entry in code.pool.items():
            if name not in pool:
                pool[name], data[name] = end, entry
                end = round_up(end + len(entry), ALIGNMENT)
    if end > 1 << 32:
        raise ValueError(f"The program has {end} bytes, more than 32-bit addresses reach")
    memory = np.zeros(end, np.uint8)

    def put(address: int, content: Bytes | bytes) -> None:
        memory[address : address + len(content)] = np.frombuffer(content, np.uint8)

    for task, code in codes.items():
        base, header = bases[task], headers[task]
        put(base, header.encode())
        put(base + header.stream_offset, streams[task])
        for n, item in enumerate(code.items):
            instruction = item.instruction
            if item.pool is not None:
                instruction = replace(instruction, address=pool[item.pool] - base)  # type: ignore[call-arg]
            put(base + header.code_offset + n * INSTRUCTION_BYTES, instruction.encode())
    for name, address in pool.items():
        put(address, data[name])
    return Linked(memory=memory, bases=bases)


def _beats(code: Code, config: AcceleratorConfig) -> int:
    return sum(1 + block.header.beats(config) for block in code.blocks)


def _stream(code: Code, config: AcceleratorConfig) -> Bytes:
    """Every port's stream, one behind the other."""
    return np.concatenate([b.striped(config, header=True) for b in code.blocks], axis=1).reshape(-1)
