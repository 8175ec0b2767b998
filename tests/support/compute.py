"""The compute engine with its memories, without weight and data engines: a unit to test."""

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from moevit.hw.compute.engine import ComputeEngine
from moevit.hw.config import AcceleratorConfig
from moevit.hw.control.semaphore import Semaphores
from moevit.hw.interfaces import (
    INSTRUCTION,
    POINTER_BITS,
    ActivationRead,
    ActivationWrite,
    Lengths,
    ReadPort,
    ResidualRead,
    ResidualWrite,
    param_address,
    param_row,
    row_address,
    weight_row,
)
from moevit.hw.memories import Activations, KeyValues, Residual

__all__ = ["ComputeBench"]


class ComputeBench(Component):
    """Activations and residuals are written and read from outside; weights and parameters come over
    read ports, with ``filled`` saying how many rows of the ring are there. The norm engine is idle.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(INSTRUCTION),
                "a_write": In(ActivationWrite(config)),
                "x_write": In(ResidualWrite(config)),
                "a_read": In(ActivationRead(config)),
                "x_read": In(ResidualRead(config)),
                "rows": Out(ReadPort(row_address(config), weight_row(config))),
                "params": Out(ReadPort(param_address(config), param_row(config))),
                "ring_filled": In(POINTER_BITS),
                "ring_released": Out(POINTER_BITS),
                "param_released": Out(POINTER_BITS),
                "lengths": Out(Lengths(config)),
                "busy": Out(1),
                "fault": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.engine = engine = ComputeEngine(config)
        m.submodules.activations = activations = Activations(config)
        m.submodules.residual = residual = Residual(config)
        m.submodules.kv = kv = KeyValues(config)
        m.submodules.semaphores = semaphores = Semaphores(givers=2, takers=1)
        for outer, inner in (
            (self.i, engine.i),
            (self.rows, engine.rows),
            (self.params, engine.params),
            (self.a_write, activations.writes[2]),
            (self.a_read, activations.reads[1]),
            (self.x_write, residual.writes[1]),
            (self.x_read, residual.reads[2]),
        ):
            connect(m, flipped(outer), inner)
        for master, port in (
            (engine.activations, activations.writes[0]),
            (engine.norm_activations, activations.writes[1]),
            (engine.activations_read, activations.reads[0]),
            (engine.residual, residual.writes[0]),
            (engine.residual_read, residual.reads[0]),
            (engine.norm_read, residual.reads[1]),
            (engine.kv, kv.write),
            (engine.kv_read, kv.read),
            (engine.give, semaphores.give[0]),
            (engine.gate_give, semaphores.give[1]),
            (engine.take, semaphores.take[0]),
        ):
            connect(m, master, port)
        m.d.comb += [
            engine.ring_filled.eq(self.ring_filled),
            self.ring_released.eq(engine.ring_released),
            self.param_released.eq(engine.param_released),
            self.lengths.eq(engine.lengths),
            self.busy.eq(engine.busy),
        ]
        with m.If(self.fault == 0):
            m.d.sync += self.fault.eq(engine.fault)
        return m
