"""The reading side of an AXI4 master that two requesters share: jobs in, bursts out, beats back."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..config import BEAT_BYTES, AcceleratorConfig
from ..interfaces import AxiRead
from ..lib.component import Component

__all__ = ["Job", "Reader", "longest"]

Job = StructLayout({"address": unsigned(32), "beats": unsigned(32)})
"""Consecutive beats from a byte address that is a multiple of 16; its low bits are ignored."""

_OPEN_BURSTS = 63
"""Bursts of one requester that may be in flight."""


def longest(config: AcceleratorConfig) -> int:
    """Beats of a long burst: four fill a landing buffer, but no more than 64."""
    return min(64, config.memory.landing_beats // 4)


class Reader(Component):
    """Reads linear jobs as bursts that end at multiples of their size, so that none crosses 4 KiB.

    A burst is issued only when its requester has room for all its beats beyond those already on
    their way, and the beats are therefore taken as soon as they come: neither requester can block
    the other. A requester's bursts are two cycles apart or more; a new job is accepted once the
    last burst of the one before has been issued, without waiting for its data.

    Parameters
    ----------
    burst:
        Largest burst of each requester in beats, a power of two up to 256.
    capacity:
        Beats of room of each requester; ``None`` where the requester needs no credit.
    first:
        Requester (and AXI ID) that goes first when both have a burst to issue.

    Members
    -------
    jobs:
        In(stream of :data:`Job`).array(2), for AXI IDs 0 and 1.
    freed:
        In(1).array(2). A beat has left the requester's landing place.
    cancel:
        In(1).array(2). Gives the job up: nothing more is issued, arriving beats are dropped, and
        the room is whole again once ``idle``. To be held until then.
    hold:
        In(1).array(2). No new burst while 1; those issued go on.
    valid, data:
        Out(1).array(2), Out(128). A beat for a requester, one cycle after its handshake.
    idle:
        Out(1).array(2). No job and nothing in flight (the last beat may be in ``data``).
    error:
        Out(1). A beat had an error response; held.
    axi:
        Out(AxiRead).

    Raises
    ------
    ValueError
        If a burst is no power of two up to 256, or a capacity is smaller than a burst.
    """

    def __init__(
        self, *, burst: tuple[int, int], capacity: tuple[int | None, int | None], first: int
    ) -> None:
        for beats, room in zip(burst, capacity, strict=True):
            if beats < 1 or beats > 256 or beats & (beats - 1):
                raise ValueError(f"Burst must be a power of two up to 256 beats, not {beats!r}")
            if room is not None and room < beats:
                raise ValueError(f"Capacity must be at least a burst of {beats} beats, not {room}")
        if first not in (0, 1):
            raise ValueError(f"The requester that goes first is 0 or 1, not {first!r}")
        self._burst, self._capacity, self._first = burst, capacity, first
        super().__init__(
            {
                "jobs": In(stream.Signature(Job)).array(2),
                "freed": In(1).array(2),
                "cancel": In(1).array(2),
                "hold": In(1).array(2),
                "valid": Out(1).array(2),
                "data": Out(8 * BEAT_BYTES),
                "idle": Out(1).array(2),
                "error": Out(1),
                "axi": Out(AxiRead),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        slot = Signal()  # the address channel takes a new burst in this cycle
        m.d.comb += [slot.eq(~axi.arvalid | axi.arready), axi.rready.eq(1)]
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        wanted: list[Signal] = []
        for k in (self._first, 1 - self._first):
            job, cancel, burst = self.jobs[k], self.cancel[k], self._burst[k]
            address = Signal(32 - ceil_log2(BEAT_BYTES), name=f"address{k}")  # in beats
            left = Signal(32, name=f"left{k}")
            active = Signal(name=f"active{k}")  # left != 0
            length = Signal(range(burst + 1), name=f"length{k}")
            measured = Signal(name=f"measured{k}")  # length belongs to address and left
            opened = Signal(range(_OPEN_BURSTS + 1), name=f"opened{k}")
            want, grant, ended = (Signal(name=f"{n}{k}") for n in ("want", "grant", "ended"))

            m.d.comb += [
                job.ready.eq(~active & ~cancel),
                self.idle[k].eq(~active & (opened == 0)),
                grant.eq(want & slot & ~Cat(wanted).any()),
                ended.eq(axi.rvalid & axi.rlast & (axi.rid == k)),
            ]
            fits: Value = Const(1)
            if (capacity := self._capacity[k]) is not None:
                room = Signal(range(capacity + 1), init=capacity, name=f"room{k}")
                fits = room >= length
                m.d.sync += room.eq(room + self.freed[k] - Mux(grant, length, 0))
                with m.If(cancel & self.idle[k]):
                    m.d.sync += room.eq(capacity)
            m.d.comb += want.eq(
                measured & fits & (opened != _OPEN_BURSTS) & ~cancel & ~self.hold[k]
            )
            wanted.append(want)

            edge = Signal(range(burst + 1), name=f"edge{k}")  # beats up to a multiple of the burst
            m.d.comb += edge.eq(burst - address[: ceil_log2(burst)])
            with m.If(active & ~measured):
                m.d.sync += [length.eq(Mux(left < edge, left, edge)), measured.eq(1)]
            with m.If(grant):
                m.d.sync += [
                    axi.arvalid.eq(1),
                    axi.arid.eq(k),
                    axi.araddr.eq(Cat(Const(0, ceil_log2(BEAT_BYTES)), address)),
                    axi.arlen.eq(length - 1),
                    address.eq(address + length),
                    left.eq(left - length),
                    active.eq(left != length),
                    measured.eq(0),
                ]
            with m.If(job.valid & job.ready):
                m.d.sync += [
                    address.eq(job.payload.address[ceil_log2(BEAT_BYTES) :]),
                    left.eq(job.payload.beats),
                    active.eq(job.payload.beats != 0),
                ]
            with m.If(cancel):
                m.d.sync += [active.eq(0), measured.eq(0)]

            arrives = axi.rvalid & (axi.rid == k) & ~cancel
            m.d.sync += [self.valid[k].eq(arrives), opened.eq(opened + grant - ended)]
            with m.If(arrives & axi.rresp[1]):
                m.d.sync += self.error.eq(1)
        m.d.sync += self.data.eq(axi.rdata)
        return m
