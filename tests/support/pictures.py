"""Image files as somebody might send them."""

import io

import numpy as np
from PIL import Image

__all__ = ["picture"]


def picture(size: tuple[int, int] = (50, 40), form: str = "png") -> bytes:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(file, form)
    return file.getvalue()
