"""Gate unit: router logits in, top-k experts' token queues out (quant/operators/gate.py).

The rank of an expert is the number of experts that beat it. All pairs are compared at once, so the
choice takes no loop: the experts of rank 0 to k-1 follow one another into the queues. A score is
the expert's share of the exponentials of all experts, or of those chosen (``renormalise``); one
below ``least``, and one behind scores that add up to ``enough``, is counted out at the queue's
door. The frame's dial narrows all three limits when a token's logits are complete. A task that sees
a window of the experts sends that many logits, and ``base`` is the number of the first.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from moevit.quant.formats import LOGIT, SCORE
from moevit.quant.operators.exp2 import GATE_EXP
from moevit.quant.operators.pwl import RECIPROCAL

from ..config import AcceleratorConfig
from ..interfaces import SENT_BITS, Lengths, ReadPort, dial, gate_row, queue_address, queue_entry
from ..isa import Gemm
from ..lib import exp2
from ..lib.component import Component
from ..lib.pipeline import Pipeline
from ..lib.pwl import Inverse, inverse_latency
from ..lib.storage import Memory
from ..memories import banks

__all__ = ["Gate", "slots"]


def slots(config: AcceleratorConfig) -> int:
    """Places of an expert's queue."""
    return max(min(config.limits.tokens, config.limits.routed), 2)


def _narrowed(row: Any, frame: Any) -> dict[str, Value]:
    """Of a router's limits and a frame's the stricter ones. 0 is none, so that one less than it is
    the largest number."""

    def smaller(name: str) -> Value:
        asked, given = frame[name], row[name]
        return Mux((asked - 1)[: len(asked)] < (given - 1)[: len(given)], asked, given)

    least = Mux(frame.least > row.least, frame.least, row.least)
    return {"top_k": smaller("top_k"), "enough": smaller("enough"), "least": least}


