"""Which inputs of a matrix product count: those with a weight other than zero.

Rows of operands are padded to whole words with weights of zero, and what stands there may be
anything. A product of nothing but zeros has no inputs at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.image import BlockHeader
from moevit.hw.isa import Fetch, Gemm

from .steps import Step

__all__ = ["Inputs", "used_inputs"]

Inputs = np.ndarray[Any, np.dtype[np.bool_]]
"""``(depth, I)``: the bytes of an operand row that count."""
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def used_inputs(
    config: AcceleratorConfig,
    steps: Sequence[Step],
    blocks: Sequence[BlockHeader],
    program: Bytes,
    stream: tuple[int, int],
) -> dict[int, Inputs]:
    """Of every GEMM, by the number of its instruction.

    Blocks, FETCHes and GEMMs fit one another (:mod:`.weights`). ``program``: the memory from the
    program base on; ``stream``: offset and beats of a port's stream.
    """
    ports, (offset, beats) = config.memory.ports, stream
    size = beats * BEAT_BYTES
    data = program[offset : offset + ports * size].reshape(ports, size)
    places, at = [], 0
    for block in blocks:
        places.append(at + BEAT_BYTES * (1 + block.param_rows * config.param_row_beats))
        at += BEAT_BYTES * (1 + block.beats(config))
    found: dict[int, Inputs] = {}
    kept: dict[int, Inputs | None] = {0: None, 1: None}  # by ring
    number = 0
    lots = _Lots(config, steps, program)
    for step in steps:
        i = step.instruction
        if not isinstance(i, Gemm):
            continue
        used = kept[i.demand]
        if used is None:
            if i.demand:
                used = lots.next(i)
            else:
                used = _used(config, i, data[:, places[number] :], packed=blocks[number].packed)
                number += 1
        found[step.index] = used
        kept[i.demand] = used if i.keep else None
    return found


class _Lots:
    """The rows of all FETCHes one behind the other, as the demand ring gets them."""

    def __init__(self, config: AcceleratorConfig, steps: Sequence[Step], program: Bytes) -> None:
        self.config, self.program = config, program
        self.fetches = [s.instruction for s in steps if isinstance(s.instruction, Fetch)]
        self.lot, self.row = 0, 0

    def next(self, i: Gemm) -> Inputs:
        """Those of the next GEMM."""
        config, fetch = self.config, self.fetches[self.lot]
        row = config.row_beats * BEAT_BYTES >> fetch.packed
        first = fetch.param_rows * config.param_row_beats * BEAT_BYTES
        share = first + fetch.weight_rows * row
        ports = config.memory.ports
        data = self.program[fetch.address : fetch.address + ports * share].reshape(ports, share)
        used = _used(config, i, data[:, first + self.row * row :], packed=bool(fetch.packed))
        self.row += i.otiles * i.depth
        if self.row == fetch.weight_rows:
            self.lot, self.row = self.lot + 1, 0
        return used


def _used(config: AcceleratorConfig, i: Gemm, data: Bytes, *, packed: bool) -> Inputs:
    """From the bytes ``(ports, n)`` that begin with the GEMM's weight rows."""
    inputs, ports = config.array.inputs, config.memory.ports
    row = config.row_beats * BEAT_BYTES >> packed
    share = data[:, : i.otiles * i.depth * row].reshape(ports, i.otiles, i.depth, row)
    some = np.bitwise_or.reduce(share, axis=1)  # (ports, depth, bytes of a port's share)
    if packed:
        some = np.stack([some & 15, some >> 4], axis=-1).reshape(ports, i.depth, -1)
    some = some.transpose(1, 0, 2).reshape(i.depth, -1, inputs)  # (depth, O, I)
    used: Inputs = np.bitwise_or.reduce(some, axis=1) != 0
    return used
