"""Signatures and payloads that the engines share."""

from __future__ import annotations

from amaranth.hdl import signed, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from .config import BEAT_BYTES, AcceleratorConfig
from .isa import ADDRESS_BITS, SEMAPHORE_BITS, SEMAPHORES

__all__ = [
    "ID_BITS",
    "POINTER_BITS",
    "ActivationWrite",
    "AxiRead",
    "AxiWrite",
    "ChannelParams",
    "GiveSignature",
    "ReadPort",
    "TakeSignature",
    "activation_write",
    "param_row",
    "residual_word",
]

POINTER_BITS = 20
"""Free-running row counters of the rings (row n lives at n modulo the ring's rows)."""

ChannelParams = StructLayout(
    {"bias": signed(32), "mult": unsigned(16), "shift": unsigned(8), "pad": unsigned(8)}
)
"""One channel's parameters, as in memory (hw/image.py)."""


def param_row(config: AcceleratorConfig) -> ArrayLayout:
    """``outputs`` channels' parameters."""
    return ArrayLayout(ChannelParams, config.array.outputs)


def residual_word(config: AcceleratorConfig) -> ArrayLayout:
    """``outputs`` residual values."""
    return ArrayLayout(signed(16), config.array.outputs)


def activation_write(config: AcceleratorConfig) -> StructLayout:
    """A write to the activation memory: ``mask`` selects pieces of ``config.piece_bytes``."""
    return StructLayout(
        {
            "addr": unsigned(ADDRESS_BITS),
            "mask": unsigned(config.array.inputs // config.piece_bytes),
            "data": ArrayLayout(unsigned(8), config.array.inputs),
        }
    )


def ActivationWrite(config: AcceleratorConfig) -> stream.Signature:  # noqa: N802 (a signature)
    """Stream of :func:`activation_write`."""
    return stream.Signature(activation_write(config))


def ReadPort(depth_bits: int, shape: object) -> Signature:  # noqa: N802 (a signature)
    """Synchronous read, seen from the reader: ``data`` belongs to the ``addr`` of the last ``en``
    cycle."""
    return Signature({"en": Out(1), "addr": Out(depth_bits), "data": In(shape)})


TakeSignature = Signature(
    {
        "valid": Out(1),
        "id": Out(ceil_log2(SEMAPHORES)),
        "count": Out(SEMAPHORE_BITS),
        "ready": In(1),
    }
)
"""``count`` credits of semaphore ``id`` are taken in the cycle in which valid and ready are both
1."""

GiveSignature = Signature(
    {"valid": Out(1), "id": Out(ceil_log2(SEMAPHORES)), "count": Out(SEMAPHORE_BITS)}
)
"""``count`` credits are given in each cycle in which valid is 1; never blocks."""

ID_BITS = 2
"""Read IDs: on every port 0 is the weight stream and 1 FETCH; on port 0 also 2, instructions, and
3, LOAD."""

AxiRead = Signature(
    {
        "arid": Out(ID_BITS),
        "araddr": Out(32),
        "arlen": Out(8),
        "arvalid": Out(1),
        "arready": In(1),
        "rid": In(ID_BITS),
        "rdata": In(8 * BEAT_BYTES),
        "rresp": In(2),
        "rlast": In(1),
        "rvalid": In(1),
        "rready": Out(1),
    }
)
"""AXI4 read master: INCR bursts of 16-byte beats (arsize, arburst are constants at the top)."""

AxiWrite = Signature(
    {
        "awid": Out(1),
        "awaddr": Out(32),
        "awlen": Out(8),
        "awvalid": Out(1),
        "awready": In(1),
        "wdata": Out(8 * BEAT_BYTES),
        "wstrb": Out(BEAT_BYTES),
        "wlast": Out(1),
        "wvalid": Out(1),
        "wready": In(1),
        "bid": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
    }
)
"""AXI4 write master, like :data:`AxiRead`."""
