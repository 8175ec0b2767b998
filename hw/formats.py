"""What a program says of its images and results in memory, to those who run it.

A driver on a board uses this file as it is: it needs Python 3.10 and NumPy, and nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ALL", "FORMAT", "UNSEALED", "ImageFormat", "Output", "check_seal", "seal"]

ALL = "all"
"""Names the program of all tasks of one picture, beside the tasks' own."""

FORMAT = "moevit-program-2"
"""Names the file format; a file that says anything else is refused."""

UNSEALED = "0" * 64
"""In place of a file's SHA-256 while it is computed: the metadata entry ``sha256``."""


def seal(data: bytes) -> bytes:
    """A file whose metadata says :data:`UNSEALED`, with the SHA-256 of all its bytes instead."""
    if data.count(UNSEALED.encode()) != 1:
        raise ValueError("the file has no single place for its SHA-256")
    return data.replace(UNSEALED.encode(), hashlib.sha256(data).hexdigest().encode())


def check_seal(data: bytes, digest: object) -> None:
    """``ValueError`` unless ``digest`` is what :func:`seal` wrote into ``data``."""
    if not isinstance(digest, str) or len(digest) != len(UNSEALED):
        raise ValueError(f"sha256 is {digest!r}, expected {len(UNSEALED)} hexadecimal digits")
    unsealed = data.replace(digest.encode(), UNSEALED.encode(), 1)
    if hashlib.sha256(unsealed).hexdigest() != digest:
        raise ValueError("the file is damaged: its SHA-256 is not the one in its metadata")


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """An interleaved uint8 image in memory: ``pitch`` bytes from one pixel row to the next.

    A pixel row is runs of ``patch`` pixels, one a patch, each ``patch_bytes`` behind the one
    before: further than they are long where the device writes larger pieces. 0: without gaps.
    """

    height: int
    width: int
    channels: int
    pitch: int
    patch: int = 0
    patch_bytes: int = 0

    @property
    def gaps(self) -> bool:
        """Whether there is room between the patches of a pixel row."""
        return self.patch_bytes > self.patch * self.channels

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return self.height * self.pitch

    def pack(self, image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """An image ``(height, width, channels)`` uint8 as ``size`` bytes."""
        image = np.asarray(image)
        shape = (self.height, self.width, self.channels)
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(
                f"Image must be {shape} uint8 (height, width, channels), "
                f"not {image.shape} {image.dtype}"
            )
        patch = self.patch or self.width
        patches, used = self.width // patch, patch * self.channels
        step = self.patch_bytes or used
        rows = np.zeros((self.height, self.pitch), np.uint8)
        runs = rows[:, : patches * step].reshape(self.height, patches, step)
        runs[:, :, :used] = image.reshape(self.height, patches, used)
        return rows.reshape(-1)


@dataclass(frozen=True, kw_only=True)
class Output:
    """A task's result in memory: ``rows`` of ``columns`` integers, rows ``pitch`` bytes apart.

    With a head: a row a place of ``grid`` (down, across) in raster order, column ``c*s*s + dy*s +
    dx`` for ``channels`` planes of ``s x s`` sub-pixels (``upscale`` is s), and ``scale`` makes
    floats of them. Without (``channels`` 0): the network's tokens.
    """

    address: int
    rows: int
    columns: int
    item_bytes: int
    pitch: int
    scale: float
    channels: int
    upscale: int
    grid: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))  # a list in JSON

    @property
    def size(self) -> int:
        """Bytes that the device writes."""
        return self.rows * self.pitch

    def unpack(self, data: Any) -> np.ndarray[Any, np.dtype[Any]]:
        """``(rows, columns)`` int16 (or int8) from the ``size`` bytes at ``address``."""
        raw = np.frombuffer(bytes(data), np.uint8)
        if len(raw) != self.size:
            raise ValueError(f"The output has {self.size} bytes, not {len(raw)}")
        rows = raw.reshape(self.rows, self.pitch)[:, : self.columns * self.item_bytes]
        values: np.ndarray[Any, Any] = np.ascontiguousarray(rows).view(f"<i{self.item_bytes}")
        return values.reshape(self.rows, self.columns)
