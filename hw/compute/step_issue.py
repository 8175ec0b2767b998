"""Issue of the array's steps: what is multiplied in each cycle, or why nothing is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..interfaces import POINTER_BITS, score_tile
from ..isa import Attention, Gemm
from ..lib.component import Component
from ..lib.counter import LookaheadCounter
from .descriptors import Kind, array_tile, drain_tile
from .weight_rows import WeightRows

__all__ = ["STALLS", "StepIssue", "step_facts"]

_AHEAD = 2
"""Query tiles and heads by which scores are ahead of weighted values: the softmax unit holds as
many in its two halves of scores and of weights, and has their time for its work."""

STALLS = ("operand", "weight", "drain", "softmax")
"""What the array can wait for."""

step_facts = StructLayout(
    {
        "first": unsigned(1),
        "last": unsigned(1),
        "to_score": unsigned(1),
        "from_kv": unsigned(1),
        "is_value": unsigned(1),
    }
)
"""``first``, ``last``: step of an output tile; ``to_score``: the tile goes to the softmax unit;
``from_kv``: the weights are keys or values; ``is_value``: they are values, which attention weights
multiply."""


class StepIssue(Component):
    """One step a cycle while operands, weights and room for the result are there.

    Attention of one head and query tile is two passes: scores of this tile, then the weighted
    values of a tile before it, so that the softmax unit works in the shadow of the array.

    Members
    -------
    i : In(stream of array_tile)
    drain : Out(stream of drain_tile)
        Announced when its first step is issued.
    mark : Out(stream of score_tile)
        With the last step of each tile of scores; never refused.
    room, reserve
        Of finished tiles for the epilogue and for the softmax unit; a tile of theirs is begun.
    step, facts, k, half, kv_row : Out
        A step; what it is; the word of the operands or attention weights, the operands' half, the
        row of keys or values. All but ``step`` are there before it is known whether there is one.
    weights_ready, weights_release
        The oldest half of the attention weights is complete; its last read is over.
    filled, released
        Pointers of the two weight rings.
    row : Out
        Address of the weight row.
    half_released : Out
        The oldest half of the operands is read.
    pending : Out
        Weighted values are still to come.
    stall : Out
        Why there is no step; one bit for each of ``STALLS``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._rows = WeightRows(config)
        super().__init__(
            {
                "i": In(stream.Signature(array_tile(config))),
                "drain": Out(stream.Signature(drain_tile(config))),
                "mark": Out(stream.Signature(score_tile(config))),
                "room": In(2),
                "reserve": Out(2),
                "step": Out(1),
                "facts": Out(step_facts),
                "k": Out(Gemm.shape("depth")),
                "half": Out(1),
                "kv_row": Out(Attention.shape("k_base")),
                "weights_ready": In(1),
                "weights_release": Out(1),
                "filled": In(POINTER_BITS).array(2),
                "released": Out(POINTER_BITS).array(2),
                "row": Out(self._rows.address.shape()),
                "half_released": Out(1),
                "pending": Out(1),
                "stall": Out(len(STALLS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rows = rows = self._rows
        d, facts = self.i.payload, self.facts
        k = LookaheadCounter(m, "k_now", self.k.shape())
        ot = LookaheadCounter(m, "ot", Gemm.shape("otiles"))
        end_of_k, last_ot, begin = Signal(), Signal(), Signal()
        m.d.comb += [
            self.k.eq(k.value),
            begin.eq(k.is_0 & ot.is_0),
            facts.first.eq(k.is_0),
            facts.last.eq(end_of_k),
            self.drain.payload.eq(d.drain),
        ]
        with m.If(self.step):
            k.advance(end_of_k)
        with m.If(self.step & end_of_k & ~facts.to_score):
            ot.advance(last_ot)
        for n in range(2):
            m.d.comb += [
                rows.filled[n].eq(self.filled[n]),
                self.released[n].eq(rows.released[n]),
            ]
        m.d.comb += [
            rows.demand.eq(d.drain.demand),
            rows.keep.eq(d.drain.keep),
            rows.last.eq(d.drain.last),
            rows.block.eq(d.block),
            rows.end.eq(end_of_k & last_ot),
            self.row.eq(rows.address),
        ]

        # Heads and tiles whose scores are issued and whose weighted values are not yet; the oldest
        # comes first.
        ahead: list[Any] = [
            Signal(array_tile(self._config), name=f"ahead_{n}", reset_less=True)
            for n in range(_AHEAD + 1)
        ]
        pending = Signal(range(_AHEAD + 2))
        m.d.comb += self.pending.eq(pending != 0)
        # Compared first and chosen then, which a multiplexer would be turned round in synthesis.
        here, old = Signal(2), Signal(2)
        m.d.comb += [
            here.eq(Cat(k.next == d.depth, ot.next == d.drain.otiles)),
            old.eq(Cat(k.next == ahead[0].v_tile_pitch, ot.next == ahead[0].drain.otiles)),
            Cat(end_of_k, last_ot).eq(
                (here & ~facts.is_value.replicate(2)) | (old & facts.is_value.replicate(2))
            ),
        ]
        m.d.sync += self.half_released.eq(0)
        keys_left = Signal.like(d.keys, name="keys_left", reset_less=True)
        ending = Signal()  # no scores follow
        with m.FSM():
            with m.State("RUN"):
                self._run(m, begin, end_of_k, last_ot, keys_left)
            with m.State("SCORES"):
                self._scores(m, end_of_k, keys_left, ahead, pending, ending)
            with m.State("VALUES"):
                self._values(m, begin, end_of_k, last_ot, keys_left, ahead, pending, ending)
        return m

    def _stall(self, m: Module, reason: str) -> None:
        m.d.comb += self.stall[STALLS.index(reason)].eq(1)

    def _next_half(self, m: Module) -> None:
        m.d.comb += self.i.ready.eq(1)
        m.d.sync += [self.half_released.eq(1), self.half.eq(~self.half)]

    def _run(
        self, m: Module, begin: Signal, end_of_k: Signal, last_ot: Signal, keys_left: Signal
    ) -> None:
        """GEMMs, and what needs no steps."""
        d, rows, kind = self.i.payload, self._rows, self.i.payload.drain.kind
        with m.If(~self.i.valid):
            self._stall(m, "operand")
        with m.Elif(kind == Kind.SYNC):
            m.d.comb += [self.drain.valid.eq(1), self.i.ready.eq(self.drain.ready)]
            self._stall(m, "drain")
        with m.Elif(kind == Kind.EMPTY):
            m.d.comb += rows.skipping.eq(1)
            self._stall(m, "weight")
            with m.If(rows.skippable):
                m.d.comb += [
                    self.drain.valid.eq(1),
                    self.i.ready.eq(self.drain.ready),
                    rows.skip.eq(self.drain.ready),
                ]
        with m.Elif(kind == Kind.ATTENTION):
            self._stall(m, "drain")
            m.d.sync += [self.kv_row.eq(d.k_row), keys_left.eq(d.keys)]
            m.next = "SCORES"
        with m.Elif(~rows.ready):
            self._stall(m, "weight")
        with m.Elif((self.facts.first & ~self.room[0]) | (begin & ~self.drain.ready)):
            self._stall(m, "drain")
        with m.Else():
            m.d.comb += [
                self.step.eq(1),
                self.reserve[0].eq(self.facts.first),
                self.drain.valid.eq(begin),
                rows.step.eq(1),
            ]
            with m.If(end_of_k & last_ot):
                self._next_half(m)

    def _scores(
        self,
        m: Module,
        end_of_k: Signal,
        keys_left: Signal,
        ahead: list[Any],
        pending: Signal,
        ending: Signal,
    ) -> None:
        """Queries times keys, key tile by key tile."""
        d, outputs, last_keys = self.i.payload, self._config.array.outputs, Signal()
        m.d.comb += [
            last_keys.eq(keys_left <= outputs),
            self.facts.to_score.eq(1),
            self.facts.from_kv.eq(1),
            self.mark.valid.eq(self.step & end_of_k),
            self.mark.payload.last.eq(last_keys),
            self.mark.payload.valid.eq(Mux(last_keys, keys_left, outputs)),
            self.mark.payload.mult.eq(d.score_mult),
            self.mark.payload.shift.eq(d.score_shift),
            self.mark.payload.out_mult.eq(d.out_mult),
            self.mark.payload.out_shift.eq(d.out_shift),
        ]
        with m.If(self.facts.first & ~self.room[1]):
            self._stall(m, "drain")
        with m.Else():
            m.d.comb += [self.step.eq(1), self.reserve[1].eq(self.facts.first)]
            m.d.sync += self.kv_row.eq(self.kv_row + 1)
            with m.If(end_of_k):
                m.d.sync += keys_left.eq(keys_left - outputs)
            with m.If(end_of_k & last_keys):
                self._next_half(m)
                for n, place in enumerate(ahead):
                    with m.If(pending == n):
                        m.d.sync += place.eq(d)
                m.d.sync += [
                    pending.eq(pending + 1),
                    ending.eq(d.drain.last),
                    self.kv_row.eq(Mux(pending == 0, d.v_row, ahead[0].v_row)),
                ]
                m.next = "RUN"
                with m.If((pending == _AHEAD) | d.drain.last):
                    m.next = "VALUES"

    def _values(
        self,
        m: Module,
        begin: Signal,
        end_of_k: Signal,
        last_ot: Signal,
        keys_left: Signal,
        ahead: list[Any],
        pending: Signal,
        ending: Signal,
    ) -> None:
        """Attention weights times values, of the oldest tile and head."""
        d = self.i.payload
        m.d.comb += [
            self.facts.from_kv.eq(1),
            self.facts.is_value.eq(1),
            self.drain.payload.eq(ahead[0].drain),
        ]
        with m.If(begin & ~self.weights_ready):
            self._stall(m, "softmax")
        with m.Elif((self.facts.first & ~self.room[0]) | (begin & ~self.drain.ready)):
            self._stall(m, "drain")
        with m.Else():
            m.d.comb += [
                self.step.eq(1),
                self.reserve[0].eq(self.facts.first),
                self.drain.valid.eq(begin),
            ]
            m.d.sync += self.kv_row.eq(self.kv_row + 1)
            with m.If(end_of_k & last_ot):
                m.d.comb += self.weights_release.eq(1)
                m.d.sync += pending.eq(pending - 1)
                m.d.sync += [kept.eq(after) for kept, after in pairwise(ahead)]
                m.next = "RUN"
                with m.If(ending):
                    m.d.sync += self.kv_row.eq(ahead[1].v_row)
                    with m.If(pending != 1):
                        m.next = "VALUES"
                with m.Elif(self.i.valid):
                    # The next tile of the same instruction waits already.
                    m.d.sync += [self.kv_row.eq(d.k_row), keys_left.eq(d.keys)]
                    m.next = "SCORES"
