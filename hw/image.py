"""What a program looks like in memory: header, stream blocks and channel parameters, as bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks import CHECK_BYTES, crc32
from .config import BEAT_BYTES, CHANNEL_BYTES, AcceleratorConfig

__all__ = [
    "BLOCK_MAGIC",
    "BLOCK_NUMBERS",
    "HEADER_BYTES",
    "PROGRAM_MAGIC",
    "PROGRAM_VERSION",
    "BlockHeader",
    "ProgramHeader",
    "pack_channels",
    "pack_weights",
    "unpack_channels",
    "unpack_weights",
]

PROGRAM_MAGIC = int.from_bytes(b"MVIT", "little")
PROGRAM_VERSION = 2
BLOCK_MAGIC = int.from_bytes(b"MBLK", "little")
"""The CRC register in front of a block's header, which so needs no room for it."""
BLOCK_NUMBERS = 1 << 15
"""Blocks are numbered modulo this."""
HEADER_BYTES = 64
_HEADER = struct.Struct("<IIQIIII28x")
_BLOCK = struct.Struct("<IHHI")


@dataclass(frozen=True, kw_only=True)
class ProgramHeader:
    """First 64 bytes at the program base; offsets are relative to it and multiples of 64 bytes.

    ``stream_beats``: beats of one port's stream; port p's begins at ``stream_offset + 16 * p *
    stream_beats``.
    """

    config_hash: int
    code_offset: int
    code_count: int
    stream_offset: int
    stream_beats: int
    magic: int = PROGRAM_MAGIC
    version: int = PROGRAM_VERSION

    def encode(self) -> bytes:
        """64 bytes: magic u32, version u32, hash u64, code offset, count, stream offset, beats
        (u32), 28 bytes of 0, the CRC of all that (u32)."""
        data = _HEADER.pack(
            self.magic,
            self.version,
            self.config_hash,
            self.code_offset,
            self.code_count,
            self.stream_offset,
            self.stream_beats,
        )
        return data + crc32(data).to_bytes(CHECK_BYTES, "little")

    @classmethod
    def decode(cls, data: bytes) -> ProgramHeader:
        """Inverse of :meth:`encode`; raises ``ValueError`` for a wrong length, magic, version or
        CRC."""
        if len(data) < HEADER_BYTES:
            raise ValueError(f"Program header has {HEADER_BYTES} bytes, not {len(data)}")
        magic, version, config, code, count, stream, beats = _HEADER.unpack(
            data[: HEADER_BYTES - CHECK_BYTES]
        )
        if magic != PROGRAM_MAGIC:
            raise ValueError(
                f"Program header: magic is {magic:#010x}, expected {PROGRAM_MAGIC:#010x}"
            )
        if version != PROGRAM_VERSION:
            raise ValueError(f"Program header: version is {version}, expected {PROGRAM_VERSION}")
        if crc32(data[:HEADER_BYTES]) != 0:
            raise ValueError("Program header: its CRC is another, so it is damaged")
        return cls(
            config_hash=config,
            code_offset=code,
            code_count=count,
            stream_offset=stream,
            stream_beats=beats,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockHeader:
    """The beat in front of a port's stream block: rows of parameters, then rows of weights.

    ``packed``: the weights have 4 bits, two a byte (:func:`pack_weights`); a row's bytes are half.
    ``number``: of the block in the stream, modulo :data:`BLOCK_NUMBERS`. ``check``: CRC of the
    port's share of the rows.
    """

    param_rows: int
    weight_rows: int
    packed: bool = False
    number: int = 0
    check: int = 0

    def encode(self) -> bytes:
        """One beat: check u32, parameter rows u16, packed and number (1 and 15 bits), weight rows
        u32, the CRC of the three (u32) from :data:`BLOCK_MAGIC` on."""
        flags = self.number << 1 | self.packed
        data = _BLOCK.pack(self.check, self.param_rows, flags, self.weight_rows)
        return data + crc32(data, BLOCK_MAGIC).to_bytes(CHECK_BYTES, "little")

    @classmethod
    def decode(cls, data: bytes) -> BlockHeader:
        """Inverse of :meth:`encode`; raises ``ValueError`` for anything that is none."""
        if len(data) != BEAT_BYTES:
            raise ValueError(f"Block header has {BEAT_BYTES} bytes, not {len(data)}")
        if crc32(data, BLOCK_MAGIC) != 0:
            raise ValueError("Block header: its CRC is another, so it is damaged or none")
        check, param_rows, flags, weight_rows = _BLOCK.unpack(data[:-CHECK_BYTES])
        return cls(
            param_rows=param_rows,
            weight_rows=weight_rows,
            packed=bool(flags & 1),
            number=flags >> 1,
            check=check,
        )

    def beats(self, config: AcceleratorConfig) -> int:
        """Beats of the rows on each port, without the header."""
        weights = self.weight_rows * config.row_beats >> self.packed
        return self.param_rows * config.param_row_beats + weights


def pack_weights(rows: Any) -> np.ndarray:
    """Weights ``(..., n)`` int8 within -8..7 as ``(..., n / 2)`` bytes, two each, low half first.

    Raises ``ValueError`` for a weight that does not fit.
    """
    rows = np.asarray(rows).view(np.int8)
    if rows.size and not -8 <= int(rows.min()) <= int(rows.max()) <= 7:
        raise ValueError(f"4-bit weights must lie in -8..7, found {rows.min()}..{rows.max()}")
    halves = rows.view(np.uint8) & 15
    packed: np.ndarray = halves[..., ::2] | halves[..., 1::2] << 4
    return packed


def unpack_weights(data: Any) -> np.ndarray:
    """Inverse of :func:`pack_weights`: ``(..., n)`` bytes to the bytes of ``(..., 2 n)`` int8."""
    data = np.asarray(data, np.uint8)
    nibbles = np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], -1)
    return (nibbles ^ 8) - np.uint8(8)  # modulo 256: the sign in bit 3 goes to bits 4..7


_CHANNEL = np.dtype([("bias", "<i4"), ("mult", "<u2"), ("shift", "u1"), ("pad", "u1")])


def pack_channels(bias: Any, mult: Any, shift: Any) -> np.ndarray:
    """Channels' parameters ``(N,)`` each to bytes ``(N, 8)``; a norm's signed gain goes into
    ``mult``."""
    out = np.zeros(len(bias), _CHANNEL)
    out["bias"], out["mult"], out["shift"] = bias, np.asarray(mult).astype(np.uint16), shift
    return out.view(np.uint8).reshape(-1, CHANNEL_BYTES)


def unpack_channels(data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inverse of :func:`pack_channels`: bias int64, mult (unsigned) int64, shift int64."""
    raw = np.ascontiguousarray(data, np.uint8).reshape(-1).view(_CHANNEL)
    return raw["bias"].astype(np.int64), raw["mult"].astype(np.int64), raw["shift"].astype(np.int64)
