"""Programs executed with all engines side by side, in any order that the semaphores allow.

The interpreter runs instructions one after another. Hardware does not: engines work tile by tile at
their own speed, the operand loader runs ahead of the epilogue, and only credits keep them apart.
Here every stage of an engine is a process that takes one step at a time, and a seed picks who is
next: with speeds that change all the time, or so that one of them goes only when nobody else can,
or whenever it can itself (:class:`_Choice`). A program whose result depends on the seed has a race;
one where nobody can move has a deadlock, which is also looked for with short instruction queues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
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
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.typing import Ints

from .engines import Bases
from .errors import DeviceError
from .interpreter import Frame, open_frame

__all__ = ["run_interleaved"]

Process = Generator[Callable[[], bool], None, None]
"""Yields what it waits for, and is resumed when that holds."""

_OPERAND_HALVES = 2
_ASKED_LOADS = 2
_TOKENS_UNDER_WAY = 8
_SPEEDS = (0.01, 1.0, 100.0)
_STEPS_AT_A_SPEED = 40
_NEVER, _ALWAYS = 1e-9, 1e9


def run_interleaved(
    config: AcceleratorConfig,
    memory: Ints,
    *,
    program_base: int,
    image_base: int,
    output_base: int,
    seed: int,
    dial: Dial = AS_COMPILED,
    queue_depth: int = 16,
) -> None:
    """One frame; ``memory`` receives the output.

    ``queue_depth`` is the number of instructions that can wait in front of an engine. Raises
    :class:`DeviceError`: ``HANG`` for a deadlock.
    """
    bases = Bases(program=program_base, image=image_base, output=output_base, dial=dial)
    frame = open_frame(config, memory, bases, poison=seed)
    _Machine(config, frame, queue_depth).run(np.random.default_rng(seed))


class _Choice:
    """Who is next, by a seed.

    One seed in two changes all speeds every few steps. Of the others, each holds back one process
    or prefers one, or both, for a whole frame or until it chooses again.
    """

    def __init__(self, rng: np.random.Generator, names: Sequence[str]) -> None:
        self.rng, self.names, self.step = rng, list(names), 0
        self.random = rng.random() < 0.5
        self.extremes = [(_NEVER,), (_ALWAYS,), (_NEVER, _ALWAYS)][int(rng.integers(3))]
        self.changes = self.random or rng.random() < 0.5
        self.speed = self.draw()

    def draw(self) -> dict[str, float]:
        """A speed for each."""
        if self.random:
            speeds = self.rng.choice(_SPEEDS, len(self.names))
            return dict(zip(self.names, speeds.tolist(), strict=True))
        chosen = self.rng.choice(self.names, len(self.extremes), replace=False)
        return dict.fromkeys(self.names, 1.0) | dict(zip(chosen, self.extremes, strict=True))

    def next(self, able: list[str]) -> str:
        """One of those that can move."""
        self.step += 1
        if self.changes and self.step % _STEPS_AT_A_SPEED == 0:
            self.speed = self.draw()
        weights = np.array([self.speed[name] for name in able])
        return able[int(self.rng.choice(len(able), p=weights / weights.sum()))]


class _Machine:
    """Queues, credits, and one process for each thing that moves by itself."""

    def __init__(self, config: AcceleratorConfig, frame: Frame, queue_depth: int) -> None:
        self.config, self.frame, self.queue_depth = config, frame, queue_depth
        self.engines, self.chip = frame.engines, frame.chip
        self.credits = [0] * SEMAPHORES
        names = ("load", "store", "norm", "compute", "fetch")
        self.queues: dict[str, deque[Any]] = {name: deque() for name in names}
        self.asked: deque[Any] = deque()  # LOADs
        self.landed: deque[Any] = deque()  # and their data
        self.stored: deque[Any] = deque()  # rows of STOREs on their way to memory
        self.summed: deque[Any] = deque()  # tiles of NORMs
        self.operands: deque[Any] = deque()  # loader -> array
        self.finished: deque[Any] = deque()  # array -> epilogue
        self.routing: deque[Gemm] = deque()  # epilogue -> gate unit
        self.idle: set[str] = set()
        self.dispatched = 0

    def run(self, rng: np.random.Generator) -> None:
        """Until every instruction has been handed out and every engine is idle."""
        processes: dict[str, Process] = {
            "sequencer": self.sequencer(),
            "ask": self.ask(),
            "data": self.data(),
            "load": self.load(),
            "store": self.store(),
            "memory": self.memory(),
            "sums": self.sums(),
            "norm": self.norm(),
            "fetch": self.fetch(),
            "loader": self.loader(),
            "array": self.array(),
            "epilogue": self.epilogue(),
            "gate": self.gate(),
        }
        waits = {name: next(process) for name, process in processes.items()}
        choice = _Choice(rng, list(processes))
        while able := [name for name, ready in waits.items() if ready()]:
            name = choice.next(able)
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

    def _first(self, name: str, queue: deque[Any]) -> Generator[Callable[[], bool], None, Any]:
        """The next item, which stays in the queue."""
        self.idle.add(name)
        yield lambda: len(queue) > 0
        self.idle.discard(name)
        return queue[0]

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

    def ask(self) -> Process:
        """Asks for LOADs' data, up to two ahead of what is written."""
        while True:
            i = yield from self._next("ask", self.queues["load"])
            yield from self._take(i, i.wait_count or 1)
            yield lambda: len(self.asked) + len(self.landed) < _ASKED_LOADS
            self.asked.append(i)

    def data(self) -> Process:
        """The memory's answers, some time between the question and the write."""
        while True:
            i = yield from self._next("data", self.asked)
            self.landed.append((i, self.engines.load_read(i).copy()))

    def load(self) -> Process:
        while True:
            i, data = yield from self._next("load", self.landed)
            yield lambda: True
            self.engines.load_write(i, data)
            yield lambda: True
            self._give(i, 1)

    def store(self) -> Process:
        """Reads rows; the memory has them later, and all of them before the next STORE begins."""
        while True:
            i = yield from self._next("store", self.queues["store"])
            yield from self._take(i, i.wait_count)
            for rows in self._rows(i.rows):
                yield from self._take(i, 0 if i.wait_count else 1)
                yield lambda: True
                self.stored.append((i, rows, self.engines.store_read(i, rows)))
            yield lambda: not self.stored
            self._give(i, 1)

    def memory(self) -> Process:
        while True:
            i, rows, data = yield from self._first("memory", self.stored)
            self.engines.store_write(i, rows, data)
            self.stored.popleft()

    def sums(self) -> Process:
        """Reads residuals, up to some tokens ahead of what is written; one NORM at a time."""
        ahead = max(_TOKENS_UNDER_WAY // self.config.array.tokens, 1)
        while True:
            i = yield from self._next("sums", self.queues["norm"])
            yield from self._take(i, i.wait_count)
            for rows in self._rows(i.tokens):
                yield from self._take(i, 0 if i.wait_count else 1)
                yield lambda: len(self.summed) < ahead
                self.summed.append((i, rows, self.engines.norm_read(i, rows)))
            yield lambda: not self.summed

    def norm(self) -> Process:
        while True:
            i, rows, x = yield from self._first("norm", self.summed)
            self.engines.norm_write(i, rows, x)
            yield lambda: True
            self._give(i, 1)
            self.summed.popleft()

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
                last = n + 1 == len(tiles)
                if is_gemm:
                    yield lambda: len(self.operands) < _OPERAND_HALVES
                    x, targets = self.engines.gemm_read(i, rows), self.engines.gemm_targets(i, rows)
                    self.operands.append((i, targets, x, last))
                    continue
                for h in range(i.heads):
                    yield lambda: len(self.operands) < _OPERAND_HALVES
                    heads = np.array([h])
                    x = self.engines.attention_read(i, rows, heads)
                    end = h + 1 == i.heads
                    self.operands.append((i, (rows, heads, end), x, last and end))

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
                work = self.engines.attention_values(i, x, targets[1])
            yield from self._put(self.finished, (i, targets, x, work, last), FINISHED_TILES)

    def epilogue(self) -> Process:
        """Writes in order, then gives the tile's credit."""
        while True:
            i, targets, x, work, last = yield from self._next("epilogue", self.finished)
            yield lambda: True
            if isinstance(i, Sync):
                self._give(i, i.count)
            elif isinstance(i, Attention):
                rows, heads, end = targets
                self.engines.attention_write(i, rows, work, heads)
                self._give(i, int(end))
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
