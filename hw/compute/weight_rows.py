"""Which row of the weight rings is multiplied next, and from which on they are still needed."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..interfaces import POINTER_BITS, row_address
from ..lib.component import Component

__all__ = ["WeightRows"]

_RINGS = ("ring", "demand")


class WeightRows(Component):
    """Free-running row numbers of the weight ring and of the demand ring.

    A GEMM's block of rows is gone through once for each tile of tokens, and released with the last
    tile's steps, unless it is kept. The block of an expert without tokens is stepped over as a
    whole, once it is complete; in the demand ring there is none then.

    Members
    -------
    demand, keep, last, block : In
        Of the tile at the front: its ring, whether its block is kept, whether it is the last of its
        instruction, and the rows of its block.
    step, end : In
        The row is used; it is the tile's last.
    skipping : In
        The front is an expert without tokens.
    skip : In
        Its block is stepped over; only while ``skippable``.
    ready, skippable : Out
        The row is there; the block is complete.
    address : Out
    filled, released
        Pointers of the two rings.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "demand": In(1),
                "keep": In(1),
                "last": In(1),
                "block": In(POINTER_BITS),
                "step": In(1),
                "end": In(1),
                "skipping": In(1),
                "skip": In(1),
                "ready": Out(1),
                "skippable": Out(1),
                "address": Out(row_address(config)),
                "filled": In(POINTER_BITS).array(2),
                "released": Out(POINTER_BITS).array(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # `row` runs, `base` is the start of the block.
        row = [Signal(POINTER_BITS, name=f"row_{n}") for n in _RINGS]
        base = [Signal(POINTER_BITS, name=f"base_{n}") for n in _RINGS]
        has_row = [Signal(name=f"has_row_{n}") for n in _RINGS]
        after, last_use = Signal(POINTER_BITS), self.last & ~self.keep
        the_row = Mux(self.demand, row[1], row[0])
        m.d.comb += [
            after.eq(the_row + 1),
            self.ready.eq(Mux(self.demand, has_row[1], has_row[0])),
            self.address.row.eq(the_row),
            self.address.demand.eq(self.demand),
        ]
        for n in range(2):
            use = Signal(name=f"use_{_RINGS[n]}")
            m.d.comb += use.eq(self.step & (self.demand == n))
            # Where a block begins again, its rows are there: one that seems to be missing now, the
            # one behind the block, is not asked for in the next cycle but one.
            m.d.sync += has_row[n].eq((self.filled[n] != Mux(use, after, row[n])) & ~self.skipping)
            with m.If(use):
                m.d.sync += row[n].eq(after)
                with m.If(last_use):
                    m.d.sync += self.released[n].eq(after)
                with m.If(self.end & last_use):
                    m.d.sync += base[n].eq(after)
                with m.Elif(self.end):
                    m.d.sync += row[n].eq(base[n])

        there, end = Signal(POINTER_BITS), Signal(POINTER_BITS)
        looked, complete = Signal(), Signal()
        m.d.comb += [
            there.eq(self.filled[0] - base[0]),
            end.eq(base[0] + self.block),
            self.skippable.eq(looked & (self.demand | complete)),
        ]
        with m.If(self.skipping):
            m.d.sync += [looked.eq(~self.skip), complete.eq(there >= self.block)]
            with m.If(self.skip & ~self.demand & ~self.keep):
                m.d.sync += [base[0].eq(end), row[0].eq(end), self.released[0].eq(end)]
        return m
