"""The other row of sums that becomes bytes in the same cycle: the epilogue's second lane."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import ACTIVATION

from ..config import AcceleratorConfig
from ..interfaces import finished_tiles, param_row, row_scales
from ..isa import Gemm
from ..lib.component import Component
from ..lib.pipeline import Pipeline
from .activation import Activate
from .descriptors import issued_row
from .narrow import ToBytes
from .requantise import Requantise

__all__ = ["SecondRow"]


class SecondRow(Component):
    """Requantises, activates and narrows the row beside the one that is issued.

    Latency: that of the three parts. Throughput: one row a cycle. It cannot be stalled.

    Members
    -------
    valid, row, tiles, odd, attention, scales, params : In
        As of :class:`Requantise`; ``row`` says which other row enters, if one does.
    ahead : In
        The parameters of the next output tile are asked for.
    mode, mult, shift, zero_point : In
        Of the row that entered ``Requantise.latency`` cycles ago.
    bytes : Out
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "row": In(issued_row(config)),
                "tiles": In(finished_tiles(config)),
                "odd": In(1),
                "attention": In(1),
                "scales": In(row_scales(config)),
                "params": In(param_row(config)),
                "ahead": In(1),
                "mode": In(Gemm.shape("mode")),
                "mult": In(Gemm.shape("mult")),
                "shift": In(Gemm.shape("shift")),
                "zero_point": In(Gemm.shape("zero_point")),
                "bytes": Out(ArrayLayout(ACTIVATION.width, config.array.outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.requantise = requantise = Requantise(self._config)
        m.submodules.activate = activate = Activate(self._config)
        m.submodules.to_bytes = to_bytes = ToBytes(self._config)
        row = self.row
        answered, next_otile = Signal(), Signal()
        kept: Any = Signal(param_row(self._config), reset_less=True)
        m.d.sync += [answered.eq(self.ahead), next_otile.eq(row.next_otile)]
        with m.If(answered):
            m.d.sync += kept.eq(self.params)
        m.d.comb += [
            requantise.valid.eq(self.valid & (row.next_row | row.next_otile)),
            requantise.tiles.eq(self.tiles),
            requantise.odd.eq(self.odd ^ row.next_otile),
            requantise.slot.eq(row.slot + row.next_row),
            requantise.attention.eq(self.attention),
            requantise.scales.eq(self.scales),
            requantise.params.eq(Mux(next_otile, kept.as_value(), self.params.as_value())),
        ]
        p = Pipeline(m, valid=requantise.valid)
        p.delay(Requantise.latency)
        p.add(mode=self.mode, shift=self.shift, zero_point=self.zero_point)
        p.add(values=requantise.values)
        m.d.comb += [
            activate.valid.eq(p.valid),
            activate.mode.eq(self.mode),
            activate.values.eq(requantise.values),
            activate.mult.eq(self.mult),
        ]
        p.delay(Activate.latency)
        m.d.comb += [
            to_bytes.valid.eq(p.valid),
            to_bytes.mode.eq(p.tag["mode"]),
            to_bytes.values.as_value().eq(p.tag["values"]),
            to_bytes.products.eq(activate.products),
            to_bytes.shift.eq(p.tag["shift"]),
            to_bytes.zero_point.eq(p.tag["zero_point"].as_signed()),
            self.bytes.as_value().eq(to_bytes.bytes.as_value()),
        ]
        return m
