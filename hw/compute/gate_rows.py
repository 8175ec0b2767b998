"""The way of router logits from the epilogue to the gate: a queue whose places are reserved."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import AcceleratorConfig
from ..interfaces import gate_row
from ..lib.component import Component
from ..lib.queue import SmallFifo

__all__ = ["GateRows"]

_DEPTH = 16


class GateRows(Component):
    """Rows of logits wait here for the gate.

    Members
    -------
    reserve : In
        A row enters the epilogue that will come here; not while ``full``.
    i : In(stream of gate_row)
        It comes; never refused.
    o : Out(stream of gate_row)
    full, empty : Out
        No place is left, or one at most; none is taken or reserved.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "reserve": In(1),
                "i": In(stream.Signature(gate_row(config))),
                "o": Out(stream.Signature(gate_row(config))),
                "full": Out(1),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = SmallFifo(gate_row(self._config), _DEPTH)
        connect(m, flipped(self.i), queue.i)
        connect(m, queue.o, flipped(self.o))
        room = Signal(range(_DEPTH + 1), init=_DEPTH)
        m.d.sync += [
            self.full.eq(room <= 1),
            room.eq(room - self.reserve + (self.o.valid & self.o.ready)),
        ]
        m.d.comb += self.empty.eq(room == _DEPTH)
        return m
