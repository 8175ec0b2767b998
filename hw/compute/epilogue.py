"""Epilogue: turns finished tiles of sums into what the next operator reads, one token row a cycle.

Bias, per-channel requantisation, GELU, residual addition and score-weighted accumulation share one
pipeline of ten stages; every destination leaves it at the same stage.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from moevit.quant.formats import ACCUMULATOR, ACTIVATION, RESIDUAL, SCORE, VALUE, WEIGHT, QFormat
from moevit.quant.operators.gelu import GELU

from ..config import AcceleratorConfig
from ..interfaces import (
    POINTER_BITS,
    ActivationWrite,
    GiveSignature,
    ReadPort,
    param_row,
    residual_word,
)
from ..isa import ADDRESS_BITS, Destination
from ..lib.pipeline import double_shift, round_saturate
from ..lib.queue import SmallFifo
from ..lib.storage import Memory, Style
from ..registers import Error
from .descriptors import Kind, drain_tile
from .tiles import accumulators

__all__ = ["Epilogue", "gate_row", "row_scales"]

_GATE_DEPTH = 16


def gate_row(config: AcceleratorConfig) -> StructLayout:
    """One token's logits of one output tile, as the gate unit takes them (docs/spec.md)."""
    a = config.array
    return StructLayout(
        {
            "token": unsigned(12),
            "slot": range(a.tokens),
            "otile": unsigned(4),
            "last": unsigned(1),
            "first": unsigned(1),
            "end": unsigned(1),
            "experts": unsigned(6),
            "top_k": unsigned(4),
            "base": unsigned(6),
            "least": unsigned(SCORE.width),
            "renormalise": unsigned(1),
            "logits": ArrayLayout(signed(VALUE.width), a.outputs),
        }
    )


def row_scales(config: AcceleratorConfig) -> ArrayLayout:
    """Requantisation of T attention rows, from the softmax unit."""
    return ArrayLayout(
        StructLayout({"mult": unsigned(16), "shift": unsigned(6)}), config.array.tokens
    )


def _saturate(value: Value, target: QFormat) -> Value:
    """``value`` limited to ``target``'s range."""
    low, high = Const(target.min, value.shape()), Const(target.max, value.shape())
    return Mux(value < low, low, Mux(value > high, high, value))[: target.width].as_signed()


_FAR_BITS = 12
"""Of twice an int8 value before it is saturated: 1,023 is out of reach with any zero point."""


def _limit(value: Value, width: int) -> Value:
    """``value`` limited to ``width`` bits, signed, give or take the last bit."""
    outside = value[width - 1 : -1] != value[-1].replicate(len(value) - width)
    edge = Cat((~value[-1]).replicate(width - 1), value[-1])
    return Mux(outside, edge, value[:width]).as_signed()


