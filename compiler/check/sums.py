"""CRCs: everything of a program that a device reads has one, and it is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moevit.hw.checks import crc32
from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.image import BLOCK_NUMBERS, BlockHeader
from moevit.hw.isa import Fetch, Instruction, Load, LoadKind

from .findings import Finding

__all__ = ["check_sums"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def check_sums(
    config: AcceleratorConfig,
    code: Sequence[Instruction],
    blocks: Sequence[BlockHeader],
    program: Bytes,
    stream: tuple[int, int],
) -> Iterator[Finding]:
    """Of every port's blocks, of tables and of what FETCHes read.

    Headers and instructions have been looked at by whoever decoded them. ``program``: the memory
    from the program base on; ``stream``: offset and beats of a port.
    """
    yield from _stream(config, blocks, program, stream)
    for n, i in enumerate(code):
        if isinstance(i, Load) and i.kind != LoadKind.PIXELS and not i.stored:
            shares, checks = [program[i.address :][: i.beats * BEAT_BYTES]], [i.check]
        elif isinstance(i, Fetch):
            block = BlockHeader(
                param_rows=i.param_rows, weight_rows=i.weight_rows, packed=bool(i.packed)
            )
            size = block.beats(config) * BEAT_BYTES
            ports = range(config.memory.ports)
            shares = [program[i.address + p * size :][:size] for p in ports]
            checks = [getattr(i, f"check{p}") for p in ports]
        else:
            continue
        name = f"instruction {n} ({type(i).__name__.upper()})"
        if not i.checked:
            yield Finding(kind="check", message=f"{name} reads without a check", instructions=(n,))
        elif [crc32(share.tobytes()) for share in shares] != checks:
            yield Finding(kind="check", message=f"what {name} reads is damaged", instructions=(n,))


def _stream(
    config: AcceleratorConfig,
    blocks: Sequence[BlockHeader],
    program: Bytes,
    stream: tuple[int, int],
) -> Iterator[Finding]:
    """Every port's blocks have the header of port 0's, and each its number and its own CRC."""
    offset, beats = stream
    size = beats * BEAT_BYTES
    for port in range(config.memory.ports):
        mine = program[offset + port * size :][:size]
        at = 0
        for n, block in enumerate(blocks):
            name = f"block {n} of the stream of port {port}"
            start = at + BEAT_BYTES
            end = start + BEAT_BYTES * block.beats(config)
            try:
                header = BlockHeader.decode(mine[at:start].tobytes())
            except ValueError as error:
                yield Finding(kind="check", message=f"{name}: {error}")
                return
            same = replace(header, check=0) == replace(block, check=0)
            if not same or header.number != n % BLOCK_NUMBERS:
                yield Finding(kind="weights", message=f"block {n} of the stream: the ports differ")
            elif crc32(mine[start:end].tobytes()) != header.check:
                yield Finding(kind="check", message=f"{name} is damaged")
            at = end
