"""Images in and predictions out on a board, with NumPy alone; other formats where Pillow is."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from moevit.hw.formats import ImageFormat, Output
from moevit.quant.unshuffle import unshuffle

__all__ = ["load_image", "paint", "write_png"]


def load_image(path: Path, form: ImageFormat) -> Any:
    """An image as ``(height, width, channels)`` uint8: ``.npy``, or what Pillow reads.

    Pillow scales it to the size that the program wants. ``ValueError`` for anything else.
    """
    shape = (form.height, form.width, form.channels)
    if path.suffix == ".npy":
        image = np.load(path, allow_pickle=False)
    else:
        try:
            from PIL import Image, ImageOps
        except ImportError:
            raise ValueError(f"{path}: without Pillow, only .npy of {shape} uint8") from None
        with Image.open(path) as picture:
            mode = "RGB" if form.channels == 3 else "L"
            upright: Image.Image = picture
            with contextlib.suppress(Exception):  # broken EXIF: as it lies
                upright = ImageOps.exif_transpose(picture)
            image = np.asarray(upright.convert(mode).resize((form.width, form.height)))
        image = image.reshape(shape)
    if image.shape != shape or image.dtype != np.uint8:
        raise ValueError(f"{path}: is {image.shape} {image.dtype}, expected {shape} uint8")
    return image


def paint(output: Any, about: Output) -> Any:
    """A picture of a head's integers, ``(H, W, 3)`` uint8; None where the task has no head.

    One channel in grey from its least to its greatest value, three as they are over their range,
    more by the colour of the strongest channel.
    """
    if not about.channels:
        return None
    planes = unshuffle(
        np.asarray(output),
        channels=about.channels,
        upscale=about.upscale,
        scale=about.scale,
        grid=about.grid,
    )
    if about.channels in (1, 3):
        low, high = float(planes.min()), float(planes.max())
        grey = (planes - low) * (255.0 / max(high - low, 1e-12))
        return np.broadcast_to(np.moveaxis(grey, 0, -1), (*planes.shape[1:], 3)).astype(np.uint8)
    strongest = planes.argmax(axis=0)
    colours = np.random.default_rng(0).integers(32, 256, (about.channels, 3), dtype=np.uint8)
    return colours[strongest]


def write_png(path: Path, image: Any) -> None:
    """``(H, W, 3)`` uint8 as PNG (ISO/IEC 15948)."""
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = image.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + chunk(b"IEND", b"")
    )