class Epilogue(Component):
    """Takes the oldest tile of sums row by row and writes its values.

    Latency: 10 cycles from a row of sums to its write. Throughput: one row (O values) a cycle, rows
    beyond ``count`` take none. Back-pressure: writes are never refused; rows for the gate unit
    wait in
    front of the pipeline for a place in its queue.

    Members
    -------
    i : In(stream of drain_tile)
    tile_valid, tile_ready, tile
        The oldest finished tile of the array.
    params : Out(ReadPort)
        Parameter rows, address {demand, row number}.
    param_released, demand_param_released : Out
    scales : In(stream of T x {mult, shift})
        Attention rows' requantisation.
    a : Out(ActivationWrite)
        Never refused.
    x, x_write
        Residual read and write ports.
    kv_en, kv_addr, kv_group, kv_data : Out
    gate : Out(stream of gate_row)
    gate_signal : Out
        The semaphore that the gate unit's ``done`` belongs to.
    give : Out(GiveSignature)
    """

    latency = 10

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        a, mem = config.array, config.memory
        self.param_bits = ceil_log2(max(mem.param_rows, mem.demand_param_rows))
        xw = residual_word(config)
        super().__init__(
            {
                "i": In(stream.Signature(drain_tile(config))),
                "tile_valid": In(1),
                "tile_ready": Out(1),
                "tile": In(accumulators(config)),
                "params": Out(ReadPort(self.param_bits + 1, param_row(config))),
                "param_released": Out(POINTER_BITS),
                "demand_param_released": Out(POINTER_BITS),
                "scales": In(stream.Signature(row_scales(config))),
                "a": Out(ActivationWrite(config)),
                "x": Out(ReadPort(ADDRESS_BITS, xw)),
                "x_write": Out(
                    stream.Signature(StructLayout({"addr": unsigned(ADDRESS_BITS), "data": xw}))
                ),
                "kv_en": Out(1),
                "kv_addr": Out(ADDRESS_BITS),
                "kv_group": Out(ceil_log2(a.inputs)),
                "kv_data": Out(ArrayLayout(unsigned(8), a.outputs)),
                "gate": Out(stream.Signature(gate_row(config))),
                "gate_signal": Out(4),
                "give": Out(GiveSignature),
                "busy": Out(1),
                "fault": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, shape, mem = self._config, self._config.array, self._config.memory
        t_, i_, o_ = shape.tokens, shape.inputs, shape.outputs
        groups = i_ // o_  # output tiles in an activation word
        d = self.i.payload
        stages = self.latency

        def pipe(signal: Value, stage: int, until: int, name: str) -> dict[int, Value]:
            """``signal`` of ``stage`` and its copies up to stage ``until``."""
            copies = {stage: signal}
            for s in range(stage + 1, until + 1):
                copy = Signal(signal.shape(), name=f"{name}_{s}", reset_less=True)
                m.d.sync += copy.eq(copies[s - 1])
                copies[s] = copy
            return copies

        # Stage 0: choose the row, ask for parameters ------------------------------------------
        r, ot = Signal(range(t_)), Signal(10)
        h, j = Signal(6), Signal(6)  # head and output tile in it, for keys and values
        row_go, bubble_go = Signal(), Signal()
        base = [Signal(POINTER_BITS, name=f"base_{n}") for n in ("param", "demand_param")]
        m.d.comb += [self.param_released.eq(base[0]), self.demand_param_released.eq(base[1])]
        is_gate = d.mode == int(Destination.GATE)
        to_x = (d.mode == int(Destination.RESIDUAL)) | (d.mode == int(Destination.EXPERT))
        is_attention = d.kind == Kind.ATTENTION
        valid = [Signal(name=f"valid_{s}") for s in range(stages)]
        in_flight = Signal()  # valid[1:].any()
        m.d.sync += in_flight.eq(row_go | Cat(*valid[1:-1]).any())
        first_row, ot_1 = Signal(init=1), Signal(10, init=1)  # r == 0 and ot == 0; ot + 1
        gate_room = Signal(range(_GATE_DEPTH + 1), init=_GATE_DEPTH)
        # A new instruction may add to rows that the one before has not written yet.
        hazard = to_x & d.first & first_row & in_flight
        gate_full = Signal()  # or nearly: one place is never used
        m.d.sync += gate_full.eq(gate_room <= 1)
        blocked = hazard | (is_gate & gate_full) | (is_attention & ~self.scales.valid)
        with m.If(self.i.valid):
            with m.If((d.kind == Kind.GEMM) | is_attention):
                m.d.comb += row_go.eq(self.tile_valid & ~blocked)
            with m.Else():
                m.d.comb += bubble_go.eq(1)
        last_row, last_ot, end_of_tile = Signal(), Signal(), Signal()
        m.d.comb += [
            last_row.eq(r + 1 == d.count),
            last_ot.eq(ot_1 == d.otiles),
            self.tile_ready.eq(row_go & last_row),
            end_of_tile.eq((row_go & last_row & last_ot) | bubble_go),
            self.i.ready.eq(end_of_tile),
            self.scales.ready.eq(end_of_tile & is_attention),
            valid[0].eq(row_go),
        ]
        with m.If(row_go):
            m.d.sync += [r.eq(Mux(last_row, 0, r + 1)), first_row.eq(last_row & last_ot)]
            with m.If(last_row):
                m.d.sync += [
                    ot.eq(Mux(last_ot, 0, ot_1)),
                    ot_1.eq(Mux(last_ot, 1, ot_1 + 1)),
                    j.eq(j + 1),
                ]
                with m.If(j + 1 == d.head_otiles):
                    m.d.sync += [j.eq(0), h.eq(h + 1)]
                with m.If(last_ot):
                    m.d.sync += [j.eq(0), h.eq(0)]
        for n in range(2):
            ends = end_of_tile & d.last & ~d.keep & (d.demand == n)
            if n:  # an empty queue's demand fetch was skipped as well
                ends = ends & (d.kind == Kind.GEMM)
            else:
                ends = ends & ((d.kind == Kind.GEMM) | (d.kind == Kind.EMPTY))
            with m.If(ends):
                m.d.sync += base[n].eq(base[n] + d.otiles)
        param_row_number = Mux(d.demand, base[1], base[0]) + ot
        m.d.comb += [
            self.params.en.eq(row_go & ~is_attention),
            self.params.addr.eq(
                param_row_number[: self.param_bits] | Mux(d.demand, 1 << self.param_bits, 0)
            ),
        ]
        give = Signal(StructLayout({"valid": 1, "id": 4, "count": 13}))
        m.d.comb += [
            give.valid.eq(end_of_tile & (d.signal != 0) & ~(is_gate & (d.kind == Kind.GEMM))),
            give.id.eq(d.signal),
            give.count.eq(d.amount),
        ]
        with m.If(end_of_tile & is_gate):
            m.d.sync += self.gate_signal.eq(d.signal)

        # What travels with a row.
        for s in range(1, stages):
            m.d.sync += valid[s].eq(valid[s - 1])
        gives = pipe(give, 0, stages - 1, "give")
        mode = pipe(d.mode, 0, stages - 1, "mode")
        attention_1 = Signal()
        m.d.sync += attention_1.eq(is_attention)
        row_number = Array(d.rows)[r]
        token = pipe(row_number, 0, 5, "row")
        score = pipe(Array(d.scores)[r], 0, 5, "score")
        slot = pipe(r, 0, 5, "slot")
        ct_now = Signal(10)
        m.d.comb += ct_now.eq(d.ct + ot)
        ct = pipe(ct_now, 0, stages - 1, "ct")
        ot_5 = pipe(ot[:4], 0, 5, "ot")
        first_5 = pipe(d.first & first_row, 0, 5, "first")
        gate_last = pipe(last_ot, 0, 5, "gate_last")
        gate_end = pipe(last_ot & last_row & d.last, 0, 5, "gate_end")
        experts = pipe(d.experts, 0, 5, "experts")
        top_k = pipe(d.top_k, 0, 5, "top_k")
        renormalise = pipe(d.renormalise, 0, 5, "renormalise")
        mult2 = pipe(d.mult, 0, 6, "mult2")
        shift2 = pipe(d.shift, 0, 7, "shift2")
        zero = pipe(d.zero_point, 0, 8, "zero")

        # Address: target + row * stride + column (words), and for keys and values the head's place;
        # factors and sums in stage 1, the product in 2, their sum in 3.
        acts = (d.mode == int(Destination.ACT8)) | (d.mode == int(Destination.GELU8))
        column = Signal(10)
        to_key = d.mode == int(Destination.KEY)
        to_value = d.mode == int(Destination.VALUE)
        key_tile = row_number >> ceil_log2(o_)
        value_tile = row_number >> ceil_log2(i_)
        factor_a, factor_b = Signal(12), Signal(12)
        with m.If(to_key):
            # target + h*head_pitch + tile*tile_pitch + j/groups
            m.d.comb += [
                factor_a.eq(key_tile),
                factor_b.eq(d.tile_pitch),
                column.eq(j >> ceil_log2(groups)),
            ]
        with m.Elif(to_value):
            m.d.comb += [factor_a.eq(j), factor_b.eq(d.tile_pitch), column.eq(value_tile)]
        with m.Else():
            m.d.comb += [factor_a.eq(row_number), factor_b.eq(d.target_stride)]
            with m.If(acts):
                m.d.comb += column.eq(ct_now >> ceil_log2(groups))
            with m.Elif(d.mode == int(Destination.ACT16)):
                m.d.comb += column.eq((ct_now << 1) >> ceil_log2(groups))
            with m.Else():
                m.d.comb += column.eq(ct_now)
        factors = [Signal(12, name=f"factor_{n}_1", reset_less=True) for n in "ab"]
        to_head = Signal(ADDRESS_BITS, reset_less=True)
        start = Signal(ADDRESS_BITS, reset_less=True)
        product_a = Signal(ADDRESS_BITS, reset_less=True)
        partial = Signal(ADDRESS_BITS, reset_less=True)
        address = Signal(ADDRESS_BITS, reset_less=True)
        m.d.sync += [
            factors[0].eq(factor_a),
            factors[1].eq(factor_b),
            to_head.eq(Mux(to_key | to_value, h * d.head_pitch, 0)),
            start.eq(d.target + column),
            product_a.eq(factors[0] * factors[1]),
            partial.eq(start + to_head),
            address.eq(product_a + partial),
        ]
        addresses = pipe(address, 3, stages - 1, "address")
        group = Signal(ceil_log2(i_))
        with m.If(to_key):
            within = row_number[: ceil_log2(o_)]
            part = j[: ceil_log2(groups)]
            m.d.comb += group.eq(Cat(part, within))
        with m.Elif(to_value):
            m.d.comb += group.eq(row_number[: ceil_log2(i_)])
        kv_group = pipe(group, 0, stages - 1, "kv_group")

        # Stage 1: bias; 2: multiply; 3: shift; 4: round and saturate ------------------------------
        acc = [
            Signal(signed(ACCUMULATOR.width), name=f"acc_{o}", reset_less=True) for o in range(o_)
        ]
        for o in range(o_):
            with m.If(row_go):
                m.d.sync += acc[o].eq(Array([self.tile[t][o] for t in range(t_)])[r])
        scale_row = Signal(self.scales.payload[0].shape(), reset_less=True)
        m.d.sync += scale_row.eq(self.scales.payload[r])
        biased, mult, shift = [], [], []
        for o in range(o_):
            p = self.params.data[o]
            b = Signal(signed(ACCUMULATOR.width), name=f"biased_{o}", reset_less=True)
            mu = Signal(16, name=f"mult_{o}", reset_less=True)
            sh = Signal(6, name=f"shift_{o}", reset_less=True)
            with m.If(valid[1]):
                m.d.sync += [
                    b.eq(acc[o] + Mux(attention_1, 0, p.bias)),
                    mu.eq(Mux(attention_1, scale_row.mult, p.mult)),
                    sh.eq(Mux(attention_1, scale_row.shift, p.shift)),
                ]
            biased.append(b)
            mult.append(mu)
            shift.append(sh)
        product_shape = signed(ACCUMULATOR.width + 17)
        value: list[Signal] = []
        for o in range(o_):
            product = Signal(product_shape, name=f"product_{o}", reset_less=True)
            shift_3 = Signal(6, name=f"shift3_{o}", reset_less=True)
            doubled = Signal(signed(len(product) + 1), name=f"doubled_{o}", reset_less=True)
            v = Signal(signed(VALUE.width), name=f"value_{o}", reset_less=True)
            with m.If(valid[2]):
                m.d.sync += [product.eq(biased[o] * mult[o]), shift_3.eq(shift[o])]
            with m.If(valid[3]):
                m.d.sync += doubled.eq(double_shift(product, shift_3))
            with m.If(valid[4]):
                m.d.sync += v.eq(round_saturate(m, doubled, VALUE, name=f"v_{o}_rounded"))
            value.append(v)

        # Residual read: address in stage 3, data in stage 4, kept to stage 7.
        m.d.comb += [
            self.x.addr.eq(address),
            self.x.en.eq(
                valid[3]
                & ((mode[3] == int(Destination.RESIDUAL)) | (mode[3] == int(Destination.EXPERT)))
            ),
        ]
        x = pipe(self.x.data.as_value(), 4, 7, "x")

        # Stage 5: GELU table, expert score; 6: second product; 7: shift, add; 8: narrow -----------
        out8: list[Signal] = []
        out16: list[Signal] = []
        half_bits = ceil_log2(len(GELU.table)) - 1
        later = [pipe(v, 5, 8, f"v_{o}") for o, v in enumerate(value)]
        is_gelu_5 = mode[5] == int(Destination.GELU8)
        is_expert_5 = mode[5] == int(Destination.EXPERT)
        is_gelu_7 = mode[7] == int(Destination.GELU8)
        has_zero_8 = (mode[8] == int(Destination.GELU8)) | (mode[8] == int(Destination.ACT8))
        for o in range(o_):
            v = value[o]
            size = Signal(VALUE.width, name=f"size_{o}")
            index = size >> GELU.step_bits
            m.d.comb += size.eq(Mux(v < 0, -v, v))
            # GELU is `positive` less the table's entry: a subtraction for the pre-adder of a DSP
            # block, which also chooses one of two halves of the table, or 0 beyond them.
            positive = Signal(VALUE.width - 1, name=f"positive_{o}", reset_less=True)
            with m.If(valid[5] & is_gelu_5):
                m.d.sync += positive.eq(Mux(v < 0, 0, v[:-1]))
            correction: Value = Const(0, GELU.entry_bits)
            for part in range(2):
                table = GELU.table[part << half_bits :][: 1 << half_bits]
                rom = Memory(
                    shape=unsigned(GELU.entry_bits),
                    depth=len(table),
                    init=table,
                    ram_style=Style.LOGIC,
                )
                m.submodules[f"gelu_{o}_{part}"] = rom
                found = rom.read_port(domain="comb")
                m.d.comb += found.addr.eq(index)
                entry = Signal(GELU.entry_bits, name=f"entry_{o}_{part}", reset_less=True)
                here = Signal(name=f"here_{o}_{part}", reset_less=True)
                with m.If(valid[5] & is_gelu_5):
                    m.d.sync += [entry.eq(found.data), here.eq(index >> half_bits == part)]
                correction |= Mux(here, entry, 0)
            weighted = Signal(
                signed(VALUE.width + SCORE.width + 1), name=f"weighted_{o}", reset_less=True
            )
            with m.If(valid[5] & is_expert_5):
                m.d.sync += weighted.eq(v * score[5])
            product2 = Signal(signed(VALUE.width + 17), name=f"product2_{o}", reset_less=True)
            added = Signal(signed(VALUE.width), name=f"added_{o}", reset_less=True)
            with m.If(valid[6]):
                m.d.sync += [
                    product2.eq((positive - correction) * mult2[6]),
                    added.eq(
                        Mux(
                            mode[6] == int(Destination.EXPERT),
                            _round_shift(m, weighted, Const(SCORE.frac, 6), f"w_{o}"),
                            later[o][6],
                        )
                    ),
                ]
            # Twice the value for int8, GELU's or as it came.
            twice = Signal(signed(len(product2) + 1), name=f"twice_{o}", reset_less=True)
            total = Signal(signed(VALUE.width + 1), name=f"total_{o}", reset_less=True)
            with m.If(valid[7]):
                m.d.sync += [
                    twice.eq(Mux(is_gelu_7, double_shift(product2, shift2[7]), later[o][7] << 1)),
                    total.eq(added + x[7][16 * o : 16 * o + 16].as_signed()),
                ]
            # Limited to far more than int8 can hold even after the zero point, so that the carry
            # runs over few bits; then twice the value, its rounding bit and twice the zero point.
            far = Signal(signed(_FAR_BITS), name=f"far_{o}")
            narrow = Signal(signed(_FAR_BITS), name=f"narrow_{o}")
            m.d.comb += [
                far.eq(_limit(twice, _FAR_BITS)),
                narrow.eq((far + Cat(Const(1, 1), Mux(has_zero_8, zero[8], 0)).as_signed()) >> 1),
            ]
            a8 = Signal(signed(8), name=f"a8_{o}", reset_less=True)
            a16 = Signal(signed(16), name=f"a16_{o}", reset_less=True)
            with m.If(valid[8]):
                m.d.sync += [
                    a8.eq(_saturate(narrow, ACTIVATION)),
                    a16.eq(
                        Mux(
                            mode[8] == int(Destination.ACT16),
                            later[o][8],
                            _saturate(total, RESIDUAL),
                        )
                    ),
                ]
            out8.append(a8)
            out16.append(a16)

        # Stage 9: write -------------------------------------------------------------------------
        end = stages - 1
        to = mode[end]
        bytes8, bytes16 = Cat(*out8), Cat(*out16)
        piece = config.piece_bytes
        per_group = o_ // piece
        write = self.a.payload
        with m.If(to == int(Destination.ACT16)):
            where = (ct[end] << 1)[: ceil_log2(groups)] if groups > 2 else Const(0, 1)
            m.d.comb += [
                write.data.eq(Cat(*[bytes16] * (groups // 2))),
                write.mask.eq(((1 << (2 * per_group)) - 1) << (where * per_group)),
            ]
        with m.Else():
            where8 = ct[end][: ceil_log2(groups)]
            m.d.comb += [
                write.data.eq(Cat(*[bytes8] * groups)),
                write.mask.eq(((1 << per_group) - 1) << (where8 * per_group)),
            ]
        to_act = (
            (to == int(Destination.ACT8))
            | (to == int(Destination.GELU8))
            | (to == int(Destination.ACT16))
        )
        to_residual = (to == int(Destination.RESIDUAL)) | (to == int(Destination.EXPERT))
        to_kv = (to == int(Destination.KEY)) | (to == int(Destination.VALUE))
        m.d.comb += [
            write.addr.eq(addresses[end]),
            self.a.valid.eq(valid[end] & to_act),
            self.x_write.payload.addr.eq(addresses[end]),
            self.x_write.payload.data.eq(bytes16),
            self.x_write.valid.eq(valid[end] & to_residual),
            self.kv_en.eq(valid[end] & to_kv),
            self.kv_addr.eq(addresses[end]),
            self.kv_group.eq(kv_group[end]),
            # Keys and values are within +-127, as the array demands: -128 becomes -127.
            self.kv_data.eq(Cat(Mux(v == ACTIVATION.min, -WEIGHT.max, v)[:8] for v in out8)),
            self.give.valid.eq(gives[end].valid),
            self.give.id.eq(gives[end].id),
            self.give.count.eq(gives[end].count),
        ]
        outside = (
            (self.a.valid & (addresses[end] >= mem.activation_words))
            | (self.x_write.valid & (addresses[end] >= mem.residual_words))
            | (self.kv_en & (addresses[end] >= mem.kv_rows))
        )
        with m.If(outside):
            m.d.sync += self.fault.eq(int(Error.ADDRESS))

        # Router logits leave after stage 4, through a queue whose places are reserved in stage 0.
        m.submodules.gate_queue = queue = SmallFifo(gate_row(config), _GATE_DEPTH)
        g = queue.i.payload
        m.d.comb += [
            queue.i.valid.eq(valid[5] & (mode[5] == int(Destination.GATE))),
            g.token.eq(token[5]),
            g.slot.eq(slot[5]),
            g.otile.eq(ot_5[5]),
            g.last.eq(gate_last[5]),
            g.first.eq(first_5[5]),
            g.end.eq(gate_end[5]),
            g.experts.eq(experts[5]),
            g.top_k.eq(top_k[5]),
            g.base.eq(shift2[5]),
            g.least.eq(mult2[5]),
            g.renormalise.eq(renormalise[5]),
            g.logits.eq(Cat(*value)),
            self.gate.payload.eq(queue.o.payload),
            self.gate.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.gate.ready),
        ]
        m.d.sync += gate_room.eq(
            gate_room - (row_go & is_gate) + (self.gate.valid & self.gate.ready)
        )
        pending_give = Cat(*(gives[s].valid for s in range(1, stages))).any()
        m.d.comb += self.busy.eq(
            self.i.valid | in_flight | pending_give | (gate_room != _GATE_DEPTH)
        )
        return m


def _round_shift(m: Module, value: Value, shift: Value, name: str) -> Value:
    """``value / 2**shift`` rounded to nearest, halves upwards (quant.formats.round_shift)."""
    width = len(value) + 1
    out = Signal(Shape(width, signed=True), name=f"{name}_rounded")
    # The bit below the cut rounds: (value >> (shift - 1)) + 1 >> 1, and value itself for shift 0.
    doubled = Signal(Shape(width, signed=True), name=f"{name}_doubled")
    m.d.comb += [doubled.eq((value << 1) >> shift), out.eq((doubled + 1) >> 1)]
    return out
