"""One memory for the accelerator's port and the serial link."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from moevit.hw.config import BEAT_BYTES
from moevit.hw.interfaces import ID_BITS, AxiRead, AxiWrite
from moevit.hw.lib.component import Component
from moevit.hw.lib.queue import SmallFifo

from .sdram import ADDRESS_BITS, access

__all__ = ["MemoryPort"]

_UNDER_WAY = 8
"""Beats that can be asked for and not come yet."""

_owner = StructLayout({"link": 1, "id": ID_BITS, "last": 1})


class MemoryPort(Component):
    """Beats of the AXI port's bursts and of the link, one after the other.

    A read burst goes before a write burst, the link before both between two of their beats; a burst
    that has begun ends before the next of the port begins. The link answers no read while another
    of its own is under way. Addresses beyond the memory wrap.

    Members
    -------
    axi, axi_write : In(AxiRead), In(AxiWrite)
        The accelerator's port 0. It takes every beat of data at once.
    link : In(stream of access)
    link_valid, data : Out
        A beat that the link has read; the data, which are also the port's.
    memory : Out(stream of access)
    read_valid, read_data : In
        Beats read, in order.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "axi": In(AxiRead),
                "axi_write": In(AxiWrite),
                "link": In(stream.Signature(access)),
                "link_valid": Out(1),
                "data": Out(8 * BEAT_BYTES),
                "memory": Out(stream.Signature(access)),
                "read_valid": In(1),
                "read_data": In(8 * BEAT_BYTES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.owners = owners = SmallFifo(_owner, _UNDER_WAY)
        m.submodules.out = out = SmallFifo(access, 2)
        read, write, memory = self.axi, self.axi_write, out.i
        low = BEAT_BYTES.bit_length() - 1

        reading, writing = Signal(), Signal()
        address, left = Signal(ADDRESS_BITS), Signal(8)
        number, write_number = Signal(ID_BITS), Signal.like(write.awid)
        answering = Signal()
        idle = ~reading & ~writing
        m.d.comb += [
            read.arready.eq(idle),
            write.awready.eq(idle & ~read.arvalid & ~answering),
        ]
        with m.If(read.arvalid & read.arready):
            m.d.sync += [
                reading.eq(1),
                address.eq(read.araddr[low:]),
                left.eq(read.arlen),
                number.eq(read.arid),
            ]
        with m.Elif(write.awvalid & write.awready):
            m.d.sync += [
                writing.eq(1),
                address.eq(write.awaddr[low:]),
                write_number.eq(write.awid),
            ]

        takes = Signal()  # a beat that is read has a place among those under way
        m.d.comb += takes.eq(owners.i.ready)
        m.d.comb += [
            self.link.ready.eq(memory.ready & takes),
            memory.payload.eq(self.link.payload),
            memory.valid.eq(self.link.valid & takes),
            owners.i.valid.eq(self.link.valid & memory.ready & ~self.link.payload.write),
            owners.i.payload.link.eq(1),
        ]
        with m.If(~self.link.valid):
            m.d.comb += [
                memory.payload.address.eq(address),
                memory.payload.write.eq(writing),
                memory.payload.data.eq(write.wdata),
                memory.payload.mask.eq(write.wstrb),
                memory.valid.eq((reading & takes) | (writing & write.wvalid)),
                owners.i.valid.eq(reading & memory.ready),
                owners.i.payload.link.eq(0),
                owners.i.payload.id.eq(number),
                owners.i.payload.last.eq(left == 0),
                write.wready.eq(writing & memory.ready),
            ]
            with m.If(memory.valid & memory.ready):
                m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
                with m.If(reading & (left == 0)):
                    m.d.sync += reading.eq(0)
                with m.If(writing & write.wlast):
                    m.d.sync += [writing.eq(0), answering.eq(1)]
        with m.If(answering & write.bready):
            m.d.sync += answering.eq(0)

        # What was written is in memory before anything that is asked for later.
        owner = owners.o.payload
        m.d.comb += [
            write.bvalid.eq(answering),
            write.bid.eq(write_number),
            owners.o.ready.eq(self.read_valid),
            self.data.eq(self.read_data),
            self.link_valid.eq(self.read_valid & owner.link),
            read.rvalid.eq(self.read_valid & ~owner.link),
            read.rdata.eq(self.read_data),
            read.rid.eq(owner.id),
            read.rlast.eq(owner.last),
            self.memory.valid.eq(out.o.valid),
            self.memory.payload.eq(out.o.payload),
            out.o.ready.eq(self.memory.ready),
        ]
        return m
