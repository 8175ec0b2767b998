"""The engines of the accelerator, their memories and their queues: all that a reset clears."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, ResetInserter, Value
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, View
from amaranth.lib.wiring import In, Out, connect, flipped

from .compute.engine import ComputeEngine
from .config import AcceleratorConfig
from .control.semaphore import Semaphores
from .control.sequencer import QUEUES
from .interfaces import INSTRUCTION, SENT_BITS, AxiRead, AxiWrite, code_word, damage_place, dial
from .isa import INSTRUCTION_BYTES, Fetch, Load, Norm, Store
from .lib.component import Component
from .lib.queue import SmallFifo
from .memories import Activations, KeyValues, Residual
from .registers import Counter, Error
from .transfer.data import DataEngine
from .transfer.port_share import Share
from .transfer.weights import WeightEngine

__all__ = ["QUEUE_DEPTH", "Core"]

QUEUE_DEPTH = 16
"""Instructions that can wait in front of each engine."""

_CODE_AHEAD = 2
"""Instructions between the prefetcher and the sequencer, whose answer depends on the instruction
and on every engine's queue."""


class Core(Component):
    """Everything between the sequencer and the memory ports.

    Members
    -------
    load, store, norm, compute, fetch : In(stream of 256 bits)
        Instructions from the sequencer.
    code : Out(stream of code_word)
        Instructions from memory.
    axi : Out(AxiRead) x ports. The data engine shares the first two with the weight engine.
    axi_write : Out(AxiWrite), of port 0
    clean : In
        Between two frames, when nothing is busy but streams: credits and router queues are cleared.
    between : In
        What is streamed belongs to the next frame.
    fault, place : Out
        Error code of an engine, held; which block of a program it found damaged.
    busy, stream_busy : Out
        Anything unfinished but weight streams; one of these.
    counts : Out
        Increment of each performance counter (regs.Counter) in the cycle before.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                **{name: In(INSTRUCTION) for name in QUEUES},
                "code": Out(stream.Signature(code_word)),
                "code_start": In(1),
                "code_address": In(32),
                "code_count": In(32),
                "header_start": In(1),
                "header_address": In(32),
                "header_valid": Out(1),
                "header_data": Out(512),
                "header_damaged": Out(1),
                "stream_start": In(1),
                "stream_ready": Out(1),
                "stream_base": In(32),
                "stream_beats": In(32),
                "program": In(32),
                "image": In(32),
                "output": In(32),
                "dial": In(dial),
                "clean": In(1),
                "between": In(1),
                "cancel": In(1),
                "quiet": Out(1),
                "busy": Out(1),
                "stream_busy": Out(1),
                "progress": Out(1),
                "fault": Out(Error),
                "place": Out(damage_place),
                "axi": Out(AxiRead).array(config.memory.ports),
                "axi_write": Out(AxiWrite),
                "counts": Out(ArrayLayout(4, len(Counter))),
                "experts": Out(ArrayLayout(SENT_BITS, config.limits.experts)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.compute = compute = ComputeEngine(config)
        m.submodules.weights = weights = WeightEngine(config)
        m.submodules.data_engine = data = DataEngine(config)
        waiting = self._queues(
            m,
            load=(data.load, Load.layout()),
            store=(data.store, Store.layout()),
            norm=(compute.norm, Norm.layout()),
            compute=(compute.i, None),
            fetch=(weights.i, Fetch.layout()),
        )
        self._semaphores(m, compute, data, weights)
        self._memories(m, compute, data)
        self._weights(m, compute, data, weights)
        self._data(m, data)
        m.d.comb += [self.experts.eq(compute.tokens_sent), compute.clean.eq(self.clean)]
        m.d.comb += compute.dial.eq(self.dial)

        with m.If(self.fault == Error.NONE):
            for engine, place in ((compute, 0), (weights, weights.place), (data, data.place)):
                with m.If(engine.fault != Error.NONE):
                    m.d.sync += [self.fault.eq(engine.fault), self.place.eq(place)]
        # Registers: what the sequencer is told in the next cycle is early enough.
        read = Cat(axi.rvalid & axi.rready for axi in data.axi_r)
        written = data.axi_w.wvalid & data.axi_w.wready
        m.d.sync += [
            self.busy.eq(
                Cat(
                    *waiting.values(), compute.busy, weights.busy, data.load_busy, data.store_busy
                ).any()
            ),
            self.stream_busy.eq(weights.stream_busy),
            self.quiet.eq(weights.quiet & data.quiet),
            self.progress.eq(
                compute.stepped
                | (weights.beats_read != 0)
                | read.any()
                | written
                | compute.normalised
                | compute.loaded
            ),
        ]
        no_work = compute.stall_operand & ~compute.loading & ~waiting["compute"]
        counts: dict[Counter, Any] = {
            Counter.CYCLES: 1,
            Counter.ARRAY_BUSY: compute.stepped,
            Counter.STALL_OPERAND: compute.stall_operand & ~no_work,
            Counter.STALL_WEIGHT: compute.stall_weight,
            Counter.STALL_DRAIN: compute.stall_drain,
            Counter.STALL_SOFTMAX: compute.stall_softmax,
            Counter.NO_WORK: no_work,
            Counter.NORM_BUSY: compute.normalised,
            Counter.GATE_BUSY: compute.gating,
            Counter.SOFTMAX_BUSY: compute.attending,
            Counter.DATA_READ_BEATS: sum(read, Const(0)),
            Counter.DATA_WRITE_BEATS: written,
            Counter.WEIGHT_BEATS: weights.beats_read,
            Counter.DEMAND_BEATS: weights.demand_read,
            Counter.MISSES: weights.misses,
            Counter.EMPTY_QUEUES: compute.skipped,
        }
        m.d.sync += [self.counts[int(n)].eq(increment) for n, increment in counts.items()]
        return m

    def _queues(self, m: Module, **targets: tuple[Any, Any]) -> dict[str, Value]:
        """Instruction queues in front of the engines; what says that something waits in each."""
        waiting = {}
        for name, (target, layout) in targets.items():
            queue = SmallFifo(8 * INSTRUCTION_BYTES, QUEUE_DEPTH)
            m.submodules[f"{name}_queue"] = queue
            connect(m, flipped(getattr(self, name)), queue.i)
            payload: Any = queue.o.payload if layout is None else View(layout, queue.o.payload)
            m.d.comb += [
                target.valid.eq(queue.o.valid),
                target.payload.eq(payload),
                queue.o.ready.eq(target.ready),
            ]
            waiting[name] = queue.o.valid
        return waiting

    def _semaphores(
        self, m: Module, compute: ComputeEngine, data: DataEngine, weights: WeightEngine
    ) -> None:
        givers = (
            compute.give,
            compute.norm_give,
            data.load_give,
            data.store_give,
            weights.give,
            compute.gate_give,
        )
        takers = (
            compute.take,
            compute.norm_take,
            data.load_take,
            data.store_take,
            weights.take,
        )
        semaphores = Semaphores(givers=len(givers), takers=len(takers))
        m.submodules.semaphores = ResetInserter(self.clean)(semaphores)
        for port, giver in zip(semaphores.give, givers, strict=True):
            connect(m, giver, port)
        for port, taker in zip(semaphores.take, takers, strict=True):
            connect(m, taker, port)

    def _memories(self, m: Module, compute: ComputeEngine, data: DataEngine) -> None:
        m.submodules.activations = activations = Activations(self._config)
        m.submodules.residual = residual = Residual(self._config)
        m.submodules.kv = kv = KeyValues(self._config)
        for master, port in (
            (compute.activations, activations.writes[0]),
            (compute.norm_activations, activations.writes[1]),
            (data.a_write, activations.writes[2]),
            (compute.activations_read, activations.reads[0]),
            (data.a_read, activations.reads[1]),
            (compute.residual, residual.writes[0]),
            (data.x_write, residual.writes[1]),
            (compute.residual_read, residual.reads[0]),
            (compute.norm_read, residual.reads[1]),
            (data.x_read, residual.reads[2]),
            (compute.kv, kv.write),
            (compute.kv_read, kv.read),
            (data.norm, compute.norm_load),
        ):
            connect(m, master, port)
        m.d.comb += [
            data.a_grant.eq(activations.grant),
            data.x_grant.eq(residual.grant),
        ]

    def _weights(
        self, m: Module, compute: ComputeEngine, data: DataEngine, weights: WeightEngine
    ) -> None:
        """Rings to the compute engine; memory ports, the first two shared with the data engine."""
        connect(m, compute.rows, weights.rows)
        connect(m, compute.params, weights.params)
        m.d.comb += [
            compute.ring_filled.eq(weights.ring_filled),
            compute.demand_filled.eq(weights.demand_filled),
            weights.ring_released.eq(compute.ring_released),
            weights.demand_released.eq(compute.demand_released),
            weights.param_released.eq(compute.param_released),
            weights.demand_param_released.eq(compute.demand_param_released),
            weights.lengths.eq(compute.lengths),
            weights.program.eq(self.program),
            weights.start.eq(self.stream_start),
            self.stream_ready.eq(weights.ready),
            weights.base.eq(self.stream_base),
            weights.beats.eq(self.stream_beats),
            weights.loading.eq(data.loading),
            weights.pixels.eq(data.pixels),
            weights.storing.eq(data.axi_w.wvalid),
            weights.between.eq(self.between),
            weights.abort.eq(self.cancel),
        ]
        for n, (outer, inner) in enumerate(zip(self.axi, weights.axi, strict=True)):
            if n < len(data.axi_r):
                m.submodules[f"share_{n}"] = share = Share()
                connect(m, inner, share.masters[0])
                connect(m, data.axi_r[n], share.masters[1])
                connect(m, share.axi, flipped(outer))
            else:
                connect(m, flipped(outer), inner)
        connect(m, flipped(self.axi_write), data.axi_w)

    def _data(self, m: Module, data: DataEngine) -> None:
        """Bases, header and instructions."""
        m.submodules.code_queue = code = SmallFifo(code_word, _CODE_AHEAD)
        connect(m, data.code_o, code.i)
        connect(m, code.o, flipped(self.code))
        m.d.comb += [
            data.program.eq(self.program),
            data.image.eq(self.image),
            data.output.eq(self.output),
            data.code.start.eq(self.code_start),
            data.code.address.eq(self.code_address),
            data.code.count.eq(self.code_count),
            data.header_start.eq(self.header_start),
            data.header_address.eq(self.header_address),
            self.header_valid.eq(data.header_valid),
            self.header_data.eq(data.header_data),
            self.header_damaged.eq(data.header_damaged),
            data.abort.eq(self.cancel),
        ]
