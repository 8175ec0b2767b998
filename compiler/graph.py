"""The middle form: a frame as tile-level operations with named operands.

Lowering builds it, every pass between lowering and the linker works on it. An operation says which
rows of which tensors it reads and writes and nothing about engines' order: no semaphore, no
address, no place in an instruction queue. :mod:`.passes` adds those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np

from moevit.hw.config import AcceleratorConfig
from moevit.hw.image import BlockHeader
from moevit.hw.isa import Destination, Fetch, Gemm, Instruction, Load, Norm, Store

from .plan.layout import Block, Bytes, Ints, Matrix, ceil_div

__all__ = ["Engine", "Graph", "Lot", "Memory", "Op", "Operand", "Tensor", "Weights"]


class Memory(StrEnum):
    """Where words lie. ``OUTSIDE``: scratch and results behind the output base, in beats."""

    ACTIVATIONS = "A"
    RESIDUAL = "X"
    KEYS_VALUES = "KV"
    NORMS = "N"
    QUEUES = "Q"
    OUTSIDE = "M"


class Engine(IntEnum):
    """What works by itself, each in the order of its own queue. The gate is fed by compute."""

    LOAD = 0
    STORE = 1
    NORM = 2
    COMPUTE = 3
    FETCH = 4
    GATE = 5


_ENGINES: dict[type[Instruction], Engine] = {
    Load: Engine.LOAD,
    Store: Engine.STORE,
    Norm: Engine.NORM,
    Fetch: Engine.FETCH,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Tensor:
    """Rows of words: ``offset`` words into a region of the plan, ``pitch`` words apart.

    ``rows``: the numbers of its rows, for instance tokens; a buffer holds some of them.
    """

    name: str
    memory: Memory
    region: str
    pitch: int
    rows: range
    offset: int = 0

    def at(self, rows: range, words: range | None = None, *, whole: bool = False) -> Operand:
        """Some of its rows, and some words of each (default: all)."""
        return Operand(tensor=self, rows=rows, words=words or range(self.pitch), whole=whole)


@dataclass(frozen=True, kw_only=True)
class Operand:
    """Words of rows of a tensor.

    Row r of an operation is row r of the operand, unless it is ``whole``: then any of its tiles may
    touch any row.
    """

    tensor: Tensor
    rows: range
    words: range
    whole: bool = False

    @property
    def start(self) -> int:
        """Words from the region's first to the operand's first."""
        tensor = self.tensor
        return (
            tensor.offset
            + (self.rows.start - tensor.rows.start) * tensor.pitch
            + (self.words.start)
        )

    def span(self) -> int:
        """Words from the first to behind the last."""
        return (len(self.rows) - 1) * self.tensor.pitch * self.rows.step + len(self.words)

    def __str__(self) -> str:
        tensor, text = self.tensor, self.tensor.name
        if self.rows != tensor.rows:
            text += f"[{self.rows.start}:{self.rows.stop}]"
        if self.words != range(tensor.pitch):
            text += f".{self.words.start}:{self.words.stop}"
        return text


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Output tiles of a matrix that a product uses; ``fresh``: they come from the stream for it."""

    matrix: Matrix
    otiles: range
    fresh: bool = True

    def block(self) -> Block:
        """What the stream, or a FETCH, brings."""
        return self.matrix.block(self.otiles.start, len(self.otiles))


@dataclass(frozen=True, kw_only=True)
class Lot:
    """What one FETCH brings of an expert."""

    name: str
    shape: BlockHeader
    block: Callable[[], Block]


