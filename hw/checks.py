"""CRC-32 of what a program has in memory, and the form of code that carries it.

The polynomial is that of IEEE 802.3, bits and bytes least significant first. A check is the CRC
register itself, without the final inversion of zlib: so a block that ends with its own check leaves
the register at 0, and the register after a block is a linear function of the register before it
and of the block (``hw/lib/crc.py``).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

__all__ = [
    "CHECK_BYTES",
    "CODE_GROUP",
    "START",
    "check_offset",
    "code_bytes",
    "crc32",
    "decode_code",
    "encode_code",
    "instruction_check",
    "instruction_offset",
]

START = 0xFFFF_FFFF
"""The register in front of a block."""
CHECK_BYTES = 4
CODE_GROUP = 4
"""Instructions whose checks share the beat in front of them."""

_INSTRUCTION_BYTES = 32
_CHECKS_BYTES = CODE_GROUP * CHECK_BYTES
_GROUP_BYTES = _CHECKS_BYTES + CODE_GROUP * _INSTRUCTION_BYTES
_ONES = 0xFFFF_FFFF


def crc32(data: bytes | memoryview, register: int = START) -> int:
    """The register after ``data``."""
    return zlib.crc32(data, register ^ _ONES) ^ _ONES


def code_bytes(count: int) -> int:
    """Bytes of ``count`` instructions in memory, with their checks."""
    return count * _INSTRUCTION_BYTES + -(-count // CODE_GROUP) * _CHECKS_BYTES


def instruction_offset(n: int) -> int:
    """Where instruction ``n`` begins, from the first byte of the code."""
    group, place = divmod(n, CODE_GROUP)
    return group * _GROUP_BYTES + _CHECKS_BYTES + place * _INSTRUCTION_BYTES


def instruction_check(word: bytes, n: int) -> int:
    """Of instruction ``n``: its CRC exclusive-or its number, so that none passes for another."""
    return crc32(word) ^ n


def check_offset(n: int) -> int:
    """Where the check of instruction ``n`` lies."""
    group, place = divmod(n, CODE_GROUP)
    return group * _GROUP_BYTES + place * CHECK_BYTES


def encode_code(words: Sequence[bytes]) -> bytes:
    """Instructions of 32 bytes in groups of :data:`CODE_GROUP`: a beat of checks, then the words.

    The last group is as long as its instructions.
    """
    out = bytearray()
    for first in range(0, len(words), CODE_GROUP):
        group = words[first : first + CODE_GROUP]
        checks = b"".join(
            instruction_check(word, n).to_bytes(CHECK_BYTES, "little")
            for n, word in enumerate(group, start=first)
        )
        out += checks.ljust(_CHECKS_BYTES, b"\0") + b"".join(group)
    return bytes(out)


def decode_code(data: bytes, count: int) -> list[tuple[bytes, bool]]:
    """The ``count`` instructions in ``data``, and of each whether its check is right.

    Raises ``ValueError`` if ``data`` is shorter than :func:`code_bytes`.
    """
    if len(data) < code_bytes(count):
        raise ValueError(f"{count} instructions need {code_bytes(count)} bytes, not {len(data)}")
    found = []
    for n in range(count):
        at = instruction_offset(n)
        word = data[at : at + _INSTRUCTION_BYTES]
        start = check_offset(n)
        check = int.from_bytes(data[start : start + CHECK_BYTES], "little")
        found.append((word, check == instruction_check(word, n)))
    return found
