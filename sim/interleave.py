"""Programs executed with all engines side by side, in any order that the semaphores allow.

The interpreter runs instructions one after another. Hardware does not: engines work tile by tile at
their own speed, the operand loader runs ahead of the epilogue, and only credits keep them apart.
Here every engine is a process that takes one step at a time, and a seed picks who is next, with
speeds that change all the time. A program whose result depends on the seed has a race; one where
nobody can move has a deadlock, which is also looked for with short instruction queues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np

from moevit.hw.config import FINISHED_TILES, AcceleratorConfig
from moevit.hw.isa import (
    SEMAPHORES,
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
from moevit.hw.registers import Error
from moevit.quant.typing import Ints

from .engines import Bases
from .errors import DeviceError
from .interpreter import Frame, open_frame

__all__ = ["run_interleaved"]

Process = Generator[Callable[[], bool], None, None]
"""Yields what it waits for, and is resumed when that holds."""

_OPERAND_HALVES = 2
_SPEEDS = (0.01, 1.0, 100.0)
_STEPS_AT_A_SPEED = 40


def run_interleaved(
    config: AcceleratorConfig,
    memory: Ints,
    *,
    program_base: int,
    image_base: int,
    output_base: int,
    seed: int,
    queue_depth: int = 16,
) -> None:
    """One frame; ``memory`` receives the output.

    ``queue_depth`` is the number of instructions that can wait in front of an engine. Raises
    :class:`DeviceError`: ``HANG`` for a deadlock.
    """
    bases = Bases(program=program_base, image=image_base, output=output_base)
    frame = open_frame(config, memory, bases, poison=seed)
    _Machine(config, frame, queue_depth).run(np.random.default_rng(seed))


class _Machine:
    """Queues, credits, and one process for each thing that moves by itself."""

    def __init__(self, config: AcceleratorConfig, frame: Frame, queue_depth: int) -> None:
        self.config, self.frame, self.queue_depth = config, frame, queue_depth
        self.engines, self.chip = frame.engines, frame.chip
        self.credits = [0] * SEMAPHORES
        names = ("load", "store", "norm", "compute", "fetch")
        self.queues: dict[str, deque[Any]] = {name: deque() for name in names}
        self.operands: deque[Any] = deque()  # loader -> array
        self.finished: deque[Any] = deque()  # array -> epilogue
        self.routing: deque[Gemm] = deque()  # epilogue -> gate unit
        self.idle: set[str] = set()
        self.dispatched = 0

    def run(self, rng: np.random.Generator) -> None:
        """Until every instruction has been handed out and every engine is idle."""
        processes: dict[str, Process] = {
            "sequencer": self.sequencer(),
            "load": self.load(),
            "store": self.store(),
            "norm": self.norm(),
            "fetch": self.fetch(),
            "loader": self.loader(),
            "array": self.array(),
            "epilogue": self.epilogue(),
            "gate": self.gate(),
        }
        waits = {name: next(process) for name, process in processes.items()}
        step = 0
        while True:
            able = [name for name, ready in waits.items() if ready()]
            if not able:
                break
            if step % _STEPS_AT_A_SPEED == 0:
                speed = dict(zip(processes, rng.choice(_SPEEDS, len(processes)), strict=True))
            step += 1
            weights = np.array([speed[name] for name in able])
            name = able[int(rng.choice(len(able), p=weights / weights.sum()))]
            waits[name] = processes[name].send(None)
        stuck = sorted(set(processes) - self.idle)
        if stuck:
            at = f"{self.dispatched} instructions handed out"
            raise DeviceError(Error.HANG, f"deadlock of {', '.join(stuck)}; {at}")

    # Waiting -----------------------------------------------------------------------------------
    def _next(self, name: str, queue: deque[Any]) -> Generator[Callable[[], bool], None, Any]:
        """The next item of a queue; the process counts as idle while there is none."""
        self.idle.add(name)
        yield lambda: len(queue) > 0
        self.idle.discard(name)
        return queue.popleft()

    def _put(self, queue: deque[Any], item: Any, depth: int) -> Process:
        yield lambda: len(queue) < depth
        queue.append(item)

    def _take(self, i: Instruction, count: int) -> Process:
        if i.wait and count:
            yield lambda: self.credits[i.wait] >= count
            self.credits[i.wait] -= count

    def _give(self, i: Instruction, count: int) -> None:
        if i.signal:
            self.credits[i.signal] += count

    def _rows(self, count: int) -> list[Ints]:
        t = self.config.array.tokens
        return [np.arange(n, min(n + t, count)) for n in range(0, count, t)]

    # Processes ---------------------------------------------------------------------------------
    def sequencer(self) -> Process:
        """Hands instructions out in order."""
        kinds = {Load: "load", Store: "store", Norm: "norm", Fetch: "fetch"}
        for n in range(len(self.frame.code)):
            i = self.frame.instruction(n)
            if isinstance(i, Halt):
                break
            yield from self._put(self.queues[kinds.get(type(i), "compute")], i, self.queue_depth)
            self.dispatched += 1
        self.idle.add("sequencer")
        yield lambda: False

    def load(self) -> Process:
        while True:
            i = yield from self._next("load", self.queues["load"])
            yield from self._take(i, i.wait_count or 1)
            yield lambda: True
            self.engines.load(i)
            self._give(i, 1)

    def store(self) -> Process:
        while True:
            i = yield from self._next("store", self.queues["store"])
            yield from self._take(i, i.wait_count)
            for rows in self._rows(i.rows):
                yield from self._take(i, 0 if i.wait_count else 1)
                yield lambda: True
                self.engines.store(i, rows)
            self._give(i, 1)

    def norm(self) -> Process:
        while True:
            i = yield from self._next("norm", self.queues["norm"])
            yield from self._take(i, i.wait_count)
            for rows in self._rows(i.tokens):
                yield from self._take(i, 0 if i.wait_count else 1)
                yield lambda: True
                self.engines.norm(i, rows)
                yield lambda: True
                self._give(i, 1)

    def fetch(self) -> Process:
        demand = self.chip.demand
        while True:
            i = yield from self._next("fetch", self.queues["fetch"])
            yield from self._take(i, i.wait_count or 1)
            yield lambda: True
            if not len(self.chip.queues[i.queue].tokens):
                self._give(i, 1)
                continue

            def room(i: Fetch = i) -> bool:
                weights, params = demand.left
                return (
                    weights + i.weight_rows <= demand.rows
                    and params + i.param_rows <= demand.param_rows
                )

            yield room
            self.engines.fetch(i)
            self._give(i, 1)

    def loader(self) -> Process:
        """Reads operands tile by tile into the halves of the operand buffer."""
        while True:
            i = yield from self._next("loader", self.queues["compute"])
            if isinstance(i, Sync):
                yield from self._take(i, i.wait_count)
                yield from self._put(self.operands, (i, None, None, True), _OPERAND_HALVES)
                continue
            is_gemm = isinstance(i, Gemm)
            (self.engines.check_gemm if is_gemm else self.engines.check_attention)(i)
            tiles = self._rows(self.engines.length(i) if is_gemm else i.queries)
            if not tiles:
                yield from self._put(self.operands, (i, None, None, True), _OPERAND_HALVES)
                continue
            yield from self._take(i, i.wait_count)
            for n, rows in enumerate(tiles):
                yield from self._take(i, 0 if i.wait_count else 1)
                yield lambda: len(self.operands) < _OPERAND_HALVES
                targets: Any = rows
                if is_gemm:
                    x, targets = self.engines.gemm_read(i, rows), self.engines.gemm_targets(i, rows)
                else:
                    x = self.engines.attention_read(i, rows)
                self.operands.append((i, targets, x, n + 1 == len(tiles)))

    def array(self) -> Process:
        """Multiplies in order: weights from the rings, keys and values from their memory."""
        while True:
            i, targets, x, last = yield from self._next("array", self.operands)
            work: Any = None
            if isinstance(i, Gemm):
                ring = self.engines.ring(i)
                if x is not None:
                    yield partial(ring.holds, i.otiles, i.depth)
                    work = ring.matrix(i.otiles, i.depth)
                if last and not i.keep and not (i.demand and x is None):
                    ring.release(i.otiles, i.depth)
            elif isinstance(i, Attention):
                yield lambda: True
                work = self.engines.attention_values(i, x)
            yield from self._put(self.finished, (i, targets, x, work, last), FINISHED_TILES)

    def epilogue(self) -> Process:
        """Writes in order, then gives the tile's credit."""
        while True:
            i, targets, x, work, last = yield from self._next("epilogue", self.finished)
            yield lambda: True
            if isinstance(i, Sync):
                self._give(i, i.count)
            elif isinstance(i, Attention):
                self.engines.attention_write(i, targets, work)
                self._give(i, 1)
            elif x is not None:
                self.engines.gemm_write(i, targets, x, work)
                if i.mode != Destination.GATE:
                    self._give(i, 1)
                elif last:
                    self.routing.append(i)

    def gate(self) -> Process:
        while True:
            i = yield from self._next("gate", self.routing)
            yield lambda: True
            self.engines.route(i)
            self._give(i, 1)