class Gate(Component):
    """Ranks, scores and queues.

    Latency: :attr:`latency` cycles from a token's last row to its first entry, and ``top_k`` more
    from the last token's to ``done``. Throughput: a token every ``top_k`` cycles, a row a cycle.
    Back-pressure: a row waits while the token before it in its slot has not been looked at.

    Size: ``experts**2 / 2`` comparators and as many lanes of exponentials as experts
    (``limits.experts``).

    Parameters
    ----------
    config:
        The accelerator.

    Members
    -------
    i:
        Rows of O logits, output tile by output tile, rows inner. ``first`` marks one row of a
        GEMM's first token, ``end`` the last row of all.
    dial:
        Limits of the frame; they do not change while rows come.
    queue:
        Reads of the queues.
    lengths:
        Tokens in each queue. Cleared when the first token of the next GEMM reaches the queues.
    done:
        1 for a cycle when the tokens up to ``end`` are in the queues.
    tokens_sent, clear:
        Totals since ``clear``, modulo 2**16.
    busy:
        A GEMM's rows are under way.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        experts = config.limits.experts
        super().__init__(
            {
                "i": In(stream.Signature(gate_row(config))),
                "dial": In(dial),
                "queue": In(ReadPort(queue_address, queue_entry)),
                "lengths": Out(Lengths(config)),
                "done": Out(1),
                "busy": Out(1),
                "clear": In(1),
                "tokens_sent": Out(ArrayLayout(unsigned(SENT_BITS), experts)),
            }
        )
        self._sum_bits = bits_for(GATE_EXP.peak * experts)
        self._wait = 1 + ceil_log2(experts) + inverse_latency(RECIPROCAL, self._sum_bits)
        self.latency = exp2.LATENCY + self._wait + 11

    def elaborate(self, platform: object) -> Module:
        m = Module()
        under_way = Signal(4)
        row = self.i.payload
        begins = Signal()
        m.d.comb += [
            begins.eq(self.i.valid & self.i.ready & row.first),
            self.busy.eq(under_way != 0),
        ]
        m.d.sync += under_way.eq(under_way + begins - self.done)

        p, logits = self._collect(m)
        rank, exponentials = self._rank(m, p, logits)
        self._push(m, self._select(m, p, rank, exponentials))
        return m

    def _collect(self, m: Module) -> tuple[Pipeline, list[Signal]]:
        """Rows to whole tokens: a pipeline with a token's logits."""
        config, i = self._config, self.i
        outputs, tokens = config.array.outputs, config.array.tokens
        experts, row = config.limits.experts, i.payload

        # One slot for each row of a tile; they fill and empty in the order of the rows.
        complete, first = Signal(tokens), Signal(tokens)
        facts = StructLayout(
            {
                name: gate_row(config)[name].shape
                for name in (
                    *("token", "experts", "end", "base", "renormalise"),
                    *("top_k", "least", "enough"),
                )
            }
        )
        known = {name: row[name] for name in facts.members} | _narrowed(row, self.dial)
        slots: list[Any] = [Signal(facts, name=f"slot_{t}", reset_less=True) for t in range(tokens)]
        accept, take = Signal(), Signal()
        oldest, pause = Signal(range(tokens)), Signal(Gemm.shape("top_k"))
        head: Any = Signal(facts)
        m.d.comb += [
            i.ready.eq(~complete.bit_select(row.slot, 1)),
            accept.eq(i.valid & i.ready),
            take.eq(complete.bit_select(oldest, 1) & (pause == 0)),
            head.eq(Array(slots)[oldest]),
        ]
        for t in range(tokens):
            with m.If(accept & (row.slot == t)):
                with m.If(row.first):
                    m.d.sync += first[t].eq(1)
                with m.If(row.last):
                    m.d.sync += [complete[t].eq(1)]
                    m.d.sync += [slots[t][name].eq(value) for name, value in known.items()]
            with m.If(take & (oldest == t)):
                m.d.sync += [complete[t].eq(0), first[t].eq(0)]
        with m.If(take):  # the entries of a token need top_k cycles
            m.d.sync += [
                oldest.eq(Mux(head.end | (oldest == tokens - 1), 0, oldest + 1)),
                pause.eq(head.top_k - (head.top_k != 0)),
            ]
        with m.Elif(pause != 0):
            m.d.sync += pause.eq(pause - 1)

        p = Pipeline(
            m, valid=take, first=first.bit_select(oldest, 1),
            **{name: head[name] for name in facts.members},
        )  # fmt: skip
        data = []
        for tile in range(-(-experts // outputs)):
            position = 0
            for memory in banks(
                m, f"logits_{tile}", width=LOGIT.width * outputs, depth=max(tokens, 2)
            ):
                write, read = memory.write_port(), memory.read_port()
                width = memory.shape.width
                m.d.comb += [
                    write.en.eq(accept & (row.otile == tile)),
                    write.addr.eq(row.slot),
                    write.data.eq(row.logits.as_value()[position : position + width]),
                    read.en.eq(take),
                    read.addr.eq(oldest),
                ]
                position += width
                data.append(read.data)
        p.delay(1)  # the memory's
        word, width = Cat(*data), LOGIT.width
        with p.step() as reg:
            # An expert that is not there loses: of equal logits the lower index wins.
            exists = [p.tag["experts"] > e for e in range(experts)]
            there = reg(Cat(*exists), name="there")
            logits = [
                reg(
                    Mux(exists[e], word[e * width : (e + 1) * width].as_signed(), LOGIT.min),
                    name="logit",
                )
                for e in range(experts)
            ]
        p.drop("experts")
        p.add(there=there)
        return p, logits

    def _rank(
        self, m: Module, p: Pipeline, logits: list[Signal]
    ) -> tuple[list[Value], list[Value]]:
        """How many experts beat each, and the exponentials relative to the best."""
        experts, width = len(logits), LOGIT.width
        with p.step() as reg:
            # later[a][b]: expert a + 1 + b beats expert a.
            later = [
                reg(Cat(logits[b] > logits[a] for b in range(a + 1, experts)), name="later")
                for a in range(experts - 1)
            ]
            logits = [reg(v, name="logit") for v in logits]
        beaten = [
            [~later[a][e - a - 1] for a in range(e)]
            + ([later[e][b] for b in range(experts - 1 - e)] if e < experts - 1 else [])
            for e in range(experts)
        ]
        with p.step() as reg:
            rank = [
                reg(sum(bits, Const(0, 1))[: max(1, ceil_log2(experts))], name="rank")
                for bits in beaten
            ]
            best = [reg(~Cat(*bits).any(), name="best") for bits in beaten]
            logits = [reg(v, name="logit") for v in logits]
        with p.step() as reg:
            one = reduce(or_, (v & b.replicate(width) for v, b in zip(logits, best, strict=True)))
            largest = reg(one[:width].as_signed(), name="largest")
            rank = [reg(v, name="rank") for v in rank]
            logits = [reg(v, name="logit") for v in logits]
        with p.step() as reg:
            # As far away as can be: the exponential of an expert that is not there is 0.
            distance = [
                reg(
                    (largest - v)[:width] | (~p.tag["there"][e]).replicate(width),
                    name="distance",
                )
                for e, v in enumerate(logits)
            ]
            rank = [reg(v, name="rank") for v in rank]
        p.drop("there")
        p.add(rank=Cat(*rank))
        exponentials = exp2.lanes(m, p, GATE_EXP, distance, name="octave")
        size = len(rank[0])
        ranks = [p.tag["rank"][e * size : (e + 1) * size] for e in range(experts)]
        p.drop("rank")
        return ranks, exponentials

    def _select(
        self, m: Module, p: Pipeline, rank: list[Value], exponentials: list[Value]
    ) -> Pipeline:
        """Ranks 0 to k-1 one after the other, with their scores; a pipeline of entries."""
        # The token's registers keep their values until the next token, at least top_k cycles.
        count, place = Signal(Gemm.shape("top_k")), Signal(Gemm.shape("top_k"))
        running, last = Signal(), Signal()
        m.d.comb += [
            place.eq(Mux(p.valid, 0, count)),
            last.eq(place + 1 >= p.tag["top_k"]),
        ]
        with m.If(p.valid | running):
            m.d.sync += [count.eq(place + 1), running.eq(~last)]
        selected = [r == place for r in rank]
        q = Pipeline(
            m,
            valid=p.valid | running,
            token=p.tag["token"],
            first=p.tag["first"] & p.valid,
            end=p.tag["end"] & last,
            base=p.tag["base"],
            least=p.tag["least"],
            enough=p.tag["enough"],
            best=p.valid,
        )
        with q.step() as reg:
            expert = reg(reduce(or_, (Mux(s, e, 0) for e, s in enumerate(selected))), name="expert")
            value = reg(
                reduce(or_, (Mux(s, v, 0) for s, v in zip(selected, exponentials, strict=True))),
                name="exponential",
            )

        # The entries wait, in one word, for the reciprocal of the token's sum.
        names = ("token", "first", "end", "base", "least", "enough", "best")
        parts = {name: q.tag[name] for name in names} | {"expert": expert, "value": value}
        q.drop(*names)
        q.add(entry=Cat(*parts.values()))
        p.drop("token", "first", "end", "base", "least", "enough")
        with p.step() as reg:  # of the chosen experts alone, where scores add up to one
            summands = [
                reg(v & ~(p.tag["renormalise"] & (r >= p.tag["top_k"])).replicate(len(v)), name="e")
                for r, v in zip(rank, exponentials, strict=True)
            ]
        p.drop("top_k", "renormalise")
        (total,) = p.reduce(lambda a, b: a + b, summands)
        m.submodules.inverse = inverse = Inverse(RECIPROCAL, self._sum_bits)
        m.d.comb += [inverse.valid.eq(p.valid), inverse.i.eq(total)]
        q.delay(self._wait - q.latency)
        entry, position = {}, 0
        for name, part in parts.items():
            entry[name] = q.tag["entry"][position : position + len(part)]
            position += len(part)
        q.drop("entry")
        exponential = entry.pop("value")
        q.add(**entry)

        with q.step() as reg:
            product = reg(exponential * inverse.value, name="product")
            shift = reg(inverse.exponent, name="shift")
        with q.step() as reg:  # twice the product, shifted by exponent + 1
            doubled = reg((product >> shift)[: SCORE.width + 3], name="doubled")
        with q.step() as reg:
            rounded = (doubled + 1) >> 1
            over = rounded[SCORE.width :].any()
            score = reg(
                rounded[: SCORE.width] | over.replicate(SCORE.width),
                name="score",
            )
            expert = reg((q.tag["expert"] + q.tag["base"])[: len(q.tag["base"])], name="expert")
            # Of the entries before, which are this token's: the best comes first.
            before = Signal(SCORE.width + Gemm.shape("top_k").width)
            better = reg(Mux(q.tag["best"], 0, before)[: len(before)], name="better")
            m.d.comb += before.eq(better + score)
        q.drop("expert", "base", "best")
        q.add(score=score, expert=expert, better=better)
        return q

    def _push(self, m: Module, q: Pipeline) -> None:
        """Entries to the queues."""
        experts = self._config.limits.experts
        slot_bits, expert_bits = ceil_log2(slots(self._config)), ceil_log2(experts)
        m.submodules.queues = memory = Memory(
            shape=unsigned(queue_entry.size), depth=1 << (slot_bits + expert_bits), init=[]
        )
        write, read = memory.write_port(), memory.read_port()

        expert, first, enters = q.tag["expert"], q.tag["first"], Signal()
        last = (q.tag["enough"] - 1)[: len(q.tag["enough"])]  # of 0: more than scores add up to
        m.d.comb += enters.eq(
            q.valid & (q.tag["score"] >= q.tag["least"]) & (q.tag["better"] <= last)
        )
        with m.If(q.valid & first):
            m.d.sync += self.lengths.eq(0)
        with m.If(enters):
            for e in range(experts):
                with m.If(expert == e):
                    length, sent = self.lengths[e], self.tokens_sent[e]
                    m.d.sync += [length.eq(Mux(first, 0, length) + 1), sent.eq(sent + 1)]
        with m.If(self.clear):
            m.d.sync += self.tokens_sent.eq(0)
        q.drop("least", "enough", "better")
        q.add(enters=enters)
        with q.step() as reg:
            slot = reg(
                Mux(first, 0, Array(self.lengths[e] for e in range(experts))[expert])[:slot_bits],
                name="slot",
            )
        tag = q.tag
        m.d.comb += [
            write.en.eq(q.valid & tag["enters"]),
            write.addr.eq(Cat(slot, tag["expert"][:expert_bits])),
            write.data.eq(Cat(tag["token"], tag["score"])),
        ]
        m.d.sync += self.done.eq(q.valid & tag["end"])

        at = self.queue.addr
        m.d.comb += [
            read.en.eq(self.queue.en),
            read.addr.eq(Cat(at.slot[:slot_bits], at.expert[:expert_bits])),
            self.queue.data.eq(read.data),
        ]
