"""One memory port for two masters: read addresses take turns, beats go back by their ID."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from ..interfaces import AxiRead
from ..lib.component import Component

__all__ = ["Share"]


class Share(Component):
    """Merges two read masters; the upper bit of the port's ID names the master.

    A master is one that takes every beat in the cycle in which it comes (:class:`bursts.Reader`
    asks only for what it has room for), so neither can hold up the other's beats, in whatever order
    the memory answers. Who issued last yields, so neither can hold up the other's addresses.

    Latency is a cycle for addresses and none for data; an address a cycle, a beat a cycle.

    Members
    -------
    masters:
        In(AxiRead).array(2). IDs 0 and 1 of each; ``rready`` has to be 1 always.
    axi:
        Out(AxiRead). IDs 0 and 1 are those of master 0, 2 and 3 those of master 1.
    """

    def __init__(self) -> None:
        super().__init__({"masters": In(AxiRead).array(2), "axi": Out(AxiRead)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, masters = self.axi, self.masters
        chosen, last, free = Signal(), Signal(), Signal()
        wanting = Cat(master.arvalid for master in masters)
        m.d.comb += [
            free.eq(~axi.arvalid | axi.arready),
            chosen.eq(Mux(wanting.all(), ~last, masters[1].arvalid)),
            axi.rready.eq(1),
        ]
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        for n, master in enumerate(masters):
            m.d.comb += [
                master.arready.eq(free & (chosen == n)),
                master.rid.eq(axi.rid[:1]),
                master.rdata.eq(axi.rdata),
                master.rresp.eq(axi.rresp),
                master.rlast.eq(axi.rlast),
                master.rvalid.eq(axi.rvalid & (axi.rid[1] == n)),
            ]
            with m.If(master.arvalid & master.arready):
                m.d.sync += [
                    axi.arvalid.eq(1),
                    axi.arid.eq(Cat(master.arid[0], n == 1)),
                    axi.araddr.eq(master.araddr),
                    axi.arlen.eq(master.arlen),
                    last.eq(n),
                ]
        return m
