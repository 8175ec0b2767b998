"""The cycle model: how long a frame takes, from the program's own instructions.

Engines work through their queues in order and semaphores are given in order, so one pass over the
instructions in program order, with a clock for each part of each engine, is an exact simulation of
events at the level of tiles: whatever an event waits for has been computed before it. Below tiles
the model is fluid. The array takes an output tile every ``depth`` cycles, or as often as the
epilogue drains one where that is slower; rows of weights arrive at the rate of ports and memory, as
the ring has room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from moevit.hw.checks import code_bytes
from moevit.hw.config import BEAT_BYTES, FINISHED_TILES, NEARLY_EMPTY
from moevit.hw.image import BlockHeader
from moevit.hw.isa import (
    SEMAPHORES,
    TO_ACTIVATIONS,
    TO_BYTES,
    TO_KEY_VALUE,
    Attention,
    Destination,
    Fetch,
    Gemm,
    Halt,
    Instruction,
    Load,
    LoadKind,
    Norm,
    Store,
    Sync,
)

from ..plan.layout import ceil_div
from ..plan.schedule import ExpertSchedule
from ..program import Program
from ..timeline import State
from .arrival import Stream
from .timing import Latencies, MemorySpeed, Timing, pixel_cycles

__all__ = ["Estimate", "Log", "calibration_lengths", "estimate", "router_lengths"]

Log = list[tuple[str, int, State, float, float]]
"""Unit, instruction, state, and the time from when until when."""

_OPERAND_HALVES = 2
_AHEAD = 2
"""Tiles by which scores are ahead of weighted values."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``cycles`` of a frame; ``by_engine``: cycles each engine works, or the array waits."""

    cycles: int
    mac_utilisation: float
    bytes_read: int
    by_engine: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def calibration_lengths(schedule: ExpertSchedule, tokens: int) -> tuple[int, ...]:
    """Whole queue lengths nearest to calibration's usage, adding up to its total."""
    usage = np.asarray(schedule.usage)
    total = round(float(usage.sum()))
    floor = np.minimum(np.floor(usage).astype(int), tokens)
    missing = total - int(floor.sum())
    for e in np.argsort(-(usage - floor), kind="stable")[: max(missing, 0)]:
        floor[e] += 1
    return tuple(floor.tolist())