@dataclass(kw_only=True, eq=False)
class Op:
    """One operation, which becomes one instruction.

    ``fields``: what the instruction says beside addresses and credits. ``rows``: rows that it goes
    through, T a tile; those of an expert's queue (``queue``) are known when it runs. ``table``: the
    data of the program that a LOAD reads. ``lot``: of a FETCH, and of the GEMMs that use it up.
    """

    kind: type[Instruction]
    note: str
    reads: tuple[Operand, ...] = ()
    writes: tuple[Operand, ...] = ()
    rows: int = 1
    fields: dict[str, int] = field(default_factory=dict)
    weights: Weights | None = None
    queue: int | None = None
    table: str | None = None
    lot: Lot | None = None

    @property
    def engine(self) -> Engine:
        """Who carries it out."""
        return _ENGINES.get(self.kind, Engine.COMPUTE)

    @property
    def routes(self) -> bool:
        """Whether its results are the gate's logits."""
        return self.kind is Gemm and self.fields["mode"] == Destination.GATE

    @property
    def dynamic(self) -> bool:
        """Whether its rows are those of a queue."""
        return self.kind is Gemm and self.queue is not None

    def tiles(self, tokens: int) -> int:
        """Tiles that it waits for one by one; 1 if all of it happens at once."""
        once = self.dynamic or self.kind in (Load, Fetch)
        return 1 if once else ceil_div(self.rows, tokens)

    def __str__(self) -> str:
        mode = self.fields.get("mode")
        name = self.kind.__name__.upper() + (
            f" {Destination(mode).name}" if mode is not None else ""
        )
        reads, writes = (", ".join(map(str, side)) for side in (self.reads, self.writes))
        rows = f"queue {self.queue}" if self.queue is not None else f"{self.rows} rows"
        parts = [
            f"{name:<14} {writes or self.table or '-'} <- {reads or self.table or 'image'}",
            rows,
        ]
        if self.weights is not None:
            parts.append(f"{self.weights.matrix.depth}x{len(self.weights.otiles)} tiles of weights")
        return f"{', '.join(parts):<90}  ; {self.note}"


@dataclass(kw_only=True)
class Graph:
    """A frame's operations in an order that respects what they read and write.

    ``regions``: first word of each region of the plan, and ``sizes`` words of each memory, once
    they are placed. ``pool``: tables by name, shared by tasks.
    """

    config: AcceleratorConfig
    ops: list[Op] = field(default_factory=list)
    regions: dict[str, int] = field(default_factory=dict)
    sizes: dict[Memory, int] = field(default_factory=dict)
    pool: dict[str, Bytes] = field(default_factory=dict)

    def view(self, table: Ints, operand: Operand, origin: int = 0) -> Ints:
        """``(rows, words)``: an operand's part of a table that has an entry for every word.

        ``origin``: the word of the table's first entry.
        """
        start, step = self.address(operand) - origin, table.itemsize
        if start < 0 or start + operand.span() > len(table):
            raise IndexError(f"{operand} is no part of a table of {len(table)} words")
        strides = (operand.tensor.pitch * operand.rows.step * step, step)
        shape = (len(operand.rows), len(operand.words))
        found: Ints = np.lib.stride_tricks.as_strided(table[start:], shape, strides)
        return found

    def overlap(self, one: Operand, other: Operand) -> bool:
        """Whether two operands have words in common."""
        if one.tensor.memory != other.tensor.memory:
            return False
        spans = [(self.address(o), self.address(o) + o.span()) for o in (one, other)]
        (first, end), (start, stop) = spans
        if max(first, start) >= min(end, stop):
            return False
        table = np.zeros(max(end, stop) - min(first, start), np.bool_)
        self.view(table, one, min(first, start))[:] = True
        return bool(self.view(table, other, min(first, start)).any())

    def address(self, operand: Operand) -> int:
        """Its first word."""
        return self.regions[operand.tensor.region] + operand.start

    def add(self, op: Op) -> Op:
        """Append an operation."""
        self.ops.append(op)
        return op

    def table(self, name: str, data: Callable[[], Bytes]) -> int:
        """Put bytes into the pool unless they are there; their length."""
        if name not in self.pool:
            self.pool[name] = np.ascontiguousarray(data()).reshape(-1)
        return len(self.pool[name])
