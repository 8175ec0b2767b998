"""LayerNorm engine: residual words in, activation bytes out (quant/operators/layernorm.py).

Two passes over a token. The first reads its words from the residual memory, adds up ``S`` and ``Q``
and keeps the words in a ring; the second takes them from the ring, once the token's reciprocal
square root is there, and applies it with the channels' gain and bias. Several tokens are under way,
so that short tokens too hide the latency of the square root.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from moevit.quant.formats import ACTIVATION, VALUE

from ..config import AcceleratorConfig
from ..interfaces import (
    ActivationWrite,
    GiveSignature,
    ResidualRead,
    TakeSignature,
    load_beat,
)
from ..isa import Norm
from ..lib.component import Component
from ..lib.fifo import MemoryFifo
from ..lib.pipeline import Pipeline
from ..memories import banks
from ..registers import Error
from .norm_apply import NormApply
from .norm_read import NormReader
from .norm_roots import DIM_BITS, NormRoots, longest_row
from .norm_write import NormWriter

__all__ = ["HIDDEN", "NormEngine"]

HIDDEN = 40
"""Words read while a token waits for its root; the ring holds so many beside the longest token."""
_RESULTS = 32
"""Places for finished words: more than a round trip through the second pass takes."""
_RESERVE = 4
"""Places of the ring that are left for words that are asked for when it is seen to be full."""


class NormEngine(Component):
    """Executes NORM instructions, one after the other.

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

    def __init__(self, config: AcceleratorConfig) -> None:
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
                "fault": Out(Error),
            }
        )

    def latency(self, words: int) -> int:
        """Cycles from an instruction to the first write of tokens of ``words`` words."""
        return words + NormRoots.latency(self._config) + 17

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.reader = reader = NormReader(config)
        m.submodules.roots = roots = NormRoots(config)
        m.submodules.apply = apply = NormApply(config)
        m.submodules.writer = writer = NormWriter(config)
        connect(m, reader.take, flipped(self.take))
        connect(m, reader.residual, flipped(self.residual))
        connect(m, flipped(self.load), apply.load)
        connect(m, writer.o, flipped(self.o))
        connect(m, writer.give, flipped(self.give))

        order: Any = Signal(Norm.layout(), reset_less=True)
        final = Signal(Norm.shape("words"), reset_less=True)  # ready before it is needed
        m.d.sync += final.eq(order.words - 1)
        begin, running = Signal(), Signal()
        self._accept(m, order, begin, running, writer.finished)
        with m.If(reader.fault | writer.fault):
            m.d.sync += self.fault.eq(Error.ADDRESS)
        for part in (reader, roots, apply, writer):
            m.d.comb += part.order.eq(order)
        for part in (reader, writer):
            m.d.comb += [part.final.eq(final), part.begin.eq(begin)]
        m.d.comb += [reader.running.eq(running), reader.stopped.eq(self.fault != Error.NONE)]

        p = Pipeline(m, valid=self.residual.en, first=reader.first, last=reader.last)
        p.delay(1)  # the memory's
        with p.step() as reg:
            words = reg(self.residual.data, name="words")
        m.d.comb += [
            roots.valid.eq(p.valid),
            roots.first.eq(p.tag["first"]),
            roots.last.eq(p.tag["last"]),
            roots.words.eq(words),
        ]
        self._second_pass(m, order, final, begin, p.valid, words)
        return m

    def _accept(
        self, m: Module, order: Any, begin: Signal, running: Signal, finished: Signal
    ) -> None:
        """Instructions in, checks, and ``busy``."""
        checking, bad_field, bad_params = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~self.busy),
            self.busy.eq(checking | running | (self.fault != Error.NONE)),
            bad_field.eq(
                (order.tokens == 0)
                | (order.words == 0)
                | (order.words > longest_row(self._config))
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

    def _second_pass(
        self, m: Module, order: Any, final: Signal, begin: Signal, push: Value, words: Value
    ) -> None:
        """Words wait in the ring; one is taken when there is a place for its result."""
        config = self._config
        reader, roots = m.submodules.reader, m.submodules.roots.o
        apply, writer = m.submodules.apply, m.submodules.writer
        bits = ACTIVATION.width * config.array.outputs
        m.submodules.results = results = MemoryFifo(unsigned(bits), depth=_RESULTS)
        connect(m, results.o, writer.i)
        places = Signal(range(_RESULTS + 1), init=_RESULTS)
        word, row = Signal.like(final), Signal.like(apply.row)
        go, first, last = Signal(), Signal(), Signal()
        m.d.comb += [
            go.eq(roots.valid & (places != 0)),
            roots.ready.eq(go & last),
            reader.started.eq(go & first),
            apply.valid.eq(go),
            apply.root.eq(roots.payload),
            apply.row.eq(row),
            results.i.valid.eq(apply.done),
            results.i.payload.eq(apply.bytes.as_value()),
        ]
        m.d.sync += places.eq(places - go + (results.o.valid & results.o.ready))
        with m.If(begin):
            m.d.sync += [word.eq(0), row.eq(order.params), first.eq(1), last.eq(order.words == 1)]
        with m.Elif(go):
            m.d.sync += [
                word.eq(Mux(last, 0, word + 1)),
                row.eq(Mux(last, order.params, row + 1)),
                first.eq(last),
                last.eq(Mux(last, order.words == 1, word + 1 == final)),
            ]

        depth = 1 << ceil_log2(longest_row(config) + HIDDEN)
        put, get, level = Signal(range(depth)), Signal(range(depth)), Signal(range(depth + 1))
        m.d.sync += [
            level.eq(level + self.residual.en - go),
            reader.room.eq(level < depth - _RESERVE),
            put.eq(put + push),
            get.eq(get + go),
        ]
        data, position = [], 0
        for memory in banks(m, "ring", width=VALUE.width * config.array.outputs, depth=depth):
            write, read = memory.write_port(), memory.read_port()
            width = len(write.data)
            m.d.comb += [
                write.en.eq(push),
                write.addr.eq(put),
                write.data.eq(words[position : position + width]),
                read.en.eq(go),
                read.addr.eq(get),
            ]
            position += width
            data.append(read.data)
        m.d.comb += apply.word.as_value().eq(Cat(*data))
