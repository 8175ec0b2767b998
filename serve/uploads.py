"""What comes over the network, checked as on the command line."""

from __future__ import annotations

import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from moevit.images import load_image
from moevit.model.config import ModelConfig
from moevit.quant.errors import UserError
from moevit.quant.typing import Bytes

__all__ = ["ARRAY", "LIMIT", "pixels", "png"]

LIMIT = 32 << 20
"""Bytes of an upload at most."""

ARRAY = "application/x-npy"
"""Media type of an array of the model's own size, as ``numpy.save`` writes it."""


def pixels(body: bytes, media: str, config: ModelConfig) -> Bytes:
    """An upload as the model's ``(height, width, 3)`` uint8: a picture of any size, or an array.

    Raises
    ------
    UserError
        Saying what the upload is and what was expected.
    """
    if not body:
        raise UserError("upload: is empty; expected an image")
    if media.split(";")[0].strip() == ARRAY:
        return _array(body, config)
    height, width = config.image
    with tempfile.TemporaryDirectory(prefix="moevit-upload-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(body)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes, which a server has nobody to tell
                return load_image(path, height=height, width=width, config=config)
        except UserError as error:
            raise UserError(str(error).replace(str(path), "upload")) from None


def _array(body: bytes, config: ModelConfig) -> Bytes:
    shape = (*config.image, 3)
    try:
        found = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"upload: is no array of numpy.save: {error}") from None
    if found.shape != shape or found.dtype != np.uint8:
        raise UserError(f"upload: is {found.shape} {found.dtype}, expected {shape} uint8")
    array: Bytes = np.ascontiguousarray(found)
    return array


def png(image: Bytes) -> bytes:
    """``(H, W, 3)`` uint8 as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", compress_level=3)
    return file.getvalue()
