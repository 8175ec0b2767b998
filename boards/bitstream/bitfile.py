"""Vivado's ``.bit`` and the ``.bit.bin`` that Linux's fpga-manager loads.

A ``.bit`` file is a header of tagged fields, each a letter and a length, and then the words for
the configuration port with the most significant byte first; the kernel's driver wants these words
with the least significant byte first, and no header.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Bitfile", "parse", "to_bin"]

_MAGIC = bytes.fromhex("0009 0ff0 0ff0 0ff0 0ff0 00 0001")
_SYNC = bytes.fromhex("aa995566")


@dataclass(frozen=True)
class Bitfile:
    """``design``, ``part``, ``date``, ``time``: as the header has them; ``data``: the words."""

    design: str
    part: str
    date: str
    time: str
    data: bytes


def parse(data: bytes) -> Bitfile:
    """A ``.bit`` file's parts; raises ``ValueError`` saying what is wrong."""
    if not data.startswith(_MAGIC):
        raise ValueError("is no bitstream of Vivado: its header is another")
    at, fields = len(_MAGIC), {}
    for tag in "abcd":
        if data[at : at + 1] != tag.encode() or at + 3 > len(data):
            raise ValueError(f"is no bitstream of Vivado: field {tag!r} is missing")
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        fields[tag] = data[at + 3 : at + 3 + length].rstrip(b"\0").decode("ascii", "replace")
        at += 3 + length
    if data[at : at + 1] != b"e":
        raise ValueError("is no bitstream of Vivado: field 'e' is missing")
    length = int.from_bytes(data[at + 1 : at + 5], "big")
    words = data[at + 5 :]
    if length != len(words) or length % 4:
        raise ValueError(f"is cut short: {len(words)} bytes of {length}")
    if _SYNC not in words[:4096]:
        raise ValueError("holds no configuration: the synchronisation word is missing")
    return Bitfile(fields["a"], fields["b"], fields["c"], fields["d"], words)


def to_bin(data: bytes) -> bytes:
    """The ``.bit.bin`` of a ``.bit``."""
    return np.frombuffer(parse(data).data, dtype=">u4").astype("<u4").tobytes()
