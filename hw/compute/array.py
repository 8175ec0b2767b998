"""The shared compute unit: steps of products, accumulation, and the queues of finished tiles.

Output stationary: a tile of T tokens x O outputs stays in the accumulators while the contraction
runs. One weight row (ring, keys or values) and T x I operand bytes (tokens or attention weights)
enter each cycle.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream
from amaranth.lib.data import StructLayout, View
from amaranth.lib.wiring import In, Out, connect, flipped

from moevit.quant.formats import ACCUMULATOR, ACTIVATION

from ..config import FINISHED_TILES, AcceleratorConfig
from ..interfaces import (
    POINTER_BITS,
    AttentionRead,
    OperandWrite,
    ReadPort,
    accumulators,
    finished_tiles,
    row_address,
    score_tile,
    weight_row,
)
from ..isa import ADDRESS_BITS
from ..lib.component import Component
from ..lib.queue import SmallFifo
from ..registers import Error
from .descriptors import array_tile, drain_tile
from .dot import DotProducts
from .operands import OperandBuffer
from .step_issue import STALLS, StepIssue, step_facts
from .tiles import FinishedTiles

__all__ = ["ComputeArray"]

_ANNOUNCED = 4
"""Tiles of tokens that the epilogue can be told of before it gets to them."""


class ComputeArray(Component):
    """Issues one step a cycle while operands, weights and room for the result are there.

    Latency: 4 cycles plus that of :class:`DotProducts` from the last step of a tile to the tile in
    its queue. Throughput: one step (T x I x O products) a cycle. Back-pressure: a tile is only
    begun when its place in the queue is free.

    Members
    -------
    i : In(stream of array_tile)
    drain : Out(stream of drain_tile)
        Announced when its first step is issued.
    tile_valid, tile_ready, tiles
        The oldest finished tile for the epilogue (first-in first-out).
    second_valid, second_ready, odd
        The one behind it, where two are shown: ``tiles[odd]`` is the older. Both leave.
    score : Out(stream of {tile: score_tile, acc: T x O})
        Tiles of scores for the softmax unit.
    operands : In(OperandWrite)
        The loader's writes; ``half_released`` answers.
    rows, kv : Out(ReadPort)
        Weight rows; key/value rows.
    attention : Out(AttentionRead)
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        scores = StructLayout({"tile": score_tile(config), "acc": accumulators(config)})
        super().__init__(
            {
                "i": In(stream.Signature(array_tile(config))),
                "drain": Out(stream.Signature(drain_tile(config))),
                "tile_valid": Out(1),
                "tile_ready": In(1),
                "second_valid": Out(1),
                "second_ready": In(1),
                "odd": Out(1),
                "tiles": Out(finished_tiles(config)),
                "score": Out(stream.Signature(scores)),
                "operands": In(OperandWrite(config)),
                "half_released": Out(1),
                "rows": Out(ReadPort(row_address(config), weight_row(config))),
                "ring_filled": In(POINTER_BITS),
                "ring_released": Out(POINTER_BITS),
                "demand_filled": In(POINTER_BITS),
                "demand_released": Out(POINTER_BITS),
                "kv": Out(ReadPort(ADDRESS_BITS, weight_row(config))),
                "attention": Out(AttentionRead(config)),
                "busy": Out(1),
                "fault": Out(Error),
                # one of these is 1 in each cycle
                "stepped": Out(1),
                **{f"stall_{reason}": Out(1) for reason in STALLS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.issue = issue = StepIssue(config)
        m.submodules.operand_buffer = buffer = OperandBuffer(config)
        m.submodules.dot = dot = DotProducts(config.array)
        m.submodules.drain_tiles = drain_tiles = FinishedTiles(config, shown=config.drain_rows)
        m.submodules.score_tiles = score_tiles = FinishedTiles(config)
        m.submodules.drains = drains = SmallFifo(drain_tile(config), _ANNOUNCED)
        m.submodules.marks = marks = SmallFifo(score_tile(config), FINISHED_TILES)
        connect(m, flipped(self.i), issue.i)
        connect(m, issue.drain, drains.i)
        connect(m, drains.o, flipped(self.drain))
        connect(m, issue.mark, marks.i)
        connect(m, flipped(self.operands), buffer.write)
        m.d.comb += [
            issue.filled[0].eq(self.ring_filled),
            issue.filled[1].eq(self.demand_filled),
            self.ring_released.eq(issue.released[0]),
            self.demand_released.eq(issue.released[1]),
            self.half_released.eq(issue.half_released),
            issue.weights_ready.eq(self.attention.ready),
            self.attention.release.eq(issue.weights_release),
            issue.room.eq(Cat(drain_tiles.room, score_tiles.room)),
            Cat(drain_tiles.reserve, score_tiles.reserve).eq(issue.reserve),
            self.busy.eq(
                self.i.valid
                | issue.pending
                | ~drain_tiles.empty
                | ~score_tiles.empty
                | drains.o.valid
            ),
            self.stepped.eq(issue.step),
            Cat(getattr(self, f"stall_{reason}") for reason in STALLS).eq(issue.stall),
        ]
        self._read(m, issue, buffer)
        self._multiply(m, issue, buffer, dot)
        self._accumulate(m, issue, dot, drain_tiles, score_tiles)
        m.d.comb += [
            self.tile_valid.eq(drain_tiles.valid),
            self.second_valid.eq(drain_tiles.second),
            self.odd.eq(drain_tiles.odd),
            self.tiles.eq(drain_tiles.tiles),
            drain_tiles.pop.eq(self.tile_valid & self.tile_ready),
            drain_tiles.pop_second.eq(self.second_valid & self.second_ready),
            self.score.valid.eq(score_tiles.valid),
            self.score.payload.tile.eq(marks.o.payload),
            self.score.payload.acc.eq(score_tiles.tiles[0]),
            score_tiles.pop.eq(self.score.valid & self.score.ready),
            marks.o.ready.eq(score_tiles.pop),
        ]
        return m

    def _read(self, m: Module, issue: StepIssue, buffer: OperandBuffer) -> None:
        """Both operands are read before it is known whether there is a step; without one, nothing
        is done with them."""
        facts, limits = issue.facts, self._config.limits
        p_words = -(-limits.tokens // self._config.array.inputs)
        m.d.comb += [
            self.rows.en.eq(self.i.valid & ~facts.from_kv),
            self.rows.addr.eq(issue.row),
            self.kv.en.eq(facts.from_kv),
            self.kv.addr.eq(issue.kv_row),
            buffer.en.eq(~facts.is_value),
            buffer.half.eq(issue.half),
            buffer.word.eq(issue.k),
            self.attention.en.eq(facts.is_value),
            self.attention.addr.word.eq(issue.k),
            self.attention.addr.half.eq(self.attention.half),
        ]
        bad_row = facts.from_kv & (issue.kv_row >= self._config.memory.kv_rows)
        with m.If(issue.step & (bad_row | (facts.is_value & (issue.k >= p_words)))):
            m.d.sync += self.fault.eq(Error.ADDRESS)

    def _multiply(
        self, m: Module, issue: StepIssue, buffer: OperandBuffer, dot: DotProducts
    ) -> None:
        """Operands as read, a cycle later, to registers."""
        a = self._config.array
        step = Signal(name="step_1")
        facts: Any = Signal(step_facts, name="facts_1")
        m.d.sync += [step.eq(issue.step), facts.eq(issue.facts)]
        # One register for all operands of a kind: a simulator moves whole words of it.
        weights = Signal(ACTIVATION.width * a.inputs * a.outputs, reset_less=True)
        operands = Signal(ACTIVATION.width * a.inputs * a.tokens, reset_less=True)
        transposed = Cat(
            self.kv.data.word_select(i * a.outputs + o, ACTIVATION.width)
            for o in range(a.outputs)
            for i in range(a.inputs)
        )
        with m.If(step):
            with m.If(facts.is_value):
                m.d.sync += weights.eq(transposed)
            with m.Else():
                m.d.sync += weights.eq(Mux(facts.from_kv, self.kv.data, self.rows.data))
            m.d.sync += operands.eq(Mux(facts.is_value, self.attention.data, buffer.data))
        m.d.comb += [dot.w.as_value().eq(weights), dot.a.as_value().eq(operands)]

    def _accumulate(
        self,
        m: Module,
        issue: StepIssue,
        dot: DotProducts,
        drain_tiles: FinishedTiles,
        score_tiles: FinishedTiles,
    ) -> None:
        """Adds up the steps of a tile; a finished one goes to its queue."""
        moving: Value = Cat(issue.step, issue.facts.as_value())
        for n in range(2 + dot.latency):
            later = Signal(moving.shape(), name=f"moving_{n + 1}")
            m.d.sync += later.eq(moving)
            moving = later
        step, about = moving[0], View(step_facts, moving[1:])
        done = step & about.last
        m.d.comb += [
            drain_tiles.push.eq(done & ~about.to_score),
            score_tiles.push.eq(done & about.to_score),
        ]
        for t in range(self._config.array.tokens):
            for o in range(self._config.array.outputs):
                acc = Signal(signed(ACCUMULATOR.width), name=f"acc_{t}_{o}", reset_less=True)
                total = Signal(signed(ACCUMULATOR.width), name=f"sum_{t}_{o}")
                m.d.comb += [
                    total.eq(Mux(about.first, 0, acc) + dot.o[t][o]),
                    drain_tiles.sums[t][o].eq(total),
                    score_tiles.sums[t][o].eq(total),
                ]
                with m.If(step):
                    m.d.sync += acc.eq(total)
