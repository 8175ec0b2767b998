"""The compute engine: everything that computes, from operands to values, wired together."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, ResetInserter
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import AcceleratorConfig
from ..interfaces import (
    INSTRUCTION,
    POINTER_BITS,
    SENT_BITS,
    ActivationRead,
    ActivationWrite,
    GiveSignature,
    KeyValueWrite,
    Lengths,
    ReadPort,
    ResidualRead,
    ResidualWrite,
    TakeSignature,
    dial,
    load_beat,
    param_address,
    param_row,
    row_address,
    weight_row,
)
from ..isa import ADDRESS_BITS, Norm
from ..lib.component import Component
from ..registers import Error
from .array import ComputeArray
from .epilogue import Epilogue
from .gate import Gate
from .loader import Loader
from .norm import NormEngine
from .softmax import Softmax
from .step_issue import STALLS

__all__ = ["ComputeEngine"]


class ComputeEngine(Component):
    """Loader, array, epilogue, softmax and gate, which share GEMM, ATTENTION and SYNC; and norm.

    Members
    -------
    i, take, give, gate_give
        Their instructions and semaphores; the gate gives when the queues are filled.
    norm, norm_take, norm_give, norm_load
        Instructions, semaphores and parameters of the norm engine.
    activations_read, activations : Out
        Always granted; never refused.
    norm_activations : Out(ActivationWrite)
        May stall.
    residual_read, norm_read, residual : Out
        Always granted; never refused.
    kv_read, kv : Out
    rows, params : Out(ReadPort)
        Weight and parameter rows of the rings, whose pointers are ``*_filled`` and ``*_released``.
    lengths, tokens_sent : Out
        Of the expert queues.
    clean : In
        Between two frames: the expert queues are cleared.
    dial : In
        Of the frame, as it is from its first instruction to its end.
    stepped, stall_* : Out
        What the array does: one of them is 1 in each cycle.
    loaded, normalised, skipped : Out
        A tile of operands, a word of the norm engine, a GEMM without tokens.
    loading, gating, attending, busy, fault : Out
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(INSTRUCTION),
                "take": Out(TakeSignature),
                "give": Out(GiveSignature),
                "gate_give": Out(GiveSignature),
                "norm": In(stream.Signature(Norm.layout())),
                "norm_take": Out(TakeSignature),
                "norm_give": Out(GiveSignature),
                "norm_load": In(stream.Signature(load_beat(config))),
                "activations_read": Out(ActivationRead(config)),
                "activations": Out(ActivationWrite(config)),
                "norm_activations": Out(ActivationWrite(config)),
                "residual_read": Out(ResidualRead(config)),
                "norm_read": Out(ResidualRead(config)),
                "residual": Out(ResidualWrite(config)),
                "kv_read": Out(ReadPort(ADDRESS_BITS, weight_row(config))),
                "kv": Out(KeyValueWrite(config)),
                "rows": Out(ReadPort(row_address(config), weight_row(config))),
                "params": Out(ReadPort(param_address(config), param_row(config))),
                "ring_filled": In(POINTER_BITS),
                "ring_released": Out(POINTER_BITS),
                "demand_filled": In(POINTER_BITS),
                "demand_released": Out(POINTER_BITS),
                "param_released": Out(POINTER_BITS),
                "demand_param_released": Out(POINTER_BITS),
                "lengths": Out(Lengths(config)),
                "tokens_sent": Out(ArrayLayout(SENT_BITS, config.limits.experts)),
                "clean": In(1),
                "dial": In(dial),
                "stepped": Out(1),
                **{f"stall_{reason}": Out(1) for reason in STALLS},
                "loaded": Out(1),
                "normalised": Out(1),
                "skipped": Out(1),
                "loading": Out(1),
                "gating": Out(1),
                "attending": Out(1),
                "busy": Out(1),
                "fault": Out(Error),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.loader = loader = Loader(config)
        m.submodules.array = array = ComputeArray(config)
        m.submodules.epilogue = epilogue = Epilogue(config)
        m.submodules.softmax = softmax = Softmax(config)
        gate = Gate(config)
        m.submodules.gate = ResetInserter(self.clean)(gate)
        m.submodules.norm = norm = NormEngine(config)

        for outer, inner in (
            (self.i, loader.i),
            (self.take, loader.take),
            (self.activations_read, loader.activations),
            (self.rows, array.rows),
            (self.kv_read, array.kv),
            (self.params, epilogue.params),
            (self.activations, epilogue.activations),
            (self.residual_read, epilogue.residual_read),
            (self.residual, epilogue.residual),
            (self.kv, epilogue.kv),
            (self.give, epilogue.give),
            (self.norm, norm.i),
            (self.norm_take, norm.take),
            (self.norm_give, norm.give),
            (self.norm_load, norm.load),
            (self.norm_read, norm.residual),
            (self.norm_activations, norm.o),
        ):
            connect(m, flipped(outer), inner)
        connect(m, loader.o, array.i)
        connect(m, loader.operands, array.operands)
        connect(m, loader.queue, gate.queue)
        connect(m, array.drain, epilogue.i)
        connect(m, array.score, softmax.i)
        connect(m, array.attention, softmax.weights)
        connect(m, softmax.rows, epilogue.scales)
        connect(m, epilogue.gate, gate.i)
        m.d.comb += [
            loader.half_released.eq(array.half_released),
            loader.lengths.eq(gate.lengths),
            gate.dial.eq(self.dial),
            epilogue.tile_valid.eq(array.tile_valid),
            epilogue.tile.eq(array.tile),
            array.tile_ready.eq(epilogue.tile_ready),
            array.ring_filled.eq(self.ring_filled),
            array.demand_filled.eq(self.demand_filled),
            self.ring_released.eq(array.ring_released),
            self.demand_released.eq(array.demand_released),
            self.param_released.eq(epilogue.param_released),
            self.demand_param_released.eq(epilogue.demand_param_released),
            self.lengths.eq(gate.lengths),
            self.tokens_sent.eq(gate.tokens_sent),
            self.gate_give.valid.eq(gate.done & (epilogue.gate_signal != 0)),
            self.gate_give.id.eq(epilogue.gate_signal),
            self.gate_give.count.eq(1),
        ]

        parts = (loader, array, epilogue, softmax, gate, norm)
        m.d.comb += [
            self.stepped.eq(array.stepped),
            *(
                getattr(self, f"stall_{reason}").eq(getattr(array, f"stall_{reason}"))
                for reason in STALLS
            ),
            self.loaded.eq(loader.o.valid & loader.o.ready),
            self.normalised.eq(norm.o.valid & norm.o.ready),
            self.skipped.eq(loader.skipped),
            self.loading.eq(loader.busy),
            self.gating.eq(gate.busy),
            self.attending.eq(softmax.busy),
            self.busy.eq(Cat(part.busy for part in parts).any()),
        ]
        for part in (loader, array, epilogue, norm):
            with m.If(part.fault != Error.NONE):
                m.d.comb += self.fault.eq(part.fault)
        return m
