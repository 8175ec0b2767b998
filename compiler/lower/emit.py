"""What lowering writes into: instructions with notes, stream blocks, data in the shared pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np

from moevit.hw.config import AcceleratorConfig
from moevit.hw.image import BlockHeader
from moevit.hw.isa import Fetch, Gemm, Instruction

from ..plan.layout import Block, Bytes, Matrix, ceil_div

__all__ = ["Code", "Item", "Semaphore", "split"]


class Semaphore(IntEnum):
    """Who tells whom: each semaphore has one engine that takes from it.

    A semaphore is reused from block to block. That is sound because its credits are given in order
    and taken in order, and every frame takes exactly as many as it gives.
    """

    NONE = 0
    LOADED = 1
    """loads -> patch embedding; zeros over residuals -> what is added to them"""
    RESIDUAL = 2
    """compute (and the load of the norm parameters) -> norm: a tile of the residual is complete"""
    TOKENS = 3
    """norm -> compute: a tile of activations is complete"""
    QUERIES = 4
    """query GEMM -> attention; keys and values are complete before the first of them"""
    ATTENDED = 5
    """attention -> projection; where attention is stored, STORE of a group of heads -> SYNC"""
    HIDDEN = 6
    """first feed-forward layer -> second, even experts"""
    HIDDEN_ODD = 7
    """the same, odd experts"""
    ROUTED = 8
    """gate unit -> SYNC: the queues are complete"""
    FETCHABLE = 9
    """SYNC -> weight engine: the queues' lengths can be read"""
    OUTPUT = 10
    """head (or last layer) -> store"""
    PARAMETERS = 11
    """load of norms' parameters -> SYNC in front of what makes the residual that they normalise"""
    SPILLED = 14
    """STORE -> load: of what it will overwrite, or of what it reads back"""
    FETCHED = 15
    """FETCHes of some tokens' experts -> router of the next tokens, which changes the queues"""
    FREED = 12
    """SYNC -> load: what it will overwrite has been used"""
    SCALES = 13
    """load of the parameters of gates' inputs -> the first NORM that makes one; where tokens pass
    through the chip, loads of its residuals, and SYNC when its place is free, as well"""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An instruction, what it is for, and the pool entry that its ``address`` will point into."""

    instruction: Instruction
    note: str
    pool: str | None = None


def split(
    matrix: Matrix, config: AcceleratorConfig, *, demand: bool, unit: int = 1, otiles: int = 0
) -> list[tuple[int, int]]:
    """Output tiles in groups ``(first, count)`` of multiples of ``unit``, as equal as possible.

    ``otiles``: the first so many of the matrix (default: all).
    A group is what a GEMM holds of a ring until it is done. It gets at most half of the ring, so
    that the next group arrives meanwhile, unless a single unit needs more. Raises ``ValueError``
    where that does not fit the ring at all.
    """
    memory = config.memory
    rows = memory.demand_rows if demand else memory.ring_rows
    params = memory.demand_param_rows if demand else memory.param_rows
    if unit * matrix.depth > rows or unit > params:
        raise ValueError(
            f"A GEMM needs at least {unit * matrix.depth} weight rows and {unit} parameter rows, "
            f"the {'demand' if demand else 'weight'} ring has {rows} and {params}"
        )
    otiles = otiles or matrix.otiles
    units = ceil_div(otiles, unit)
    most = max(min(rows // 2 // (unit * matrix.depth), params // 2 // unit), 1)
    groups = ceil_div(units, most)
    edges = [round(units * g / groups) * unit for g in range(groups)] + [otiles]
    return [(a, b - a) for a, b in pairwise(edges)]


@dataclass(kw_only=True)
class Code:
    """One task's program in the making.

    ``pool`` maps names to bytes that live outside the stream: tables to load and experts to fetch.
    Tasks share entries of the same name.
    """

    config: AcceleratorConfig
    pool: dict[str, Bytes] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def add(self, instruction: Instruction, note: str, pool: str | None = None) -> None:
        """Append an instruction."""
        self.items.append(Item(instruction=instruction, note=note, pool=pool))

    def table(self, name: str, data: Callable[[], Bytes]) -> int:
        """Put bytes into the pool unless they are there; their length in bytes."""
        if name not in self.pool:
            self.pool[name] = np.ascontiguousarray(data()).reshape(-1)
        return len(self.pool[name])

    def gemm(
        self,
        matrix: Matrix,
        note: str,
        *,
        wait: int = 0,
        signal: int = 0,
        group: tuple[int, int] | None = None,
        **fields: Any,
    ) -> None:
        """One GEMM of the output tiles of ``group`` (default: all); its block joins the stream."""
        base, count = group or (0, matrix.otiles)
        if not fields.get("demand"):
            self.blocks.append(matrix.block(base, count))
        fields.setdefault("otile_base", base)
        self.add(
            Gemm(depth=matrix.depth, otiles=count, wait=wait, signal=signal, **fields),
            note if group is None else f"{note} [{base}:{base + count}]",
        )

    def gemms(
        self, matrix: Matrix, note: str, *, wait: int = 0, signal: int = 0, **fields: Any
    ) -> None:
        """The GEMMs of a whole matrix: the first waits, the last signals."""
        groups = split(matrix, self.config, demand=bool(fields.get("demand")))
        for n, group in enumerate(groups):
            self.gemm(
                matrix,
                note,
                wait=wait if n == 0 else 0,
                signal=signal if n == len(groups) - 1 else 0,
                group=group if len(groups) > 1 else None,
                **fields,
            )

    def fetch(
        self, name: str, block: Callable[[], Block], shape: BlockHeader, **fields: Any
    ) -> None:
        """FETCH of a block in the pool, whose rows are those of ``shape``."""
        self.table(name, lambda: block().striped(self.config, header=False))
        fetch = Fetch(
            param_rows=shape.param_rows,
            weight_rows=shape.weight_rows,
            packed=int(shape.packed),
            **fields,
        )
        self.add(fetch, name, pool=name)
