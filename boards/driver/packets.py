"""Packets of the serial link between a host and a board without a processor.

A request is ``magic, operation, sequence, count, address`` (``<BBBBI``), what the operation takes,
and a CRC-32 of all of that; the answer is ``magic, status, sequence, count`` (``<BBBB``), what the
operation gives, and a CRC-32. A beat is 16 bytes. The board does nothing before it has checked a
request, and every request may be sent again: a register is written once for a sequence number. A
pause of :data:`GAP_S` inside a request ends it, so that both sides find together again.

The gateware of the same (``boards/lattice/link.py``) takes its numbers from here.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum

__all__ = [
    "ANSWER",
    "ANSWER_MAGIC",
    "BEAT",
    "GAP_S",
    "MOST_BEATS",
    "REQUEST",
    "REQUEST_MAGIC",
    "VERSION",
    "Operation",
    "Status",
    "sealed",
    "sound",
]

VERSION = 1
REQUEST_MAGIC, ANSWER_MAGIC = 0x4D, 0x52
REQUEST = struct.Struct("<BBBBI")
ANSWER = struct.Struct("<BBBB")
BEAT = 16
MOST_BEATS = 64
"""Of a request; ``count`` is one less."""
GAP_S = 0.002


class Operation(IntEnum):
    """What a host may ask for."""

    HELLO = 0
    """gives 16 bytes: version, clock in Hz, bauds, memory's bytes, each ``<I``; the sequence begins
    anew"""
    READ_REGISTER = 1
    """gives ``<I``"""
    WRITE_REGISTER = 2
    """takes ``<I``"""
    READ = 3
    """gives ``count`` beats of memory from ``address`` on"""
    WRITE = 4
    """takes ``count`` beats"""
    CHECKSUM = 5
    """takes ``<I``, a number of beats; gives the CRC-32 of so many"""
    RESET = 6
    """the accelerator is reset, memory stays"""


class Status(IntEnum):
    """How it went."""

    DONE = 0
    DAMAGED = 1
    """the CRC was wrong; nothing was done"""
    REFUSED = 2
    """the accelerator answered a register access with an error"""
    UNKNOWN = 3


def sealed(packet: bytes) -> bytes:
    """With its CRC-32 behind it."""
    return packet + zlib.crc32(packet).to_bytes(4, "little")


def sound(packet: bytes) -> bool:
    """Whether the last four bytes are the CRC-32 of those before."""
    return zlib.crc32(packet[:-4]).to_bytes(4, "little") == packet[-4:]
