"""From a picture of any size to the model's pixels, as the model was trained to see them.

How is part of the model's configuration: ``crop_mode``, ``crop_pct``, ``interpolation``. The mode
``cover`` is this project's own; the others are those of timm's evaluation (``timm.data``), with its
rounding, so that an imported model sees there and here the same pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .config import ModelConfig

__all__ = ["prepare", "prepare_array"]

_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
}


def prepare_array(image: NDArray[np.uint8], config: ModelConfig) -> NDArray[np.uint8]:
    """:func:`prepare` of an image ``(H, W, 3)``."""
    return prepare(Image.fromarray(image), config)


def prepare(image: Image.Image, config: ModelConfig) -> NDArray[np.uint8]:
    """An RGB picture as the model's ``(height, width, 3)`` uint8.

    ``cover``: the largest part of the model's shape around the middle. ``center``: the shorter side
    scaled to the model's over ``crop_pct``, the middle cut out. ``squash``: both sides scaled so.
    ``border``: the longer side scaled so, the rest filled with the pixels' mean.
    """
    (height, width), how = config.image, _FILTERS[config.interpolation]
    if config.crop_mode == "cover":
        return _array(ImageOps.fit(image, (width, height), how))
    target = (math.floor(height / config.crop_pct), math.floor(width / config.crop_pct))
    across, down = image.size
    if config.crop_mode == "squash":
        size = (target[1], target[0])
    elif config.crop_mode == "border" or target[0] != target[1]:
        ratios = (down / target[0], across / target[1])
        ratio = max(ratios) if config.crop_mode == "border" else min(ratios)
        size = (round(across / ratio), round(down / ratio))
    else:  # whole numbers cut, not rounded, where the target is square
        short, long = min(across, down), max(across, down)
        other = int(target[0] * long / short)
        size = (target[0], other) if across <= down else (other, target[0])
    if size != image.size:
        image = image.resize(size, how)
    fill: tuple[int, ...] = (0, 0, 0)
    if config.crop_mode == "border":
        fill = tuple(round(255 * value) for value in config.pixel_mean)
    return _array(_centre(image, height, width, fill))


def _centre(image: Image.Image, height: int, width: int, fill: Any) -> Image.Image:
    """The middle of an image, with a border where it is smaller."""
    across, down = image.size
    if across < width or down < height:
        canvas = Image.new("RGB", (max(across, width), max(down, height)), fill)
        canvas.paste(image, (max(width - across, 0) // 2, max(height - down, 0) // 2))
        image, (across, down) = canvas, canvas.size
    left, top = round((across - width) / 2), round((down - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _array(image: Image.Image) -> NDArray[np.uint8]:
    return np.array(image, np.uint8)
