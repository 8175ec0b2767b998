"""LayerNorm engine: residual words in, activation bytes out (quant/operators/layernorm.py).

Two passes over a token. The first reads its words from the residual memory, adds up ``S`` and ``Q``
and keeps the words in a ring; the second takes them from the ring, once the token's reciprocal
square root is there, and applies it with the channels' gain and bias. Several tokens are under way,
so that short tokens too hide the latency of the square root.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from moevit.quant.formats import ACTIVATION, SHIFT_BITS, VALUE
from moevit.quant.operators.layernorm import X_HAT_FRAC
from moevit.quant.operators.pwl import RSQRT

from ..config import BEAT_BYTES, CHANNEL_BYTES, AcceleratorConfig
from ..interfaces import (
    ActivationWrite,
    ChannelParams,
    GiveSignature,
    ResidualRead,
    TakeSignature,
    load_beat,
)
from ..isa import ADDRESS_BITS, TOKEN_BITS, Norm
from ..lib.fifo import MemoryFifo
from ..lib.pipeline import Pipeline, double_shift, round_saturate
from ..lib.pwl import Inverse, inverse_latency
from ..lib.storage import Memory
from ..memories import banks
from ..registers import Error

__all__ = ["DIM_BITS", "NormEngine"]

DIM_BITS = 10
"""``dim`` is at most 1023: then ``D x - S`` has 27 bits and multiplies ``r`` in one DSP block."""

_NUMBER_BITS = 27
"""``D x - S``, signed."""
_VARIANCE_BITS = 2 * DIM_BITS + 2 * (VALUE.width - 1)
_UNDER_WAY = 8
"""Tokens between their first read and the start of their second pass."""
HIDDEN = 40
"""Words read while a token waits for its root; the ring holds so many beside the longest token."""
_RESULTS = 32
"""Places for finished words: more than a round trip through the second pass takes."""
_FAULT = Shape.cast(range(max(Error) + 1))
CHANNEL_BITS = 54
"""Of a channel's parameters: bias 32, gain 16, shift 6."""


def longest_row(config: AcceleratorConfig) -> int:
    """Most residual words of a token."""
    return min(config.limits.depth, 1 << DIM_BITS) // config.array.outputs