def router_lengths(
    code: Sequence[Instruction], lengths: Sequence[Sequence[int]], layers: int
) -> list[tuple[int, ...]]:
    """Queue lengths of each router GEMM: as given, or a layer's spread evenly over its tokens."""
    routers = [i.tokens for i in code if isinstance(i, Gemm) and i.mode == Destination.GATE]
    if len(lengths) == len(routers):
        return [tuple(layer) for layer in lengths]
    if len(lengths) != layers:
        raise ValueError(f"{len(lengths)} lists of lengths for {layers} MoE layers")
    pieces = len(routers) // layers
    total, found = sum(routers[:pieces]), []
    for n, rows in enumerate(routers):
        before = sum(routers[n // pieces * pieces : n])
        edges = [[v * t // total for v in lengths[n // pieces]] for t in (before, before + rows)]
        found.append(tuple(b - a for a, b in zip(*edges, strict=True)))
    return found


def estimate(
    program: Program,
    task: str,
    timing: Timing,
    *,
    lengths: Sequence[Sequence[int]] | None = None,
    latencies: Latencies | None = None,
    log: Log | None = None,
) -> Estimate:
    """Cycles of one frame of ``task``, or of all together (:data:`~..program.ALL`).

    ``lengths``: for each MoE layer, the tokens in each expert's queue (default: what calibration
    saw on average); or for each router GEMM, where a layer's tokens go in pieces. ``timing``: the
    memory. ``log`` gets what each unit is expected to do.
    """
    about, schedules = program.entry(task), program.schedules(task)
    if lengths is None:
        lengths = [calibration_lengths(s, program.geometry.tokens) for s in schedules]
    lengths = router_lengths(program.instructions(task), lengths, len(schedules))
    model = _Model(
        program,
        task,
        timing,
        [tuple(layer) for layer in lengths],
        latencies or Latencies.of(program.config),
        log,
    )
    cycles = model.run()
    return Estimate(
        cycles=cycles,
        mac_utilisation=about.useful_macs / (cycles * program.config.array.macs),
        bytes_read=model.beats * BEAT_BYTES,
        by_engine={name: round(value) for name, value in model.busy.items()},
    )


class _Model:
    """Clocks of every part, advanced by one instruction after another."""

    def __init__(
        self,
        program: Program,
        task: str,
        timing: Timing,
        lengths: list[tuple[int, ...]],
        latencies: Latencies,
        log: Log | None = None,
    ) -> None:
        self.config, self.l = program.config, latencies
        self.log, self.index = log, 0
        self.t = self.config.array.tokens
        self.speed = MemorySpeed.of(self.config, timing)
        self.code = program.instructions(task)
        self.header = program.header(task)
        self.lengths, self.layer = lengths, -1
        self.credits: list[deque[float]] = [deque() for _ in range(SEMAPHORES)]
        first = self.l.start + self.speed.latency + 4
        self.dispatch = first + self.l.code + self.speed.latency
        # Where each part is.
        self.load_free = self.store_free = self.norm_free = self.norm_out = 0.0
        self.sides = [0.0, 0.0]  # of LOADs
        self.fetch_free = self.loader_free = self.array_free = self.epilogue_free = 0.0
        self.gate_free = self.written = 0.0
        self.halves: deque[float] = deque([0.0] * _OPERAND_HALVES, maxlen=_OPERAND_HALVES)
        memory = self.config.memory
        self.ring = Stream(
            self.config, self.speed, latencies, rows=memory.ring_rows, params=memory.param_rows
        )
        self.ring.at = first + self.l.fetch + self.speed.latency
        self.ring.blocks.extend(program.blocks(task))
        self.demand = Stream(
            self.config,
            self.speed,
            latencies,
            rows=memory.demand_rows,
            params=memory.demand_param_rows,
        )
        self.pops: deque[float] = deque([0.0] * (FINISHED_TILES + 1), maxlen=FINISHED_TILES + 1)
        # Words that the norm engine writes, as time and number: they and those of the epilogue go
        # through one port of the activation memory.
        self.norm_writes: deque[tuple[float, int]] = deque()
        self.kept: Any = None  # arrival times of rows that the next GEMM uses again
        self.beats = (
            self.header.stream_beats * memory.ports + code_bytes(len(self.code)) // BEAT_BYTES + 4
        )
        names = ("array", "stall_operand", "stall_weight", "stall_drain", "stall_softmax")
        self.busy = dict.fromkeys(
            (*names, "norm", "softmax", "gate", "load", "store", "weight"), 0.0
        )

    def run(self) -> int:
        """All instructions; the cycles of the frame."""
        for index, i in enumerate(self.code):
            self.index = index
            self.dispatch += 1
            if isinstance(i, Gemm):
                self.gemm(i)
            elif isinstance(i, Attention):
                self.attention(i)
            elif isinstance(i, Norm):
                self.norm(i)
            elif isinstance(i, Load):
                self.load(i)
            elif isinstance(i, Store):
                self.store(i)
            elif isinstance(i, Fetch):
                self.fetch(i)
            elif isinstance(i, Sync):
                self.sync(i)
            elif isinstance(i, Halt):
                break
        self.busy["weight"] = self.header.stream_beats * self.speed.weight_beat
        ends = (self.store_free, self.written, self.norm_free, self.load_free, self.gate_free)
        return round(max(ends) + self.l.halt)

    def mark(self, unit: str, state: State, start: float, end: float) -> None:
        """A unit is in a state because of the instruction under way."""
        if self.log is not None and end > start:
            self.log.append((unit, self.index, state, start, end))

    # Semaphores --------------------------------------------------------------------------------
    def take(self, i: Instruction, count: int, now: float) -> float:
        """When ``count`` more credits of ``i.wait`` have been taken."""
        if not i.wait or not count:
            return now
        for _ in range(count):
            now = max(now, self.credits[i.wait].popleft() + self.l.credit)
        return now

    def give(self, i: Instruction, when: float, count: int = 1) -> None:
        """``count`` credits to ``i.signal``."""
        if i.signal:
            self.credits[i.signal].extend([when] * count)

    def rows(self, count: int) -> list[int]:
        """Rows of each tile."""
        full, rest = divmod(count, self.t)
        return [self.t] * full + [rest] * (rest > 0)

    # Data and norm engines ---------------------------------------------------------------------
    def contend(self, start: float, beats: float, *, pixels: bool = False) -> float:
        """Cycles of a beat on the data port, which the memory serves in turn with the others.

        ``beats`` from ``start`` on keep back the weights; while those come, they take longer.
        """
        self.ring.advance(start)
        busy = self.ring.at >= start
        self.ring.at += beats * (self.speed.shared_beat - self.speed.weight_beat)
        if busy and pixels and self.ring.held(NEARLY_EMPTY):
            return self.speed.pixel_beat
        return self.speed.shared_beat if busy else self.speed.beat

    def load(self, i: Load) -> None:
        """Data at the slower of memory and writing, one LOAD after another on each side; latency
        shows where nothing else comes meanwhile. Credits are given in order."""
        side = int(self.config.memory.ports > 1 and i.kind in (LoadKind.RESIDUAL, LoadKind.NORM))
        start = self.take(i, i.wait_count or 1, self.dispatch + self.l.queue)
        start = max(start + self.l.load + self.speed.latency, self.sides[side])
        if i.kind == LoadKind.PIXELS:
            width = i.patches * i.patch_bytes
            beats = i.strips * i.patch_rows * ceil_div(width, BEAT_BYTES)
            unpack = i.strips * sum(
                pixel_cycles(self.config, i.patches, i.patch_bytes, y) for y in range(i.patch_rows)
            )
        else:
            beats = i.beats
            sizes = {
                LoadKind.RESIDUAL: 2 * self.config.array.outputs,
                LoadKind.ACTIVATION: self.config.array.inputs,
            }
            unpack = beats * (
                BEAT_BYTES // min(sizes.get(LoadKind(i.kind), BEAT_BYTES), BEAT_BYTES)
            )
        pixels = i.kind == LoadKind.PIXELS
        data = max(unpack, beats * self.contend(start, beats, pixels=pixels))
        self.sides[side] = start + data
        self.load_free = max(self.load_free, self.sides[side])
        self.busy["load"] += data
        self.mark(f"load side {side}", State.BUSY, start, start + data)
        self.beats += beats
        self.give(i, self.load_free)

    def store(self, i: Store) -> None:
        """Rows as their tiles come, a beat a cycle."""
        now = max(self.store_free, self.dispatch + self.l.queue)
        now = self.take(i, i.wait_count, now)
        size = 2 * self.config.array.outputs if i.residual else self.config.array.inputs
        beats = ceil_div(i.words * size, BEAT_BYTES)
        for rows in self.rows(i.rows):
            start = self.take(i, 0 if i.wait_count else 1, now)
            row = max(i.words, beats * self.contend(start, rows * beats))
            now = start + rows * row
            self.busy["store"] += now - start
            self.mark("store", State.BUSY, start, now)
        self.store_free = now + self.l.store + self.speed.write_latency
        self.give(i, self.store_free)

    def norm(self, i: Norm) -> None:
        """A residual word a cycle; a token's output follows when its root is there."""
        now = max(self.norm_free, self.dispatch + self.l.queue) + self.l.norm_start
        now = self.take(i, i.wait_count, now)
        out = now
        for rows in self.rows(i.tokens):
            start = self.take(i, 0 if i.wait_count else 1, now)
            now = start + rows * i.words
            out = max(now + self.l.norm + i.words, out + rows * i.words)
            self.busy["norm"] += rows * i.words
            self.mark("norm", State.BUSY, out - rows * i.words, out)
            self.norm_writes.append((out, rows * i.words))
            self.give(i, out)
        self.norm_free = out

    # Compute engine ----------------------------------------------------------------------------
    def operands(self, rows: int, words: int, now: float) -> float:
        """The loader reads a tile into the older half; when the array can start on it."""
        start = max(now, self.halves[0])
        self.loader_free = start + rows * max(words, self.l.loader_row) + self.l.loader_tile
        self.mark("loader", State.BUSY, start, self.loader_free)
        return self.loader_free + self.l.loader_done

    def drain(
        self, rows: int, otiles: int, depth: int, start: float, end: float, mode: int
    ) -> float:
        """The epilogue takes a tile; when the array is done with it. ``written`` follows.

        Bytes of activations may go in pairs of output tiles, each with a cycle for parameters that
        shows where tiles wait; keys and values in pairs of rows. Activations are written where the
        norm engine writes.
        """
        wide = 1
        total = otiles * rows
        if self.config.drain_rows == 2 and mode in TO_BYTES:
            wide = min(2, otiles)
            total = (otiles // 2) * (rows + 1) + otiles % 2 * rows
        elif self.config.drain_rows == 2 and mode in TO_KEY_VALUE:
            total = otiles * ceil_div(rows, 2)
        each = total / otiles
        first = max(self.epilogue_free, start + wide * depth + self.l.array)
        last = max(first + total, end + self.l.array + wide * each)
        if mode in TO_ACTIVATIONS:
            others = 0
            while self.norm_writes and self.norm_writes[0][0] < last:
                when, count = self.norm_writes.popleft()
                others += count if when > first else 0
            last = max(last, first + total + others)
        self.mark("epilogue", State.BUSY, first, last)
        self.epilogue_free = last
        self.written = last + self.l.epilogue
        for j in range(max(otiles - FINISHED_TILES - 1, 0), otiles):
            made = start + ceil_div(j + 1, wide) * wide * depth + self.l.array + wide * each
            self.pops.append(max(first + (j + 1) * each, made))
        held = self.pops[0] + depth  # the last tile began when there was a place for it
        if held > end:
            self.busy["stall_drain"] += held - end
        self.mark("array", State.DRAIN, end, held)
        return max(end, held)

    def gemm(self, i: Gemm) -> None:
        """Tiles through loader, array and epilogue; weights arrive during the first."""
        now = max(self.loader_free, self.dispatch + self.l.queue) + self.l.loader_start
        stream = self.demand if i.demand else self.ring
        count = self.lengths[self.layer][i.queue] if i.use_queue else i.tokens
        block = i.otiles * i.depth
        if not count:
            self.loader_free = now
            if not i.demand:
                here = stream.arrive(block)
                end = max(self.array_free, here[-1], now) + 1
                self.array_free = end
                stream.release(i.otiles, block, end, end, end)
            return
        now = self.take(i, i.wait_count, now)
        here = stream.arrive(block) if self.kept is None else self.kept
        tiles = self.rows(count)
        for n, rows in enumerate(tiles):
            now = self.take(i, 0 if i.wait_count else 1, now)
            ready = self.operands(rows, i.depth, now)
            now = self.loader_free
            start = max(self.array_free, ready)
            self.busy["stall_operand"] += start - self.array_free
            self.mark("array", State.OPERANDS, self.array_free, start)
            end = start + block
            if n == 0:
                steps = here + np.arange(len(here), 0, -1)
                stalled = max(end, float(steps.max()))
                self.busy["stall_weight"] += stalled - end
                self.mark("array", State.WEIGHTS, start, start + stalled - end)
                end = stalled
            self.busy["array"] += block
            self.mark("array", State.BUSY, end - block, end)
            end = self.drain(rows, i.otiles, i.depth, start, end, i.mode)
            self.array_free = end
            self.halves.append(end)
            if n + 1 == len(tiles) and not i.keep:
                stream.release(i.otiles, block, start, end, self.epilogue_free)
            if i.mode == Destination.GATE:
                self.gate_free = max(self.gate_free, self.epilogue_free) + rows * i.top_k
                self.busy["gate"] += rows * i.top_k
                self.mark("gate", State.BUSY, self.gate_free - rows * i.top_k, self.gate_free)
            else:
                self.give(i, self.written)
        self.kept = here if i.keep else None
        if i.mode == Destination.GATE:
            self.layer += 1
            self.gate_free += self.l.gate
            self.give(i, self.gate_free)

    def attention(self, i: Attention) -> None:
        """Scores of one head and tile, then the weighted values of the one before."""
        array = self.config.array
        now = max(self.loader_free, self.dispatch + self.l.queue) + self.l.loader_start
        now = self.take(i, i.wait_count, now)
        key_tiles = ceil_div(i.keys, array.outputs)
        pairs = max(self.t // 2, 1)
        lane = key_tiles * pairs  # cycles of the softmax unit for a tile, on each side
        if key_tiles == 1:
            lane = self.t
        scores = key_tiles * i.chunks
        values = i.v_otiles * i.v_tile_pitch
        entered = emptied = 0.0  # softmax: last tile taken; last exponential
        released: deque[float] = deque([0.0, 0.0], maxlen=2)  # halves of the weights
        waiting: deque[tuple[int, float, bool]] = deque()

        def weigh(rows: int, ready: float, last: bool) -> None:
            start = max(self.array_free, ready)
            self.busy["stall_softmax"] += start - self.array_free
            self.busy["array"] += values
            self.mark("array", State.SOFTMAX, self.array_free, start)
            self.mark("array", State.BUSY, start, start + values)
            self.epilogue_free = max(self.epilogue_free, ready + self.l.softmax_scale)
            end = start + values
            end = self.drain(rows, i.v_otiles, i.v_tile_pitch, start, end, Destination.ACT8)
            self.array_free = end
            released.append(end)
            if last:
                self.give(i, self.written)

        for rows in self.rows(i.queries):
            now = self.take(i, 0 if i.wait_count else 1, now)
            for head in range(i.heads):
                ready = self.operands(rows, i.chunks, now)
                now = self.loader_free
                start = max(self.array_free, ready)
                self.busy["stall_operand"] += start - self.array_free
                self.busy["array"] += scores
                self.mark("array", State.OPERANDS, self.array_free, start)
                self.mark("array", State.BUSY, start, start + scores)
                taken = max(entered, emptied - lane, start + i.chunks + self.l.array) + lane
                entered = max(taken, start + scores + self.l.array + pairs)
                end = max(start + scores, entered - FINISHED_TILES * pairs - self.l.array)
                self.busy["stall_drain"] += end - start - scores
                self.mark("array", State.DRAIN, start + scores, end)
                self.array_free = end
                self.halves.append(end)
                if len(waiting) == _AHEAD:
                    weigh(*waiting.popleft())
                begin = max(entered + self.l.softmax_in, emptied, released[-1])
                emptied = begin + lane
                usable = emptied + self.l.softmax - self.l.softmax_in
                self.busy["softmax"] += lane
                self.mark("softmax", State.BUSY, begin, emptied)
                waiting.append((rows, usable, head + 1 == i.heads))
        while waiting:
            weigh(*waiting.popleft())

    def sync(self, i: Sync) -> None:
        """Credits are taken at the loader, given behind the epilogue."""
        now = max(self.loader_free, self.dispatch + self.l.queue) + self.l.loader_start
        now = self.take(i, i.wait_count, now)
        self.loader_free = now
        passed = max(self.array_free, now + self.l.loader_done)
        self.array_free = passed
        self.give(i, max(self.written, passed + self.l.epilogue), i.count)

    # Weight engine -----------------------------------------------------------------------------
    def fetch(self, i: Fetch) -> None:
        """An expert on demand takes the port from the stream for as long as it lasts."""
        now = max(self.fetch_free, self.dispatch + self.l.queue)
        now = self.take(i, i.wait_count or 1, now) + self.l.fetch
        self.fetch_free = now
        if not self.lengths[self.layer][i.queue]:
            self.give(i, now)
            return
        block = BlockHeader(
            param_rows=i.param_rows, weight_rows=i.weight_rows, packed=bool(i.packed)
        )
        beats = block.beats(self.config)
        self.beats += beats * self.config.memory.ports
        begin = self.demand.fetch(now, block)
        self.mark("fetch", State.BUSY, now, begin + beats * self.speed.weight_beat)
        self.fetch_free = begin
        self.give(i, begin)
        self.ring.advance(begin)
        self.ring.at = max(self.ring.at, begin) + beats * self.speed.weight_beat
