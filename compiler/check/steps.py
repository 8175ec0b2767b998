"""A program as steps of the engines: stages, operations, credits taken and given.

This is the instruction set's text (``hw/isa.py``, docs/spec.md) as data. An engine is one or more
*stages*; a stage performs its *operations* one after the other, in the order of the program. An
instruction is a number of operations, one for each tile of T rows (ATTENTION: for each tile and
head), each of which passes the stages of its engine in turn:

| instruction | stages | operations |
|---|---|---|
| LOAD | ASK (credits, data asked for), LOAD (written) | one |
| STORE | STORE (rows read, written, acknowledged) | a tile each, one for the answer |
| NORM | SUMS (residual read), NORM (parameters read, activations written) | a tile each |
| GEMM, ATTENTION, SYNC | LOADER, ARRAY (keys, values, weights), EPILOGUE (written) | a tile each |
| router GEMM | in addition GATE (queues written) | one |
| FETCH | FETCH | one |

Rows of an expert's queue are known only at run time. Such an instruction has the operations of the
longest queue that its router can make; any number of the last ones may not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from moevit.hw.config import AcceleratorConfig
from moevit.hw.isa import (
    Attention,
    Destination,
    Fetch,
    Gemm,
    Halt,
    Instruction,
    Load,
    Norm,
    Store,
    Sync,
)

__all__ = ["FIRST", "STAGES", "Credits", "QueueUse", "Stage", "Step", "make_steps"]


class Stage(IntEnum):
    """What works in order by itself."""

    ASK = 0
    LOAD = 1
    STORE = 2
    SUMS = 3
    NORM = 4
    LOADER = 5
    ARRAY = 6
    EPILOGUE = 7
    GATE = 8
    FETCH = 9


STAGES = len(Stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueUse:
    """The queue of ``expert`` as router GEMM number ``router`` fills it, of up to ``rows``."""

    router: int
    expert: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Credits:
    """``amount`` credits of ``semaphore`` at ``stage``: for each tile, or once in all."""

    semaphore: int
    stage: Stage
    amount: int
    each: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Instruction ``index``: ``tiles`` x ``heads`` operations (heads inner).

    ``queue``: the rows come from there, so any of the last tiles may not exist, or none at all.
    ``router``: the number of the router GEMM that filled the queues as they are now (-1: none has).
    """

    index: int
    instruction: Instruction
    tiles: int
    heads: int = 1
    rows: int = 0
    queue: QueueUse | None = None
    router: int = -1
    take: Credits | None = None
    give: Credits | None = None

    @property
    def operations(self) -> int:
        """How many."""
        return self.tiles * self.heads

    @property
    def is_router(self) -> bool:
        """Whether it fills the queues."""
        i = self.instruction
        return isinstance(i, Gemm) and i.mode == Destination.GATE


FIRST: dict[type[Instruction], Stage] = {
    Load: Stage.ASK,
    Store: Stage.STORE,
    Norm: Stage.SUMS,
    Gemm: Stage.LOADER,
    Attention: Stage.LOADER,
    Sync: Stage.LOADER,
    Fetch: Stage.FETCH,
}
"""Where an instruction begins, and takes its credits."""
_GIVES: dict[type[Instruction], Stage] = {
    Load: Stage.LOAD,
    Store: Stage.STORE,
    Norm: Stage.NORM,
    Gemm: Stage.EPILOGUE,
    Attention: Stage.EPILOGUE,
    Sync: Stage.EPILOGUE,
    Fetch: Stage.FETCH,
}


def _take(i: Instruction) -> Credits | None:
    if not i.wait or (isinstance(i, Sync) and not i.wait_count):
        return None
    once = isinstance(i, Load | Fetch)  # these take one where no number is given
    return Credits(
        semaphore=i.wait,
        stage=FIRST[type(i)],
        amount=i.wait_count or 1,
        each=not i.wait_count and not once,
    )


def _give(i: Instruction) -> Credits | None:
    if not i.signal or (isinstance(i, Sync) and not i.count):
        return None
    router = isinstance(i, Gemm) and i.mode == Destination.GATE
    return Credits(
        semaphore=i.signal,
        stage=Stage.GATE if router else _GIVES[type(i)],
        amount=i.count if isinstance(i, Sync) else 1,
        each=isinstance(i, Norm | Attention) or (isinstance(i, Gemm) and not router),
    )


def make_steps(config: AcceleratorConfig, code: Sequence[Instruction]) -> list[Step]:
    """Every instruction but HALT; fields have been checked (:mod:`.addresses`)."""
    t = config.array.tokens
    steps: list[Step] = []
    routers, routed = -1, 0
    for index, i in enumerate(code):
        if isinstance(i, Halt):
            continue
        rows, heads, queue = 1, 1, None
        if isinstance(i, Gemm):
            rows = i.tokens
            if i.use_queue:
                rows = routed
                queue = QueueUse(router=routers, expert=i.queue, rows=rows)
        elif isinstance(i, Attention):
            rows, heads = i.queries, i.heads
        elif isinstance(i, Norm):
            rows = i.tokens
        elif isinstance(i, Store):
            rows = i.rows
        tiled = isinstance(i, Gemm | Attention | Norm | Store)
        step = Step(
            index=index,
            instruction=i,
            tiles=-(-rows // t) if tiled else 1,
            heads=heads,
            rows=rows,
            queue=queue,
            router=routers,
            take=_take(i),
            give=_give(i),
        )
        steps.append(step)
        if step.is_router:
            routers += 1
            routed = rows
    return steps