class NormEngine(wiring.Component):
    """Executes NORM instructions, one after the other.

    A ``plain`` one goes the same way with a mean of 0 and a root of 1.

    Latency: :meth:`latency` cycles from an instruction to its first write. Throughput: a residual
    word a cycle while ``o`` does not stall; tokens of up to three words are limited by the number
    that can be under way, 8. Back-pressure: ``o`` may stall for ever; the second pass runs on into
    32 places.

    Faults: ``FIELD`` for no tokens or words, words for more than ``limits.depth`` channels, or a
    ``dim`` of 0 or above 1023; ``ADDRESS`` for parameters, reads or writes outside their memory,
    which are not carried out. Only a reset ends a fault.

    Parameters
    ----------
    config:
        The accelerator.

    Members
    -------
    i:
        Instructions.
    take, give:
        Semaphores: a credit for each tile of T tokens, or ``wait_count`` at first.
    residual:
        Reads of the residual memory, granted in each cycle.
    o:
        Writes to the activation memory: one group of O bytes each.
    load:
        Beats of norm parameters. Always ready; rows outside the memory are dropped.
    busy, fault:
        Instruction under way; error code or 0.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(Norm.layout())),
                "take": Out(TakeSignature),
                "give": Out(GiveSignature),
                "residual": Out(ResidualRead(config)),
                "o": Out(ActivationWrite(config)),
                "load": In(stream.Signature(load_beat(config))),
                "busy": Out(1),
                "fault": Out(_FAULT),
            }
        )

    def latency(self, words: int) -> int:
        """Cycles from an instruction to the first write of tokens of ``words`` words."""
        tree = ceil_log2(self._config.array.outputs)
        return words + tree + inverse_latency(RSQRT, _VARIANCE_BITS) + 26

    def elaborate(self, platform):
        m = Module()
        config, outputs = self._config, self._config.array.outputs
        longest = longest_row(config)

        # The instruction, and what its parts tell one another.
        order = Signal(Norm.layout(), reset_less=True)
        final = Signal(
            Norm.shape("words"), reset_less=True
        )  # the last word of a token; ready before it is needed
        m.d.sync += final.eq(order.words - 1)
        begin, running, finished = Signal(), Signal(), Signal()
        issue, started = Signal(), Signal()  # a read; a token's second pass
        read_fault = self._accept(m, order, begin, running, finished, longest)

        ring_depth = 1 << ceil_log2(longest + HIDDEN)
        ring = banks(m, "ring", width=VALUE.width * outputs, depth=ring_depth)
        ring_level, ring_room = Signal(range(ring_depth + 1)), Signal()
        ring_free = Signal()
        m.d.sync += [
            ring_level.eq(ring_level + issue - ring_free),
            ring_room.eq(ring_level < ring_depth - 4),
        ]

        first, last = self._read(
            m, order, final, begin, running, issue, ring_room, started, read_fault
        )

        # First pass: sums of a word by trees, sums of the token in s and q.
        p = Pipeline(m, valid=issue, first=first, last=last)
        p.delay(1)  # the memory's
        with p.step() as reg:
            x = [reg(self.residual.data[n], name="x") for n in range(outputs)]
        self._write_ring(m, ring, ring_depth, p.valid, Cat(*x))
        with p.step() as reg:
            x_1 = [reg(v, name="x") for v in x]
            square = [reg((v * v)[: 2 * VALUE.width - 1], name="square") for v in x]
        s_word, q_word = p.reduce(lambda a, b: a + b, x_1, square)
        channels = bits_for(longest * outputs)
        s = Signal(signed(VALUE.width + channels), reset_less=True)
        q = Signal(2 * VALUE.width - 1 + channels, reset_less=True)
        with m.If(p.valid):
            m.d.sync += [
                s.eq(Mux(p.tag["first"], 0, s) + s_word),
                q.eq(Mux(p.tag["first"], 0, q) + q_word),
            ]
        total = Signal()
        m.d.sync += total.eq(p.valid & p.tag["last"])

        roots = self._roots(m, order, total, s, q)
        self._second_pass(
            m, order, final, begin, ring, ring_depth, roots, ring_free, started, finished
        )
        return m

    def _accept(self, m, order, begin, running, finished, longest):
        """Instructions in, checks, ``busy`` and ``fault``; returns the fault of a read."""
        read_fault = Signal()
        checking, bad_field, bad_params = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~self.busy),
            self.busy.eq(checking | running | (self.fault != 0)),
            bad_field.eq(
                (order.tokens == 0)
                | (order.words == 0)
                | (order.words > longest)
                | (order.dim == 0)
                | (order.dim >= 1 << DIM_BITS)
            ),
            bad_params.eq(order.params + order.words > self._config.memory.norm_rows),
            begin.eq(checking & ~bad_field & ~bad_params),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [order.eq(self.i.payload), checking.eq(1)]
        with m.If(checking):
            m.d.sync += checking.eq(0)
            with m.If(bad_field):
                m.d.sync += self.fault.eq(Error.FIELD)
            with m.Elif(bad_params):
                m.d.sync += self.fault.eq(Error.ADDRESS)
            with m.Else():
                m.d.sync += running.eq(1)
        with m.If(finished):
            m.d.sync += running.eq(0)
        with m.If(read_fault):
            m.d.sync += self.fault.eq(Error.ADDRESS)
        return read_fault

    def _read(self, m, order, final, begin, running, issue, ring_room, started, read_fault):
        """Semaphores and the reads of the first pass; returns first and last word of a token."""
        config, tile = self._config, self._config.array.tokens

        # Credits: one tile's is taken ahead, so that reading does not wait for the unit's answer.
        up_front, credit, untaken = Signal(), Signal(), Signal(TOKEN_BITS)
        take, spend = Signal(), Signal()
        m.d.comb += [
            up_front.eq(order.wait_count != 0),
            self.take.valid.eq(running & ~credit & (untaken != 0) & (self.fault == 0)),
            self.take.id.eq(order.wait),
            self.take.count.eq(Mux(up_front, order.wait_count, 1)),
            take.eq(self.take.valid & self.take.ready),
        ]
        with m.If(take):
            m.d.sync += untaken.eq(Mux(up_front | (untaken <= tile), 0, untaken - tile))
        with m.If(take):
            m.d.sync += credit.eq(1)
        with m.Elif(spend & ~up_front):
            m.d.sync += credit.eq(0)

        # Words lie one behind the other, from token to token.
        # What decides on a read is in registers: whether the address is inside the memory, the
        # word a token's first, the row a tile's first, and anything left.
        addr, inside = Signal(ADDRESS_BITS + 1), Signal()
        word, row, left = Signal(Norm.shape("words")), Signal(range(tile)), Signal(TOKEN_BITS)
        first, last, new_tile, some = Signal(), Signal(), Signal(), Signal()
        words = config.memory.residual_words
        under_way, room = Signal(range(_UNDER_WAY + 1)), Signal()
        ask = Signal()
        m.d.comb += [
            last.eq(word == final),
            room.eq(under_way != _UNDER_WAY),
            ask.eq(some & ring_room & (~first | room & (~new_tile | credit)) & (self.fault == 0)),
            issue.eq(ask & inside),
            read_fault.eq(ask & ~inside),
            spend.eq(issue & first & new_tile),
            self.residual.en.eq(issue),
            self.residual.addr.eq(addr),
        ]
        m.d.sync += under_way.eq(under_way + (issue & first) - started)
        with m.If(begin):
            m.d.sync += [
                addr.eq(order.source),
                inside.eq(order.source < words),
                some.eq(1),
                left.eq(order.tokens),
                untaken.eq(order.tokens),
                credit.eq(0),
                word.eq(0),
                first.eq(1),
                row.eq(0),
                new_tile.eq(1),
            ]
        with m.Elif(issue):
            m.d.sync += [
                addr.eq(addr + 1),
                inside.eq(addr < words - 1),
                word.eq(word + 1),
                first.eq(last),
            ]
            with m.If(last):
                m.d.sync += [
                    word.eq(0),
                    left.eq(left - 1),
                    some.eq(left != 1),
                    row.eq(Mux(row == tile - 1, 0, row + 1)),
                    new_tile.eq(row == tile - 1),
                ]
        return first, last

    @staticmethod
    def _write_ring(m, ring, depth, valid, data):
        at = Signal(range(depth))
        with m.If(valid):
            m.d.sync += at.eq(at + 1)
        position = 0
        for memory in ring:
            port = memory.write_port()
            piece = data[position : position + len(port.data)]
            m.d.comb += [port.en.eq(valid), port.addr.eq(at), port.data.eq(piece)]
            position += len(port.data)

    def _roots(self, m, order, total, s, q):
        """``D Q - S**2 + eps``, its reciprocal square root; a queue of {s, r, e} of the tokens."""
        dim = order.dim[:DIM_BITS]
        q_cut, s_cut = 26, 17  # what one DSP block multiplies
        width = max(len(q) + DIM_BITS, 2 * len(s)) + 2
        p = Pipeline(m, valid=total, s=s)
        with p.step() as reg:
            dq_low, dq_high = reg(dim * q[:q_cut], name="dq"), reg(dim * q[q_cut:], name="dq")
            ss_low, ss_high = (
                reg(s * s[:s_cut], name="ss"),
                reg(s * s[s_cut:].as_signed(), name="ss"),
            )
        with p.step() as reg:
            dq = reg(dq_low + (dq_high << q_cut), name="dq")
            ss = reg(ss_low + (ss_high << s_cut), name="ss")
        with p.step() as reg:
            spread = reg((dq - ss)[:width].as_signed(), name="spread")
        with p.step() as reg:
            variance = reg((spread + order.eps)[:width].as_signed(), name="variance")
        # Of a token with its channels inside dim: D Q >= S**2, and all below 2**50.
        bits = _VARIANCE_BITS
        with p.step() as reg:
            low = variance[:bits] | ~variance[:bits].any()
            positive = reg(Mux(variance[-1], 1, low), name="positive")
        m.submodules.root = root = Inverse(RSQRT, bits)
        m.d.comb += [root.valid.eq(p.valid), root.i.eq(positive)]
        p.delay(root.latency)
        token = StructLayout(
            {
                "s": signed(_NUMBER_BITS - 1),
                "r": root.value.shape(),
                "e": root.exponent.shape(),
            }
        )
        m.submodules.roots = roots = MemoryFifo(token, depth=_UNDER_WAY)
        m.d.comb += [
            roots.i.valid.eq(root.done),
            roots.i.payload.s.eq(p.tag["s"]),
            roots.i.payload.r.eq(root.value),
            roots.i.payload.e.eq(root.exponent),
        ]
        return roots.o

    def _second_pass(
        self, m, order, final, begin, ring, ring_depth, roots, ring_free, started, finished
    ):
        config, outputs = self._config, self._config.array.outputs
        norm_rows = config.memory.norm_rows

        # A word is started when there is a place for its result.
        m.submodules.results = results = MemoryFifo(
            unsigned(ACTIVATION.width * outputs), depth=_RESULTS
        )
        places, popped = Signal(range(_RESULTS + 1), init=_RESULTS), Signal()
        word, at, row = (
            Signal(Norm.shape("words")),
            Signal(range(ring_depth)),
            Signal(range(norm_rows)),
        )
        go, first, last = Signal(), Signal(), Signal()
        m.d.comb += [
            go.eq(roots.valid & (places != 0)),
            roots.ready.eq(go & last),
            started.eq(go & first),
            ring_free.eq(go),
        ]
        m.d.sync += places.eq(places - go + popped)
        with m.If(begin):
            m.d.sync += [word.eq(0), row.eq(order.params), first.eq(1), last.eq(order.words == 1)]
        with m.Elif(go):
            m.d.sync += [
                at.eq(at + 1),
                word.eq(Mux(last, 0, word + 1)),
                row.eq(Mux(last, order.params, row + 1)),
                first.eq(last),
                last.eq(Mux(last, order.words == 1, word + 1 == final)),
            ]

        # Without normalisation x_hat is x: (1 x - 0) * 2**15 / 2**15.
        head, one = roots.payload, 1 << (VALUE.width - 1)
        shift = Mux(order.plain, VALUE.width - 1, head.e + (VALUE.width - X_HAT_FRAC))
        p = Pipeline(
            m,
            valid=go,
            s=Mux(order.plain, 0, head.s),
            r=Mux(order.plain, one, head.r),
            shift=shift,
            row=row,
        )
        reads = []
        for memory in ring:
            port = memory.read_port()
            m.d.comb += [port.en.eq(go), port.addr.eq(at)]
            reads.append(port.data)
        p.delay(1)  # the ring's
        x = _lanes(Cat(*reads), outputs, signed(VALUE.width))
        with p.step() as reg:
            x = [reg(v, name="x") for v in x]
        dim = Mux(order.plain, 1, order.dim[:DIM_BITS])
        with p.step() as reg:
            x = [reg(v * dim, name="dx") for v in x]
        with p.step() as reg:
            number = [reg((v - p.tag["s"])[:_NUMBER_BITS].as_signed(), name="number") for v in x]
        p.drop("s")
        with p.step() as reg:
            product = [reg(v * p.tag["r"], name="product") for v in number]
        p.drop("r")
        gains = self._parameters(m, p)  # read one stage ahead, then registered
        with p.step() as reg:
            doubled = [reg(double_shift(v, p.tag["shift"]), name="doubled") for v in product]
        p.drop("shift", "row")
        with p.step() as reg:
            x_hat = [reg(round_saturate(m, v, VALUE, name="x_hat"), name="x_hat") for v in doubled]
            channels = [reg(g, name="channel") for g in gains]
        channels = [_Channel(c) for c in channels]
        with p.step() as reg:
            scaled = [reg(v * c.gain, name="scaled") for v, c in zip(x_hat, channels, strict=True)]
            bias = [reg(c.bias, name="bias") for c in channels]
            shift = [reg(c.shift, name="shift") for c in channels]
        with p.step() as reg:
            biased = [reg(v + b, name="biased") for v, b in zip(scaled, bias, strict=True)]
            shift = [reg(v, name="shift") for v in shift]
        with p.step() as reg:
            doubled = [
                reg(double_shift(v, n), name="y_doubled")
                for v, n in zip(biased, shift, strict=True)
            ]
        with p.step() as reg:
            y = [reg(round_saturate(m, v, ACTIVATION, name="y"), name="y") for v in doubled]
        m.d.comb += [results.i.valid.eq(p.valid), results.i.payload.eq(Cat(*y))]
        self._write(m, order, final, begin, results.o, popped, finished)

    def _parameters(self, m, p):
        """The channels' memories: ``load`` writes, ``tag["row"]`` reads; data one stage later."""
        config = self._config
        per_beat = BEAT_BYTES // CHANNEL_BYTES
        m.d.comb += self.load.ready.eq(1)
        at = self.load.payload
        data = []
        for n in range(config.array.outputs):
            m.submodules[f"channel_{n}"] = memory = Memory(
                shape=unsigned(CHANNEL_BITS), depth=config.memory.norm_rows, init=[]
            )
            write, read = memory.write_port(), memory.read_port()
            position = n % per_beat * 8 * CHANNEL_BYTES
            channel = ChannelParams(at.data[position : position + 8 * CHANNEL_BYTES])
            m.d.comb += [
                write.en.eq(
                    self.load.valid
                    & (at.part == n // per_beat)
                    & (at.row < config.memory.norm_rows)
                ),
                write.addr.eq(at.row),
                write.data.eq(Cat(channel.bias, channel.mult, channel.shift[:SHIFT_BITS])),
                read.en.eq(p.valid),
                read.addr.eq(p.tag["row"]),
            ]
            data.append(read.data)
        return data

    def _write(self, m, order, final, begin, results, popped, finished):
        """Addresses of the finished words, credits, and the end of the instruction."""
        config, tile = self._config, self._config.array.tokens
        groups = config.array.inputs // config.array.outputs
        pieces = config.array.outputs // config.piece_bytes
        addr, base = Signal(ADDRESS_BITS + 1), Signal(ADDRESS_BITS + 1)
        group, word = Signal(range(groups)), Signal(Norm.shape("words"))
        row, left = Signal(range(tile)), Signal(TOKEN_BITS)
        inside, last, tile_done = Signal(), Signal(), Signal()  # inside: addr, in the memory
        words = config.memory.activation_words
        m.d.comb += [
            self.o.valid.eq(results.valid & inside),
            self.o.payload.addr.eq(addr),
            self.o.payload.data.eq(results.payload.replicate(groups)),
            results.ready.eq(self.o.ready & inside),
            popped.eq(self.o.valid & self.o.ready),
            last.eq(word == final),
            tile_done.eq(popped & last & ((row == tile - 1) | (left == 1))),
            finished.eq(popped & last & (left == 1)),
        ]
        m.d.comb += [
            self.o.payload.mask[g * pieces : (g + 1) * pieces].eq((group == g).replicate(pieces))
            for g in range(groups)
        ]
        m.d.sync += [
            self.give.valid.eq(tile_done & (order.signal != 0)),
            self.give.id.eq(order.signal),
            self.give.count.eq(1),
        ]
        with m.If(results.valid & ~inside):
            m.d.sync += self.fault.eq(Error.ADDRESS)
        with m.If(begin):
            m.d.sync += [
                addr.eq(order.target),
                inside.eq(order.target < words),
                base.eq(order.target + order.stride),
                left.eq(order.tokens),
                group.eq(0),
                word.eq(0),
                row.eq(0),
            ]
        with m.Elif(popped):
            with m.If(last):
                m.d.sync += [
                    addr.eq(base),
                    inside.eq(base < words),
                    base.eq(base + order.stride),
                    group.eq(0),
                    word.eq(0),
                    row.eq(Mux(row == tile - 1, 0, row + 1)),
                    left.eq(left - 1),
                ]
            with m.Else():
                m.d.sync += word.eq(word + 1)
                with m.If(group == groups - 1):
                    m.d.sync += [group.eq(0), addr.eq(addr + 1), inside.eq(addr < words - 1)]
                with m.Else():
                    m.d.sync += group.eq(group + 1)


class _Channel:
    """Names for the parts of a stored channel."""

    def __init__(self, value: Value):
        self.bias = value[:32].as_signed()
        self.gain = value[32:48].as_signed()
        self.shift = value[48:]


def _lanes(word: Value, count: int, shape: Shape) -> list[Value]:
    return [word[n * shape.width : (n + 1) * shape.width].as_signed() for n in range(count)]
