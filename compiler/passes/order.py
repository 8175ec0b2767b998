"""Third pass: the order in which instructions are handed out.

Lowering writes operations layer by layer. Here those are moved that engines should have earlier, or
later, as far as what they read and write allows:

- An expert's first layer goes in front of the second layer of the expert before, so that no second
  layer waits for the pipeline to finish its first: fc1(0) fc1(1) fc2(0) fc1(2) fc2(1) ... Where
  hidden activations have no room for two experts, the two collide, and they follow one another.
- A FETCH goes behind the router, as far as the demand rings and the engine's queue have room.
- STOREs of a tile of a map go behind the next tile's product.
- A LOAD goes behind the last operation that its words collide with, and one product more.

Instructions are handed out in order, and one whose queue is full keeps back those behind it. So
LOADs and FETCHes are no further ahead than their queues hold, and what moves for a tile stands
behind products that the array can go on with.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from moevit.hw.isa import Fetch, Gemm, Load, Store

from ..graph import Engine, Graph, Lot, Memory, Op, Operand
from ..plan.layout import Ints

__all__ = ["FETCH_AHEAD", "LOAD_AHEAD", "order"]

FETCH_AHEAD = 8
"""FETCHes that may wait for room at a time, fewer than the weight engine's queue holds."""
LOAD_AHEAD = 6
"""LOADs that may stand in front of the first one's reader, fewer than their queue holds."""


def order(graph: Graph) -> None:
    """Reorder a placed graph's operations."""
    graph.ops = _experts(graph)
    graph.ops = _moved(graph.ops, _fetch_slots(graph))
    graph.ops = _moved(graph.ops, _store_slots(graph))
    graph.ops = _moved(graph.ops, _load_slots(graph))


def _moved(ops: list[Op], slots: dict[int, int]) -> list[Op]:
    """Operation n goes behind operation ``slots[n]``; what shares a slot keeps its order."""
    keys = sorted(range(len(ops)), key=lambda n: (slots.get(n, n), n in slots, n))
    return [ops[n] for n in keys]


def _overlap(graph: Graph, some: tuple[Operand, ...], others: tuple[Operand, ...]) -> bool:
    """Whether two lists of operands have words in common."""
    return any(graph.overlap(a, b) for a in some for b in others)


# Experts ---------------------------------------------------------------------------------------
def _experts(graph: Graph) -> list[Op]:
    """Streamed experts of each router, interleaved."""
    result: list[Op] = []
    experts: dict[int, tuple[list[Op], list[Op]]] = {}
    for op in [*graph.ops, None]:
        if op is not None and op.dynamic and op.kind is Gemm and op.lot is None:
            layers = experts.setdefault(op.queue or 0, ([], []))
            layers[0 if op.fields.get("gather") else 1].append(op)
            continue
        result += _interleaved(graph, list(experts.values()))
        experts = {}
        if op is not None:
            result.append(op)
    return result


def _interleaved(graph: Graph, experts: list[tuple[list[Op], list[Op]]]) -> list[Op]:
    if not experts:
        return []
    result = [*experts[0][0]]
    for (_, second), (first, _) in pairwise(experts):
        collide = _overlap(graph, first[0].writes, second[0].reads)
        result += [*second, *first] if collide else [*first, *second]
    return result + experts[-1][1]


# FETCHes ---------------------------------------------------------------------------------------
def _fetch_slots(graph: Graph) -> dict[int, int]:
    """FETCHes as early as is safe.

    A FETCH waits in the weight engine until the demand rings have room. FETCHes that wait must not
    fill their queue and keep back the GEMMs that would make room: at most ``FETCH_AHEAD`` lots are
    fetched and not yet used in program order, unless they fit the rings together.
    """
    slots: dict[int, int] = {}
    last = {id(op.lot): n for n, op in enumerate(graph.ops) if op.kind is Gemm}
    router, lots, used = 0, list[Lot](), 0
    for n, op in enumerate(graph.ops):
        if op.routes:
            router, lots, used = n, [], 0
        elif op.kind is Fetch and op.lot is not None:
            lots.append(op.lot)
            while not _room(graph, lots[used:]):
                used += 1
            slots[n] = last[id(lots[used - 1])] if used else router
    return slots


