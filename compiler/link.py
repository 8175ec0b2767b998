"""From lowered tasks to one memory image: programs first, then the pool that they share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moevit.hw.checks import code_bytes, crc32, encode_code
from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.image import HEADER_BYTES, BlockHeader, ProgramHeader
from moevit.hw.isa import Fetch, Instruction, Load, LoadKind

from .passes.emit import Code
from .plan.layout import Bytes, round_up

__all__ = ["ALIGNMENT", "Linked", "link", "sealed"]

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
        stream_offset = round_up(HEADER_BYTES + code_bytes(len(code.items)), ALIGNMENT)
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

    for name, address in pool.items():
        put(address, data[name])
    for task, code in codes.items():
        base, header = bases[task], headers[task]
        put(base, header.encode())
        put(base + header.stream_offset, streams[task])
        words = []
        for item in code.items:
            i = item.instruction
            if item.pool is not None:
                i = replace(i, address=pool[item.pool] - base)  # type: ignore[call-arg]
            words.append(sealed(i, memory[base:], config).encode())
        put(base + header.code_offset, encode_code(words))
    return Linked(memory=memory, bases=bases)


def sealed(i: Instruction, program: Bytes, config: AcceleratorConfig) -> Instruction:
    """The instruction with the checks of what it reads of the ``program`` (bytes from its base
    on)."""
    if isinstance(i, Load) and i.kind != LoadKind.PIXELS and not i.stored:
        table = program[i.address :][: i.beats * BEAT_BYTES]
        return replace(i, checked=1, check=crc32(table.tobytes()))
    if isinstance(i, Fetch):
        rows = BlockHeader(
            param_rows=i.param_rows, weight_rows=i.weight_rows, packed=bool(i.packed)
        )
        size = rows.beats(config) * BEAT_BYTES
        shares = [program[i.address + p * size :][:size] for p in range(config.memory.ports)]
        checks = {f"check{p}": crc32(share.tobytes()) for p, share in enumerate(shares)}
        return replace(i, checked=1, **checks)
    return i


def _beats(code: Code, config: AcceleratorConfig) -> int:
    return sum(1 + block.header.beats(config) for block in code.blocks)


def _stream(code: Code, config: AcceleratorConfig) -> Bytes:
    """Every port's stream, one behind the other."""
    blocks = [block.striped(config, number=n) for n, block in enumerate(code.blocks)]
    return np.concatenate(blocks, axis=1).reshape(-1)
