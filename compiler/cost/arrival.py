"""How weights arrive in the rings: the part of the cycle model below GEMMs."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from math import inf
from typing import Any

import numpy as np

from moevit.hw.config import AcceleratorConfig
from moevit.hw.image import BlockHeader

from .timing import Latencies, MemorySpeed

__all__ = ["Rows", "Stream"]


class Rows:
    """A ring of rows: when each arrives, given when the row in its place was released.

    Releases are points (row number, time); between two points rows are released evenly.
    """

    def __init__(self, depth: int, latencies: Latencies) -> None:
        self.depth, self.latency = depth, latencies.release
        self.points: list[tuple[int, float]] = [(0, 0.0)]
        self.last: float = 0.0
        self.count = 0

    def free(self, row: int) -> float | None:
        """When row ``row`` can be written: the one ``depth`` before it has been released.

        None while that release has not been given.
        """
        needed = row - self.depth + 1
        if needed <= 0:
            return 0.0
        n = bisect_left(self.points, (needed, -1.0))
        if n == len(self.points):
            return None
        b_row, b_time = self.points[n]
        a_row, a_time = self.points[n - 1]
        share = (needed - a_row) / max(b_row - a_row, 1)
        return a_time + share * (b_time - a_time) + self.latency

    def release(self, count: int, start: float, end: float) -> None:
        """The next ``count`` rows are released evenly from ``start`` to ``end``."""
        row = self.points[-1][0]
        start = max(start, self.points[-1][1])
        self.points.append((row, start))
        self.points.append((row + count, max(end, start)))


class Stream:
    """The rows of one pair of rings, parameters and weights, block after block.

    ``blocks`` are in the order of arrival; FETCHes add to them.
    Arrivals are computed as far ahead as releases are known, so that a FETCH, which takes the ports
    for itself, delays only what has not arrived when it starts.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        speed: MemorySpeed,
        latencies: Latencies,
        *,
        rows: int,
        params: int,
    ) -> None:
        self.config, self.speed, self.l = config, speed, latencies
        self.weights, self.params = Rows(rows, latencies), Rows(params, latencies)
        self.at = 0.0  # when the next beat can arrive
        self.blocks: deque[BlockHeader] = deque()
        self.times: list[float] = []  # of weight rows that no GEMM has taken
        self.left = 0  # weight rows of the block under way
        self.row_beats = 0  # of each of them

    def advance(self, until: float) -> None:
        """Everything that arrives before ``until``, as far as the rings are known to have room."""
        while self.at < until and self._step():
            pass

    def arrive(self, block: int) -> Any:
        """Times at which the next ``block`` weight rows can be used."""
        while len(self.times) < block:
            if not self._step():
                raise ValueError("A GEMM waits for rows that the rings cannot take")
        times, self.times = self.times[:block], self.times[block:]
        return np.asarray(times) + self.l.weight_row

    def held(self, share: int) -> bool:
        """Whether there is a ``share``-th of the ring's rows or more in it."""
        released = self.weights.points[-1][0]
        return (self.weights.count - released) * share >= self.weights.depth

    def _step(self) -> bool:
        """The next weight row, or a block's header and parameters; whether there was room."""
        speed, config = self.speed.weight_beat, self.config
        if self.left:
            room = self.weights.free(self.weights.count)
            if room is None:
                return False
            self.weights.count += 1
            self.left -= 1
            self.at = max(self.at, room) + self.row_beats * speed
            self.times.append(self.at)
            return True
        if not self.blocks:
            return False
        block = self.blocks[0]
        params = block.param_rows
        room = self.params.free(self.params.count + params - 1)
        if room is None:
            return False
        self.params.count += params
        self.left, self.row_beats = block.weight_rows, config.row_beats >> block.packed
        self.at = max(self.at + (1 + params * config.param_row_beats) * speed, room)
        self.blocks.popleft()
        return True

    def fetch(self, start: float, block: BlockHeader) -> float:
        """A FETCH's block, which waits for room for all of it; when its data begin."""
        self.advance(inf)  # the one before
        room = (
            self.params.free(self.params.count + block.param_rows - 1),
            self.weights.free(self.weights.count + block.weight_rows - 1),
        )
        self.at = max(self.at, start, *(r for r in room if r is not None))
        begin = self.at
        self.at += self.speed.latency
        self.blocks.append(block)
        return begin

    def release(self, otiles: int, block: int, start: float, end: float, drained: float) -> None:
        """The next rows are released: weights during the last tile, parameters at its end."""
        self.weights.release(block, start, end)
        self.params.release(otiles, drained, drained)