def _room(graph: Graph, lots: list[Lot]) -> bool:
    memory = graph.config.memory
    params = sum(lot.shape.param_rows for lot in lots) <= memory.demand_param_rows
    weights = sum(lot.shape.weight_rows for lot in lots) <= memory.demand_rows
    return len(lots) <= FETCH_AHEAD or (params and weights)


# STOREs ----------------------------------------------------------------------------------------
def _store_slots(graph: Graph) -> dict[int, int]:
    """STOREs of a tile of a map behind the next tile's products, where those leave them alone."""
    slots: dict[int, int] = {}
    ops, of_map = graph.ops, False
    for n, op in enumerate(ops):
        of_map = bool(op.fields.get("line")) if op.kind is Gemm else of_map
        if op.kind is not Store or not of_map:
            continue
        slot, target = n, None
        for m in range(n + 1, len(ops)):
            other = ops[m]
            tile = other.kind is Gemm and other.writes[0].tensor
            collides = _overlap(graph, op.reads + op.writes, other.writes) or (
                _overlap(graph, op.writes, other.reads)
            )
            if collides or (target is not None and tile and tile is not target):
                break
            if tile:
                slot, target = m, tile
            elif target is not None:
                break
        if slot != n:
            slots[n] = slot
    return slots


# LOADs -----------------------------------------------------------------------------------------
def _load_slots(graph: Graph) -> dict[int, int]:
    """LOADs as early as their words are free and complete, in their order."""
    slots: dict[int, int] = {}
    readers: dict[int, int] = {}
    seen, loads = _Seen(graph), list[int]()
    for n, op in enumerate(graph.ops):
        if op.kind is Load:
            free = [_behind(graph, seen.last(op), n), *(slots[m] for m in loads[-1:])]
            if len(loads) >= LOAD_AHEAD:
                free.append(readers.get(loads[-LOAD_AHEAD], n - 1))
            slots[n] = max(free)
            loads.append(n)
        else:
            for m in seen.writers(op):
                readers.setdefault(m, n)
        seen.add(n, op)
    return slots


def _behind(graph: Graph, last: int, here: int) -> int:
    """Where a LOAD goes whose words operation ``last`` touches: behind the product that follows.

    What a NORM has read is known to be free where a product has taken what it made.
    """
    if last < 0:
        return last
    op, ops = graph.ops[last], graph.ops
    for n in range(last + 1, here):
        if ops[n].engine == Engine.COMPUTE and (
            op.engine != Engine.NORM or _overlap(graph, op.writes, ops[n].reads)
        ):
            return n
        if op.engine not in (Engine.NORM, Engine.COMPUTE):
            break
    return last if op.engine != Engine.NORM else here - 1


class _Seen:
    """For every word the last operation that touched it, and the last that wrote it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.touched, self.written = (
            {memory: np.full(size, -1) for memory, size in graph.sizes.items()} for _ in range(2)
        )

    def last(self, op: Op) -> int:
        """The last operation that wrote what ``op`` reads, or touched what it writes."""
        found = [-1]
        for operands, tables in ((op.reads, self.written), (op.writes, self.touched)):
            for operand in operands:
                found.append(int(self._view(tables, operand).max()))
        return max(found)

    def writers(self, op: Op) -> set[int]:
        """The operations that wrote what ``op`` reads or adds to."""
        found: set[int] = set()
        for operand in (*op.reads, *op.writes):
            found |= set(np.unique(self._view(self.written, operand)).tolist())
        return found

    def add(self, n: int, op: Op) -> None:
        """Operation ``n`` touches its words."""
        for operand in (*op.reads, *op.writes):
            self._view(self.touched, operand)[:] = n
        for operand in op.writes:
            self._view(self.written, operand)[:] = n

    def _view(self, tables: dict[Memory, Ints], operand: Operand) -> Ints:
        return self.graph.view(tables[operand.tensor.memory], operand)
