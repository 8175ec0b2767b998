"""From lowered tasks to one memory image: programs first, then the pool that they share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moevit.hw.checks import code_bytes, crc32, encode_code
from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.image import HEADER_BYTES, ProgramHeader
from moevit.hw.isa import Fetch, Instruction, Load

from .passes.emit import Code, Item
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

    for task, code in codes.items():
        base, header = bases[task], headers[task]
        put(base, header.encode())
        put(base + header.stream_offset, streams[task])
        instructions = [
            _resolved(item, pool[item.pool] - base, data[item.pool], config)
            if item.pool is not None
            else item.instruction
            for item in code.items
        ]
        put(base + header.code_offset, encode_code([i.encode() for i in instructions]))
    for name, address in pool.items():
        put(address, data[name])
    return Linked(memory=memory, bases=bases)


def _resolved(item: Item, address: int, data: Bytes, config: AcceleratorConfig) -> Instruction:
    """The instruction with the address and the checks of its pool entry."""
    i = item.instruction
    if isinstance(i, Load):
        check = crc32(data.tobytes()[: i.beats * BEAT_BYTES])
        return replace(i, address=address, checked=1, check=check)
    if not isinstance(i, Fetch):
        raise AssertionError(f"{item.note}: a pool entry for {type(i).__name__}")
    shares = data.reshape(config.memory.ports, -1)
    checks = {f"check{p}": crc32(share.tobytes()) for p, share in enumerate(shares)}
    return replace(i, address=address, checked=1, **checks)


def _beats(code: Code, config: AcceleratorConfig) -> int:
    return sum(1 + block.header.beats(config) for block in code.blocks)


def _stream(code: Code, config: AcceleratorConfig) -> Bytes:
    """Every port's stream, one behind the other."""
    blocks = [block.striped(config, number=n) for n, block in enumerate(code.blocks)]
    return np.concatenate(blocks, axis=1).reshape(-1)
