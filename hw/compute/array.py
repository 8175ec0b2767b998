"""The shared compute unit: issue of products, accumulation, and the queues of finished tiles.

Output stationary: a tile of T tokens x O outputs stays in the accumulators while the contraction
runs. One weight row (ring, keys or values) and T x I operand bytes (tokens or attention weights)
enter each cycle. Attention of one head and query tile is two passes: scores of this tile, then the
weighted values of a tile before it, so that the softmax unit works in the shadow of the array.
"""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from moevit.quant.formats import ACCUMULATOR

from ..config import FINISHED_TILES, AcceleratorConfig
from ..interfaces import POINTER_BITS, ReadPort
from ..isa import ADDRESS_BITS
from ..lib.queue import SmallFifo
from ..memories import banks
from ..registers import Error
from .descriptors import Kind, array_tile, drain_tile
from .dot import DotProducts
from .tiles import Finished, accumulators, score_tile

__all__ = ["ComputeArray"]

_AHEAD = 2
"""Query tiles and heads by which scores are ahead of weighted values: the softmax unit holds as
many in its two halves of scores and of weights, and has their time for its work."""


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
    tile_valid, tile_ready, tile
        The oldest finished tile for the epilogue (first-in first-out).
    score : Out(stream of {tile: score_tile, acc: T x O})
        Tiles of scores for the softmax unit.
    operand : In
        The loader's writes; ``half_released`` answers.
    rows : Out(ReadPort)
        Weight rows, address {demand, row number}.
    kv, attention : Out(ReadPort)
        Key/value rows; attention weights, address {half, word}.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        a, mem = config.array, config.memory
        self.row_bits = ceil_log2(max(mem.ring_rows, mem.demand_rows))
        self.p_words = -(-config.limits.tokens // a.inputs)
        super().__init__(
            {
                "i": In(stream.Signature(array_tile(config))),
                "drain": Out(stream.Signature(drain_tile(config))),
                "tile_valid": Out(1),
                "tile_ready": In(1),
                "tile": Out(accumulators(config)),
                "score": Out(
                    stream.Signature(
                        StructLayout({"tile": score_tile(config), "acc": accumulators(config)})
                    )
                ),
                "write_en": In(1),
                "write_row": In(range(a.tokens)),
                "write_half": In(1),
                "write_word": In(range(config.limits.depth // a.inputs)),
                "write_data": In(unsigned(8 * a.inputs)),
                "half_released": Out(1),
                "rows": Out(
                    ReadPort(
                        StructLayout({"row": self.row_bits, "demand": 1}).size,
                        unsigned(8 * a.inputs * a.outputs),
                    )
                ),
                "ring_filled": In(POINTER_BITS),
                "ring_released": Out(POINTER_BITS),
                "demand_filled": In(POINTER_BITS),
                "demand_released": Out(POINTER_BITS),
                "kv": Out(ReadPort(ADDRESS_BITS, unsigned(8 * a.inputs * a.outputs))),
                "attention": Out(
                    ReadPort(
                        StructLayout({"word": ceil_log2(max(self.p_words, 2)), "half": 1}).size,
                        unsigned(8 * a.inputs * a.tokens),
                    )
                ),
                "attention_ready": In(1),
                "attention_half": In(1),
                "attention_release": Out(1),
                "busy": Out(1),
                "fault": Out(4),
                # one of these is 1 in each cycle
                "stepped": Out(1),
                "stall_operand": Out(1),
                "stall_weight": Out(1),
                "stall_drain": Out(1),
                "stall_softmax": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, shape = self._config, self._config.array
        t_, i_, o_ = shape.tokens, shape.inputs, shape.outputs
        d = self.i.payload

        words = config.limits.depth // i_
        ob_addr = Signal(range(2 * words))
        ob_en = Signal()
        ob_data = self._operand_buffer(m, words, ob_en, ob_addr)

        # Issue ---------------------------------------------------------------------------------
        step, end_of_k, begin = Signal(), Signal(), Signal()
        to_score, from_kv, as_value, from_p = Signal(), Signal(), Signal(), Signal()
        k, ot = Signal(10), Signal(10)
        # What a step depends on is in registers, since so much depends on whether there is one:
        # whether k and ot are 0, one more than them, whether there is a row, and room.
        k_1, ot_1 = Signal(10, init=1), Signal(10, init=1)
        k_is_0, ot_is_0 = Signal(init=1), Signal(init=1)
        last_ot = Signal()
        with m.If(step):
            m.d.sync += [
                k.eq(Mux(end_of_k, 0, k_1)),
                k_1.eq(Mux(end_of_k, 1, k_1 + 1)),
                k_is_0.eq(end_of_k),
            ]
        with m.If(step & end_of_k & ~to_score):
            m.d.sync += [
                ot.eq(Mux(last_ot, 0, ot_1)),
                ot_1.eq(Mux(last_ot, 1, ot_1 + 1)),
                ot_is_0.eq(last_ot),
            ]
        kv_row = Signal(16, reset_less=True)
        half = Signal()
        # Weight rows: `row` runs, `base` is the start of the block (free-running numbers).
        row = [Signal(POINTER_BITS, name=f"row_{n}") for n in ("ring", "demand")]
        base = [Signal(POINTER_BITS, name=f"base_{n}") for n in ("ring", "demand")]
        released = [Signal(POINTER_BITS, name=f"released_{n}") for n in ("ring", "demand")]
        filled = [self.ring_filled, self.demand_filled]
        m.d.comb += [self.ring_released.eq(released[0]), self.demand_released.eq(released[1])]
        demand = d.drain.demand
        the_row = Mux(demand, row[1], row[0])
        after = Signal(POINTER_BITS)
        m.d.comb += after.eq(the_row + 1)
        has_row = [Signal(name=f"has_row_{n}") for n in ("ring", "demand")]
        use, skipping = Signal(2), Signal()  # a row is used; its number may jump forward
        for n in range(2):
            # Where a block begins again, its rows are there: one that seems to be missing now, the
            # one behind the block, is not asked for in the next cycle but one.
            m.d.sync += has_row[n].eq((filled[n] != Mux(use[n], after, row[n])) & ~skipping)
        have_row = Mux(demand, has_row[1], has_row[0])

        # Room in the two queues of finished tiles, reserved at a tile's first step.
        room = [
            Signal(range(FINISHED_TILES + 1), init=FINISHED_TILES, name=f"room_{n}")
            for n in ("drain", "score")
        ]
        has_room = [Signal(init=1, name=f"has_room_{n}") for n in ("drain", "score")]
        reserve, pop = Signal(2), Signal(2)
        for n in range(2):
            m.d.sync += [
                room[n].eq(room[n] - reserve[n] + pop[n]),
                has_room[n].eq(pop[n] | (room[n] > 1) | ((room[n] == 1) & ~reserve[n])),
            ]

        # Announcements to the epilogue, one for each tile of tokens (and head).
        m.submodules.drains = drains = SmallFifo(drain_tile(config), 4)
        announce = drains.i
        m.d.comb += [
            self.drain.payload.eq(drains.o.payload),
            self.drain.valid.eq(drains.o.valid),
            drains.o.ready.eq(self.drain.ready),
            announce.payload.eq(d.drain),
        ]

        # Attention: heads and tiles whose scores are issued and whose weighted values are not yet;
        # the oldest comes first.
        ahead = [
            Signal(array_tile(config), name=f"ahead_{n}", reset_less=True)
            for n in range(_AHEAD + 1)
        ]
        old = ahead[0]
        pending, ending = Signal(range(_AHEAD + 2)), Signal()
        keys_left, last_keys = Signal(13, reset_less=True), Signal()
        m.d.comb += last_keys.eq(keys_left <= o_)
        m.d.comb += self.busy.eq(
            self.i.valid
            | (pending != 0)
            | (room[0] != FINISHED_TILES)
            | (room[1] != FINISHED_TILES)
            | drains.o.valid
        )

        # Compared first and chosen then, which a multiplexer would be turned round in synthesis.
        end_here, end_old = Signal(2), Signal(2)
        m.d.comb += [
            end_here.eq(Cat(k_1 == d.depth, ot_1 == d.drain.otiles)),
            end_old.eq(Cat(k_1 == old.v_tile_pitch, ot_1 == old.drain.otiles)),
            Cat(end_of_k, last_ot).eq(
                (end_here & ~as_value.replicate(2)) | (end_old & as_value.replicate(2))
            ),
        ]
        m.d.sync += self.half_released.eq(0)

        with m.FSM():
            with m.State("RUN"):
                kind = d.drain.kind
                with m.If(~self.i.valid):
                    m.d.comb += self.stall_operand.eq(1)
                with m.Elif(kind == Kind.SYNC):
                    m.d.comb += [
                        announce.valid.eq(1),
                        self.i.ready.eq(announce.ready),
                        self.stall_drain.eq(1),
                    ]
                with m.Elif(kind == Kind.EMPTY):
                    # Step over the block once it is complete.
                    there, end = Signal(POINTER_BITS), Signal(POINTER_BITS)
                    looked, complete = Signal(), Signal()
                    m.d.comb += [
                        there.eq(filled[0] - base[0]),
                        end.eq(base[0] + d.block),
                        self.stall_weight.eq(1),
                        skipping.eq(1),
                    ]
                    m.d.sync += [looked.eq(1), complete.eq(there >= d.block)]
                    with m.If(looked & (demand | complete)):
                        m.d.comb += [announce.valid.eq(1), self.i.ready.eq(announce.ready)]
                        m.d.sync += looked.eq(~announce.ready)
                        with m.If(announce.ready & ~demand & ~d.drain.keep):
                            m.d.sync += [base[0].eq(end), row[0].eq(end), released[0].eq(end)]
                with m.Elif(kind == Kind.ATTENTION):
                    m.d.comb += self.stall_drain.eq(1)
                    m.d.sync += [kv_row.eq(d.k_row), keys_left.eq(d.keys)]
                    m.next = "SCORES"
                with m.Else():
                    m.d.comb += begin.eq(k_is_0 & ot_is_0)
                    with m.If(~have_row):
                        m.d.comb += self.stall_weight.eq(1)
                    with m.Elif((k_is_0 & ~has_room[0]) | (begin & ~announce.ready)):
                        m.d.comb += self.stall_drain.eq(1)
                    with m.Else():
                        last_use = d.drain.last & ~d.drain.keep
                        m.d.comb += [step.eq(1), reserve[0].eq(k_is_0), announce.valid.eq(begin)]
                        with m.If(end_of_k & last_ot):
                            m.d.comb += self.i.ready.eq(1)
                            m.d.sync += [self.half_released.eq(1), half.eq(~half)]
                        for n in range(2):
                            with m.If(demand == n):
                                m.d.comb += use[n].eq(1)
                                m.d.sync += row[n].eq(after)
                                with m.If(last_use):
                                    m.d.sync += released[n].eq(after)
                                with m.If(end_of_k & last_ot):
                                    with m.If(last_use):
                                        m.d.sync += base[n].eq(after)
                                    with m.Else():
                                        m.d.sync += row[n].eq(base[n])
            with m.State("SCORES"):
                m.d.comb += [to_score.eq(1), from_kv.eq(1)]
                with m.If(k_is_0 & ~has_room[1]):
                    m.d.comb += self.stall_drain.eq(1)
                with m.Else():
                    m.d.comb += [step.eq(1), reserve[1].eq(k_is_0)]
                    m.d.sync += kv_row.eq(kv_row + 1)
                    with m.If(end_of_k):
                        m.d.sync += keys_left.eq(keys_left - o_)
                        with m.If(last_keys):
                            m.d.comb += self.i.ready.eq(1)
                            m.d.sync += [self.half_released.eq(1), half.eq(~half)]
                            m.d.sync += [pending.eq(pending + 1)]
                            for n, place in enumerate(ahead):
                                with m.If(pending == n):
                                    m.d.sync += place.eq(d)
                            m.d.sync += [
                                ending.eq(d.drain.last),
                                kv_row.eq(Mux(pending == 0, d.v_row, old.v_row)),
                            ]
                            m.next = "RUN"
                            with m.If((pending == _AHEAD) | d.drain.last):
                                m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += [
                    from_kv.eq(1),
                    as_value.eq(1),
                    from_p.eq(1),
                    begin.eq(k_is_0 & ot_is_0),
                    announce.payload.eq(old.drain),
                ]
                with m.If(begin & ~self.attention_ready):
                    m.d.comb += self.stall_softmax.eq(1)
                with m.Elif((k_is_0 & ~has_room[0]) | (begin & ~announce.ready)):
                    m.d.comb += self.stall_drain.eq(1)
                with m.Else():
                    m.d.comb += [step.eq(1), reserve[0].eq(k_is_0), announce.valid.eq(begin)]
                    m.d.sync += kv_row.eq(kv_row + 1)
                    with m.If(end_of_k):
                        with m.If(last_ot):
                            m.d.comb += self.attention_release.eq(1)
                            m.d.sync += pending.eq(pending - 1)
                            m.d.sync += [kept.eq(after) for kept, after in pairwise(ahead)]
                            m.next = "RUN"
                            with m.If(ending):
                                m.d.sync += kv_row.eq(ahead[1].v_row)
                                with m.If(pending != 1):
                                    m.next = "VALUES"
                            with m.Elif(self.i.valid):
                                # The next tile of the same instruction waits already.
                                m.d.sync += [kv_row.eq(d.k_row), keys_left.eq(d.keys)]
                                m.next = "SCORES"
        m.d.comb += self.stepped.eq(step)

        # Addresses -----------------------------------------------------------------------------
        m.d.comb += [
            # Read without waiting for the decision on a step; without one, nothing is done with it.
            self.rows.en.eq(self.i.valid & ~from_kv),
            self.rows.addr.eq(the_row[: self.row_bits] | Mux(demand, 1 << self.row_bits, 0)),
            self.kv.en.eq(from_kv),
            self.kv.addr.eq(kv_row),
            ob_en.eq(~from_p),
            ob_addr.eq(k + Mux(half, words, 0)),
            self.attention.en.eq(from_p),
            self.attention.addr.eq(
                k | Mux(self.attention_half, 1 << ceil_log2(max(self.p_words, 2)), 0)
            ),
        ]
        bad = from_kv & (kv_row >= config.memory.kv_rows)
        with m.If(step & (bad | (from_p & (k >= self.p_words)))):
            m.d.sync += self.fault.eq(int(Error.ADDRESS))

        # Operand registers ---------------------------------------------------------------------
        def delayed(signal: Signal, cycles: int, name: str) -> Signal:
            for c in range(cycles):
                later = Signal(signal.shape(), name=f"{name}_{c + 1}")
                m.d.sync += later.eq(signal)
                signal = later
            return signal

        m.submodules.dot = dot = DotProducts(shape)
        step_1 = delayed(step, 1, "step")
        kv_1 = delayed(from_kv, 1, "from_kv")
        value_1 = delayed(as_value, 1, "as_value")
        p_1 = delayed(from_p, 1, "from_p")
        # One register for all operands of a kind: a simulator moves whole words of it.
        w = Signal(8 * i_ * o_, name="weights", reset_less=True)
        a = Signal(8 * i_ * t_, name="operands", reset_less=True)
        transposed = Cat(
            self.kv.data.word_select(i * o_ + o, 8) for o in range(o_) for i in range(i_)
        )
        with m.If(step_1):
            with m.If(value_1):
                m.d.sync += w.eq(transposed)
            with m.Else():
                m.d.sync += w.eq(Mux(kv_1, self.kv.data, self.rows.data))
            m.d.sync += a.eq(Mux(p_1, self.attention.data, Cat(*ob_data)))
        m.d.comb += [dot.w.as_value().eq(w), dot.a.as_value().eq(a)]

        # Accumulators --------------------------------------------------------------------------
        latency = 2 + dot.latency
        step_n = delayed(step, latency, "step_n")
        first_n = delayed(k_is_0, latency, "first_n")
        last_n = delayed(end_of_k, latency, "last_n")
        score_n = delayed(to_score, latency, "score_n")
        done = Signal(2)
        m.d.comb += [done[0].eq(step_n & last_n & ~score_n), done[1].eq(step_n & last_n & score_n)]
        sums = []
        for t in range(t_):
            line = []
            for o in range(o_):
                acc = Signal(signed(ACCUMULATOR.width), name=f"acc_{t}_{o}", reset_less=True)
                total = Signal(signed(ACCUMULATOR.width), name=f"sum_{t}_{o}")
                m.d.comb += total.eq(Mux(first_n, 0, acc) + dot.o[t][o])
                with m.If(step_n):
                    m.d.sync += acc.eq(total)
                line.append(total)
            sums.append(line)

        # Finished tiles ------------------------------------------------------------------------
        tiles = [
            Finished(m, name, sums, done[n]) for n, name in enumerate(("drain_tile", "score_tile"))
        ]
        counts = [Signal(range(FINISHED_TILES + 1), name=f"count_{n}") for n in range(2)]
        finished = [Signal(name=f"finished_{n}") for n in range(2)]  # counts != 0
        for n in range(2):
            m.d.sync += [
                counts[n].eq(counts[n] + done[n] - pop[n]),
                finished[n].eq(done[n] | (counts[n] > 1) | ((counts[n] == 1) & ~pop[n])),
            ]
            with m.If(pop[n]):
                m.d.sync += tiles[n].get.eq(tiles[n].get + 1)
        m.submodules.marks = marks = SmallFifo(score_tile(config), FINISHED_TILES)
        mark = marks.i.payload
        m.d.comb += [
            marks.i.valid.eq(step & to_score & end_of_k),
            mark.last.eq(last_keys),
            mark.valid.eq(Mux(last_keys, keys_left, o_)),
            mark.mult.eq(d.score_mult),
            mark.shift.eq(d.score_shift),
            mark.out_mult.eq(d.out_mult),
            mark.out_shift.eq(d.out_shift),
            self.tile_valid.eq(finished[0]),
            pop[0].eq(self.tile_valid & self.tile_ready),
            self.score.valid.eq(finished[1]),
            self.score.payload.tile.eq(marks.o.payload),
            pop[1].eq(self.score.valid & self.score.ready),
            marks.o.ready.eq(pop[1]),
        ]
        for t in range(t_):
            for o in range(o_):
                m.d.comb += [
                    self.tile[t][o].eq(tiles[0].rows[t][o]),
                    self.score.payload.acc[t][o].eq(tiles[1].rows[t][o]),
                ]
        return m

    def _operand_buffer(self, m: Module, words: int, en: Signal, addr: Signal) -> list[Cat]:
        """The tokens' words at ``addr``, a cycle later; two halves of ``words`` words a token."""
        data = []
        for slot in range(self._config.array.tokens):
            memories = banks(
                m, f"operand_{slot}", width=8 * self._config.array.inputs, depth=2 * words
            )
            parts, position = [], 0
            for memory in memories:
                write, read = memory.write_port(), memory.read_port()
                m.d.comb += [
                    write.en.eq(self.write_en & (self.write_row == slot)),
                    write.addr.eq(self.write_word + Mux(self.write_half, words, 0)),
                    write.data.eq(self.write_data[position : position + len(write.data)]),
                    read.en.eq(en),
                    read.addr.eq(addr),
                ]
                position += len(write.data)
                parts.append(read.data)
            data.append(Cat(*parts))
        return data
