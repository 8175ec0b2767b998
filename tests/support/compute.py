"""The compute engine with its memories, without weight, norm and data engines: a unit to test."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from moevit.hw.compute import gate, softmax
from moevit.hw.compute.array import ComputeArray
from moevit.hw.compute.epilogue import Epilogue
from moevit.hw.compute.loader import Loader
from moevit.hw.config import AcceleratorConfig
from moevit.hw.control.semaphore import Semaphores
from moevit.hw.interfaces import POINTER_BITS, ActivationWrite, ReadPort, param_row, residual_word
from moevit.hw.isa import ADDRESS_BITS, INSTRUCTION_BYTES
from moevit.hw.memories import Activations, KeyValues, Residual
from moevit.hw.transfer.load import residual_write

__all__ = ["ComputeEngine"]


class ComputeEngine(Component):
    """Loader, array, epilogue, softmax and gate unit, wired as in hw/core.py.

    Activations and residuals are written and read from outside; weights and parameters come over
    read ports with ``filled`` saying how many rows of the ring are there.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.loader, self.array = Loader(config), ComputeArray(config)
        self.epilogue, self.softmax = Epilogue(config), softmax.Softmax(config)
        self.gate = gate.Gate(config)
        self.activations, self.residual = Activations(config), Residual(config)
        self.kv = KeyValues(config)
        self.semaphores = Semaphores(givers=2, takers=1)
        super().__init__(
            {
                "i": In(stream.Signature(8 * INSTRUCTION_BYTES)),
                "a_write": In(ActivationWrite(config)),
                "x_write": In(stream.Signature(residual_write(config))),
                "a_read": In(ReadPort(ADDRESS_BITS, unsigned(8 * config.array.inputs))),
                "x_read": In(ReadPort(ADDRESS_BITS, residual_word(config))),
                "rows": Out(ReadPort(len(self.array.rows.addr), unsigned(8 * config.row_bytes))),
                "params": Out(ReadPort(len(self.epilogue.params.addr), param_row(config))),
                "ring_filled": In(POINTER_BITS),
                "ring_released": Out(POINTER_BITS),
                "param_released": Out(POINTER_BITS),
                "lengths": Out(ArrayLayout(unsigned(13), config.limits.experts)),
                "busy": Out(1),
                "fault": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lo, ar, ep, sm, ga = self.loader, self.array, self.epilogue, self.softmax, self.gate
        for name in (
            "loader", "array", "epilogue", "softmax", "gate", "activations", "residual", "kv",
            "semaphores",
        ):  # fmt: skip
            m.submodules[name] = getattr(self, name)
        for name in ("i", "a_write", "x_write"):
            target = {"i": lo.i, "a_write": self.activations.writes[2]}.get(name)
            connect(m, flipped(getattr(self, name)), target or self.residual.writes[1])
        connect(m, flipped(self.a_read), self.activations.reads[1])
        connect(m, flipped(self.x_read), self.residual.reads[2])
        connect(m, lo.o, ar.i)
        connect(m, ar.drain, ep.i)
        connect(m, lo.a, self.activations.reads[0])
        connect(m, ar.kv, self.kv.read)
        connect(m, ep.x, self.residual.reads[0])
        connect(m, ep.x_write, self.residual.writes[0])
        connect(m, ep.a, self.activations.writes[0])
        connect(m, sm.rows, ep.scales)
        connect(m, ar.score, sm.i)
        connect(m, ep.give, self.semaphores.give[0])
        connect(m, lo.take, self.semaphores.take[0])
        m.d.comb += [
            self.semaphores.give[1].valid.eq(ga.done & (ep.gate_signal != 0)),
            self.semaphores.give[1].id.eq(ep.gate_signal),
            self.semaphores.give[1].count.eq(1),
            ar.write_en.eq(lo.write_en),
            ar.write_row.eq(lo.write_row),
            ar.write_half.eq(lo.write_half),
            ar.write_word.eq(lo.write_word),
            ar.write_data.eq(lo.a.data),
            lo.half_released.eq(ar.half_released),
            ep.tile_valid.eq(ar.tile_valid),
            ep.tile.eq(ar.tile),
            ar.tile_ready.eq(ep.tile_ready),
            self.kv.en.eq(ep.kv_en),
            self.kv.addr.eq(ep.kv_addr),
            self.kv.group.eq(ep.kv_group),
            self.kv.data.eq(ep.kv_data),
            sm.weights.en.eq(ar.attention.en),
            sm.weights.addr.eq(ar.attention.addr),
            ar.attention.data.eq(sm.weights.data),
            ar.attention_ready.eq(sm.ready),
            ar.attention_half.eq(sm.half),
            sm.release.eq(ar.attention_release),
            ga.i.valid.eq(ep.gate.valid),
            ep.gate.ready.eq(ga.i.ready),
            ga.queue.en.eq(lo.queue.en),
            ga.queue.addr.eq(lo.queue.addr),
            lo.queue.data.eq(ga.queue.data),
            lo.lengths.eq(ga.lengths),
            self.lengths.eq(ga.lengths),
            self.rows.en.eq(ar.rows.en),
            self.rows.addr.eq(ar.rows.addr),
            ar.rows.data.eq(self.rows.data),
            self.params.en.eq(ep.params.en),
            self.params.addr.eq(ep.params.addr),
            ep.params.data.eq(self.params.data),
            ar.ring_filled.eq(self.ring_filled),
            self.ring_released.eq(ar.ring_released),
            self.param_released.eq(ep.param_released),
            self.busy.eq(Cat(u.busy for u in (lo, ar, ep, sm, ga)).any()),
        ]
        for name in ep.gate.payload.shape().members:
            m.d.comb += getattr(ga.i.payload, name).eq(getattr(ep.gate.payload, name))
        fault = Signal(4)
        m.d.comb += fault.eq(Mux(lo.fault != 0, lo.fault, Mux(ar.fault != 0, ar.fault, ep.fault)))
        with m.If(self.fault == 0):
            m.d.sync += self.fault.eq(fault)
        return m
