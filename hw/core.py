"""The engines of the accelerator, their memories and their queues: all that a reset clears."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, View
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from .compute import gate, norm, softmax
from .compute.array import ComputeArray
from .compute.epilogue import Epilogue
from .compute.loader import Loader
from .config import AcceleratorConfig
from .control.semaphore import Semaphores
from .control.sequencer import QUEUES, code_word
from .interfaces import AxiRead, AxiWrite
from .isa import INSTRUCTION_BYTES, Fetch, Load, Norm, Store
from .lib.queue import SmallFifo
from .memories import Activations, KeyValues, Residual
from .registers import Counter
from .transfer import data, weights
from .transfer.port_share import Share

__all__ = ["QUEUE_DEPTH", "Core"]

QUEUE_DEPTH = 16
"""Instructions that can wait in front of each engine."""


class Core(Component):
    """Everything between the sequencer and the memory ports.

    Members
    -------
    load, store, norm, compute, fetch : In(stream of 256 bits)
        Instructions from the sequencer.
    code : Out(stream of code_word)
        Instructions from memory.
    axi : Out(AxiRead) x ports. The data engine shares port 0 with the weight engine.
    axi_write : Out(AxiWrite), of port 0
    counts : Out
        Increment of each performance counter (regs.Counter) in the cycle before.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        word = stream.Signature(8 * INSTRUCTION_BYTES)
        super().__init__(
            {
                **{name: In(word) for name in QUEUES},
                "code": Out(stream.Signature(code_word)),
                "code_start": In(1),
                "code_address": In(32),
                "code_count": In(32),
                "header_start": In(1),
                "header_valid": Out(1),
                "header_data": Out(512),
                "stream_start": In(1),
                "stream_base": In(32),
                "stream_beats": In(32),
                "program": In(32),
                "image": In(32),
                "output": In(32),
                "cancel": In(1),
                "quiet": Out(1),
                "busy": Out(1),
                "progress": Out(1),
                "fault": Out(4),
                "axi": Out(AxiRead).array(config.memory.ports),
                "axi_write": Out(AxiWrite),
                "counts": Out(ArrayLayout(4, len(Counter))),
                "experts": Out(ArrayLayout(16, config.limits.experts)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.loader = loader = Loader(config)
        m.submodules.array = array = ComputeArray(config)
        m.submodules.epilogue = epilogue = Epilogue(config)
        m.submodules.softmax = attention = softmax.Softmax(config)
        m.submodules.gate = router = gate.Gate(config)
        m.submodules.norm = layernorm = norm.NormEngine(config)
        m.submodules.weights = weight = weights.WeightEngine(config)
        m.submodules.data = mover = data.DataEngine(config)
        m.submodules.activations = activations = Activations(config)
        m.submodules.residual = residual = Residual(config)
        m.submodules.kv = kv = KeyValues(config)
        m.submodules.semaphores = semaphores = Semaphores(givers=6, takers=5)

        # Instruction queues ------------------------------------------------------------------
        waiting = []
        for name, target, layout in (
            ("load", mover.load, Load.layout()),
            ("store", mover.store, Store.layout()),
            ("norm", layernorm.i, Norm.layout()),
            ("compute", loader.i, None),
            ("fetch", weight.i, Fetch.layout()),
        ):
            queue = SmallFifo(8 * INSTRUCTION_BYTES, QUEUE_DEPTH)
            m.submodules[f"{name}_queue"] = queue
            connect(m, flipped(getattr(self, name)), queue.i)
            payload: Any = queue.o.payload if layout is None else View(layout, queue.o.payload)
            m.d.comb += [
                target.valid.eq(queue.o.valid),
                target.payload.eq(payload),
                queue.o.ready.eq(target.ready),
            ]
            waiting.append(queue.o.valid)

        # Semaphores --------------------------------------------------------------------------
        for port, giver in zip(
            semaphores.give,
            (epilogue.give, layernorm.give, mover.load_give, mover.store_give, weight.give),
            strict=False,
        ):
            connect(m, giver, port)
        m.d.comb += [
            semaphores.give[5].valid.eq(router.done & (epilogue.gate_signal != 0)),
            semaphores.give[5].id.eq(epilogue.gate_signal),
            semaphores.give[5].count.eq(1),
        ]
        for port, taker in zip(
            semaphores.take,
            (loader.take, layernorm.take, mover.load_take, mover.store_take, weight.take),
            strict=True,
        ):
            connect(m, taker, port)

        # Compute engine ----------------------------------------------------------------------
        connect(m, loader.o, array.i)
        connect(m, array.drain, epilogue.i)
        connect(m, loader.a, activations.reads[0])
        connect(m, array.kv, kv.read)
        connect(m, epilogue.x, residual.reads[0])
        connect(m, epilogue.x_write, residual.writes[0])
        connect(m, epilogue.a, activations.writes[0])
        connect(m, attention.rows, epilogue.scales)
        m.d.comb += [
            array.write_en.eq(loader.write_en),
            array.write_row.eq(loader.write_row),
            array.write_half.eq(loader.write_half),
            array.write_word.eq(loader.write_word),
            array.write_data.eq(loader.a.data),
            loader.half_released.eq(array.half_released),
            epilogue.tile_valid.eq(array.tile_valid),
            epilogue.tile.eq(array.tile),
            array.tile_ready.eq(epilogue.tile_ready),
            kv.en.eq(epilogue.kv_en),
            kv.addr.eq(epilogue.kv_addr),
            kv.group.eq(epilogue.kv_group),
            kv.data.eq(epilogue.kv_data),
        ]
        # Weights.
        m.d.comb += [
            weight.rows.en.eq(array.rows.en),
            weight.rows.addr.eq(array.rows.addr),
            array.rows.data.eq(weight.rows.data),
            weight.params.en.eq(epilogue.params.en),
            weight.params.addr.eq(epilogue.params.addr),
            epilogue.params.data.eq(weight.params.data),
            array.ring_filled.eq(weight.ring_filled),
            array.demand_filled.eq(weight.demand_filled),
            weight.ring_released.eq(array.ring_released),
            weight.demand_released.eq(array.demand_released),
            weight.param_released.eq(epilogue.param_released),
            weight.demand_param_released.eq(epilogue.demand_param_released),
            weight.lengths.eq(router.lengths),
            weight.program.eq(self.program),
            weight.start.eq(self.stream_start),
            weight.base.eq(self.stream_base),
            weight.beats.eq(self.stream_beats),
            weight.loading.eq(mover.loading),
            weight.abort.eq(self.cancel),
        ]
        for outer, inner in zip(self.axi[1:], weight.axi[1:], strict=True):
            connect(m, flipped(outer), inner)
        m.submodules.share = share = Share()
        connect(m, weight.axi[0], share.masters[0])
        connect(m, mover.axi_r, share.masters[1])
        connect(m, share.axi, flipped(self.axi[0]))
        # Softmax.
        connect(m, array.score, attention.i)
        m.d.comb += [
            attention.weights.en.eq(array.attention.en),
            attention.weights.addr.eq(array.attention.addr),
            array.attention.data.eq(attention.weights.data),
            array.attention_ready.eq(attention.ready),
            array.attention_half.eq(attention.half),
            attention.release.eq(array.attention_release),
        ]
        # Router.
        m.d.comb += [
            router.i.valid.eq(epilogue.gate.valid),
            epilogue.gate.ready.eq(router.i.ready),
            *(
                getattr(router.i.payload, name).eq(getattr(epilogue.gate.payload, name))
                for name in epilogue.gate.payload.shape().members
            ),
            router.queue.en.eq(loader.queue.en),
            router.queue.addr.eq(loader.queue.addr),
            loader.queue.data.eq(router.queue.data),
            loader.lengths.eq(router.lengths),
            self.experts.eq(router.tokens_sent),
        ]

        # Norm and data engines ---------------------------------------------------------------
        connect(m, layernorm.x, residual.reads[1])
        connect(m, layernorm.o, activations.writes[1])
        connect(m, mover.norm, layernorm.load)
        connect(m, mover.a_write, activations.writes[2])
        connect(m, mover.x_write, residual.writes[1])
        connect(m, mover.a_read, activations.reads[1])
        connect(m, mover.x_read, residual.reads[2])
        connect(m, flipped(self.axi_write), mover.axi_w)
        # The sequencer's answer depends on the instruction and on every engine's queue.
        m.submodules.code_queue = code = SmallFifo(code_word, 2)
        connect(m, mover.code_o, code.i)
        connect(m, code.o, flipped(self.code))
        m.d.comb += [
            mover.a_grant.eq(activations.grant),
            mover.x_grant.eq(residual.grant),
            mover.program.eq(self.program),
            mover.image.eq(self.image),
            mover.output.eq(self.output),
            mover.code.start.eq(self.code_start),
            mover.code.address.eq(self.code_address),
            mover.code.count.eq(self.code_count),
            mover.header_start.eq(self.header_start),
            self.header_valid.eq(mover.header_valid),
            self.header_data.eq(mover.header_data),
            mover.abort.eq(self.cancel),
        ]

        # Supervision -------------------------------------------------------------------------
        engines = (loader, array, epilogue, attention, router, layernorm, weight)
        faults = [e.fault for e in (*engines, mover) if hasattr(e, "fault")]
        with m.If(self.fault == 0):
            for fault in faults:
                with m.If(fault != 0):
                    m.d.sync += self.fault.eq(fault)
        # Registers: what the sequencer is told in the next cycle is early enough.
        m.d.sync += [
            self.busy.eq(
                Cat(*waiting, *(e.busy for e in engines), mover.load_busy, mover.store_busy).any()
            ),
            self.quiet.eq(weight.quiet & mover.quiet),
        ]
        m.d.sync += self.progress.eq(
            array.stepped
            | (weight.beats_read != 0)
            | (mover.axi_r.rvalid & mover.axi_r.rready)
            | (mover.axi_w.wvalid & mover.axi_w.wready)
            | (layernorm.o.valid & layernorm.o.ready)
            | (loader.o.valid & loader.o.ready)
        )
        no_work = array.stall_operand & ~loader.busy & ~waiting[3]
        counts = {
            Counter.CYCLES: 1,
            Counter.ARRAY_BUSY: array.stepped,
            Counter.STALL_OPERAND: array.stall_operand & ~no_work,
            Counter.STALL_WEIGHT: array.stall_weight,
            Counter.STALL_DRAIN: array.stall_drain,
            Counter.STALL_SOFTMAX: array.stall_softmax,
            Counter.NO_WORK: no_work,
            Counter.NORM_BUSY: layernorm.o.valid & layernorm.o.ready,
            Counter.GATE_BUSY: router.busy,
            Counter.SOFTMAX_BUSY: attention.busy,
            Counter.DATA_READ_BEATS: mover.axi_r.rvalid & mover.axi_r.rready,
            Counter.DATA_WRITE_BEATS: mover.axi_w.wvalid & mover.axi_w.wready,
            Counter.WEIGHT_BEATS: weight.beats_read,
            Counter.DEMAND_BEATS: weight.demand_read,
            Counter.MISSES: weight.misses,
            Counter.EMPTY_QUEUES: loader.skipped,
        }
        for counter, increment in counts.items():
            m.d.sync += self.counts[int(counter)].eq(increment)
        return m
