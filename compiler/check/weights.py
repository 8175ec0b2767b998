"""Weights and parameters: every row of the stream and of every FETCH used once, and in order.

The stream is a sequence of blocks, the rows of one matrix product each (those of a GEMM that keeps
them serve the next GEMM as well). A FETCH brings the rows of one or more GEMMs of its expert's
queue. Since both an empty queue's FETCH and its GEMMs do nothing to the demand rings, rows and
GEMMs meet for every routing if they do for the routing that leaves no queue empty.

A FETCH waits for room in the demand rings, for GEMMs then that may stand behind it in the program,
and instructions are handed out in order. So the program is gone through with every FETCH as late as
its room allows: a GEMM must find its rows, a take the credits of FETCHes that are complete, and no
more FETCHes may wait than their queue holds. Fuller rings than with no empty queue there are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.core import QUEUE_DEPTH
from moevit.hw.image import BlockHeader
from moevit.hw.isa import SEMAPHORES, Fetch, Gemm

from .findings import Finding
from .steps import Stage, Step

__all__ = ["check_demand", "check_stream", "check_values"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_BELOW_RANGE = 0x80
"""-128, which the array cannot multiply (hw/compute/dot.py)."""


def _finding(message: str, *steps: Step, kind: str = "weights") -> Finding:
    return Finding(kind=kind, message=message, instructions=tuple(s.index for s in steps))


def _name(step: Step) -> str:
    return f"instruction {step.index} ({type(step.instruction).__name__.upper()})"


class _Kept:
    """What the GEMM before on the same ring has left for the next one."""

    def __init__(self) -> None:
        self.step: Step | None = None

    def new_rows(self, step: Step, i: Gemm) -> tuple[bool, Finding | None]:
        """Whether a GEMM takes new rows, and what is wrong with its use of kept ones."""
        before, self.step = self.step, step if i.keep else None
        if before is None:
            return True, None
        kept = before.instruction
        assert isinstance(kept, Gemm)
        if (kept.depth, kept.otiles) == (i.depth, i.otiles) and before.queue == step.queue:
            return False, None
        return False, _finding(
            f"{_name(before)} keeps {kept.otiles} x {kept.depth} weight rows, {_name(step)} after "
            f"it uses {i.otiles} x {i.depth}",
            before,
            step,
        )


def check_stream(
    config: AcceleratorConfig, steps: Sequence[Step], blocks: Sequence[BlockHeader]
) -> Iterator[Finding]:
    """Blocks and GEMMs one by one."""
    memory, kept, used = config.memory, _Kept(), 0
    for step in steps:
        i = step.instruction
        if not isinstance(i, Gemm) or i.demand:
            continue
        new, problem = kept.new_rows(step, i)
        if problem:
            yield problem
        if not new:
            continue
        rows = (i.otiles, i.otiles * i.depth)
        if rows[0] > memory.param_rows or rows[1] > memory.ring_rows:
            yield _finding(f"{_name(step)}: {rows[1]} weight rows do not fit the ring", step)
        if used == len(blocks):
            yield _finding(f"{_name(step)}: the stream has no more than {used} blocks", step)
            return
        block = blocks[used]
        if (block.param_rows, block.weight_rows) != rows:
            yield _finding(
                f"{_name(step)} uses {rows[0]} parameter and {rows[1]} weight rows, block {used} "
                f"of the stream has {block.param_rows} and {block.weight_rows}",
                step,
            )
            return
        used += 1
    if used < len(blocks):
        yield _finding(f"{len(blocks) - used} of {len(blocks)} blocks of the stream are not used")
    if kept.step:
        yield _finding(f"{_name(kept.step)} keeps rows that nobody uses after it", kept.step)


class _Lot:
    """Rows of a FETCH on their way: in its queue, in the rings, used up."""

    def __init__(self, step: Step, i: Fetch) -> None:
        self.step, self.queue = step, (step.router, i.queue)
        self.rows = (i.param_rows, i.weight_rows)
        self.left = self.rows


def check_demand(config: AcceleratorConfig, steps: Sequence[Step]) -> Iterator[Finding]:
    """FETCHes and the GEMMs that use them, every FETCH as late as its room allows."""
    memory = config.memory
    free = [memory.demand_param_rows, memory.demand_rows]
    waiting: deque[_Lot] = deque()
    there: deque[_Lot] = deque()
    credits = [0] * SEMAPHORES
    kept = _Kept()
    given = {s.give.semaphore for s in steps if s.give and s.give.stage == Stage.FETCH}
    for step in steps:
        i, take, give = step.instruction, step.take, step.give
        if take and take.semaphore in given:
            credits[take.semaphore] -= take.amount * (step.tiles if take.each else 1)
            if credits[take.semaphore] < 0 and waiting:
                late = waiting[0].step
                yield _finding(
                    f"{_name(step)} waits for {_name(late)}, which waits for room that only later "
                    "GEMMs make",
                    late,
                    step,
                    kind="deadlock",
                )
                return
        if give and give.semaphore in given and give.stage != Stage.FETCH:
            credits[give.semaphore] += give.amount * (step.tiles if give.each else 1)
        if isinstance(i, Fetch):
            waiting.append(_Lot(step, i))
        elif isinstance(i, Gemm) and i.demand:
            new, problem = kept.new_rows(step, i)
            problem = problem or (_use(step, i, there, waiting) if new else None)
            if problem:
                yield problem
                return
            lot = there[0]
            if not i.keep:
                rows = (i.otiles, i.otiles * i.depth)
                lot.left = (lot.left[0] - rows[0], lot.left[1] - rows[1])
                free = [f + r for f, r in zip(free, rows, strict=True)]
                if not any(lot.left):
                    there.popleft()
        while waiting and all(f >= r for f, r in zip(free, waiting[0].rows, strict=True)):
            lot = waiting.popleft()
            free = [f - r for f, r in zip(free, lot.rows, strict=True)]
            there.append(lot)
            if lot.step.give:
                credits[lot.step.give.semaphore] += 1
        if len(waiting) > QUEUE_DEPTH:
            yield _finding(
                f"{_name(waiting[-1].step)} is the {len(waiting)}th FETCH that waits for room, "
                f"their queue holds {QUEUE_DEPTH} and keeps back all that follows",
                waiting[0].step,
                waiting[-1].step,
                kind="deadlock",
            )
            return
    if there or waiting:
        lot = (there or waiting)[0]
        yield _finding(f"rows that {_name(lot.step)} fetches are not used up", lot.step)


def _use(step: Step, i: Gemm, there: deque[_Lot], waiting: deque[_Lot]) -> Finding | None:
    """What is wrong with a GEMM that takes the next rows of the demand rings."""
    if not there:
        if waiting:
            return _finding(
                f"{_name(step)} needs what {_name(waiting[0].step)} fetches, for which there is "
                "no room before",
                waiting[0].step,
                step,
                kind="deadlock",
            )
        return _finding(f"{_name(step)} uses fetched weights, all FETCHes are used up", step)
    lot = there[0]
    queue = (step.queue.router, step.queue.expert) if step.queue else None
    rows = (i.otiles, i.otiles * i.depth)
    if lot.queue != queue or any(r > left for r, left in zip(rows, lot.left, strict=True)):
        return _finding(
            f"{_name(step)} uses {rows[0]} parameter and {rows[1]} weight rows of queue {i.queue}, "
            f"next come {lot.left[0]} and {lot.left[1]} of queue {lot.queue[1]} "
            f"({_name(lot.step)})",
            lot.step,
            step,
        )
    return None


def check_values(
    config: AcceleratorConfig,
    steps: Sequence[Step],
    blocks: Sequence[BlockHeader],
    program: Bytes,
    stream: tuple[int, int],
) -> Iterator[Finding]:
    """No weight is -128.

    ``program``: the memory from the program base on; ``stream``: offset and beats of a port.
    """
    offset, beats = stream
    ports = config.memory.ports
    size = beats * BEAT_BYTES
    rows = program[offset : offset + ports * size].reshape(ports, size)
    at = 0
    for n, block in enumerate(blocks):
        start = at + BEAT_BYTES * (1 + block.param_rows * config.param_row_beats)
        at += BEAT_BYTES * (1 + block.beats(config))
        if not block.packed and (rows[:, start:at] == _BELOW_RANGE).any():
            yield Finding(kind="weights", message=f"block {n} of the stream has a weight of -128")
    for step in steps:
        i = step.instruction
        if not isinstance(i, Fetch) or i.packed:
            continue
        first = i.param_rows * config.param_row_beats * BEAT_BYTES
        share = first + i.weight_rows * config.row_beats * BEAT_BYTES
        lot = program[i.address : i.address + ports * share].reshape(ports, share)
        if (lot[:, first:] == _BELOW_RANGE).any():
            yield _finding(f"{_name(step)} fetches a weight of -128", step)
