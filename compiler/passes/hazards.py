"""What an operation must come behind: the last reads and writes of the words that it touches."""

from __future__ import annotations

import numpy as np

from ..graph import Engine, Graph, Memory, Op, Operand
from ..plan.layout import Ints

__all__ = ["UNKNOWN", "Hazards"]

UNKNOWN = -1
"""In front of an engine's first event."""

_WRITERS = {
    Memory.ACTIVATIONS: (Engine.LOAD, Engine.NORM, Engine.COMPUTE),
    Memory.RESIDUAL: (Engine.LOAD, Engine.COMPUTE),
    Memory.KEYS_VALUES: (Engine.COMPUTE,),
    Memory.NORMS: (Engine.LOAD,),
    Memory.QUEUES: (Engine.GATE,),
    Memory.OUTSIDE: (Engine.STORE,),
}
_READERS = {
    Memory.ACTIVATIONS: (Engine.COMPUTE, Engine.STORE),
    Memory.RESIDUAL: (Engine.NORM, Engine.STORE),
    Memory.KEYS_VALUES: (Engine.COMPUTE,),
    Memory.NORMS: (Engine.NORM,),
    Memory.QUEUES: (Engine.COMPUTE, Engine.FETCH),
    Memory.OUTSIDE: (Engine.LOAD,),
}
_PIPELINE = (Memory.ACTIVATIONS, Memory.KEYS_VALUES)
"""What the compute engine reads in front of its pipeline and writes behind it."""

_Table = dict[tuple[Memory, Engine], Ints]


class Hazards:
    """For each word the event of each engine that read it last, and that wrote it last."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.tokens = graph, graph.config.array.tokens
        self.reads: _Table = {}
        self.writes: _Table = {}

    def needs(self, op: Op) -> Ints:
        """``(tiles, engines)``: the event that must lie behind when each tile begins.

        Reads of one's own writes count only in the compute engine's pipeline.
        """
        engine = op.engine
        found = np.full((op.tiles(self.tokens), len(Engine)), UNKNOWN)
        for operand in op.reads:
            memory = operand.tensor.memory
            for other in _WRITERS[memory]:
                if other != engine or memory in _PIPELINE:
                    self._raise(found, op, operand, self.writes, other)
        for operand in op.writes:
            memory = operand.tensor.memory
            for other in _WRITERS[memory]:
                if other not in (engine, Engine.GATE):
                    self._raise(found, op, operand, self.writes, other)
            for other in _READERS[memory]:
                if other != engine:
                    self._raise(found, op, operand, self.reads, other)
        return found

    def written(self, operand: Operand, engine: Engine) -> int:
        """The engine's last event that wrote words of an operand."""
        return int(self._view(self.writes, operand, engine).max())

    def happen(self, op: Op, first: int, count: int, routed: int) -> None:
        """The operation's events ``first`` and following touch its words, ``routed`` the queues."""
        for operand in op.reads:
            self._touch(self.reads, op.engine, op, operand, first, count)
        for operand in op.writes:
            if op.routes:
                self._touch(self.writes, Engine.GATE, op, operand, routed, 1)
            else:
                self._touch(self.writes, op.engine, op, operand, first, count)

    def _raise(self, found: Ints, op: Op, operand: Operand, table: _Table, other: Engine) -> None:
        """Raise needs to what the table has for the operand's words."""
        events, column = self._view(table, operand, other), found[:, other]
        if operand.whole or len(column) == 1 or len(events) != op.rows:
            np.maximum(column, events.max(), out=column)
        else:
            rows = range(0, len(events), self.tokens)
            np.maximum(column, np.maximum.reduceat(events.max(axis=1), rows), out=column)

    def _touch(
        self, table: _Table, engine: Engine, op: Op, operand: Operand, first: int, count: int
    ) -> None:
        here = self._view(table, operand, engine)
        if operand.whole or count == 1 or len(here) != op.rows:
            here[:] = first + count - 1
        else:
            here[:] = (first + np.arange(len(here)) // self.tokens)[:, None]

    def _view(self, table: _Table, operand: Operand, engine: Engine) -> Ints:
        """A table's events of an operand's words."""
        key = (operand.tensor.memory, engine)
        if key not in table:
            table[key] = np.full(self.graph.sizes[operand.tensor.memory], UNKNOWN)
        return self.graph.view(table[key], operand)
