"""From an image of any size to the model's: what part of it, which way round, how large.

Without a view, the largest part of the model's shape around the middle, as
:func:`moevit.images.load_image` does for images to run on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ..tasks import UNKNOWN
from .base import Augmentation, Example

__all__ = ["CENTRE", "View", "fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What of an image is seen: ``zoom`` above 1 shows less of it, larger, and below 1 adds a
    border; ``across`` and ``down`` say where, from 0 (left, top) to 1; ``angle`` in degrees turns
    it counter-clockwise first; ``flip`` swaps left and right last."""

    zoom: float = 1.0
    across: float = 0.5
    down: float = 0.5
    angle: float = 0.0
    flip: bool = False

    @classmethod
    def draw(cls, rng: Generator, how: Augmentation) -> View:
        """A random view; takes equally many numbers from ``rng`` whatever ``how`` says."""
        flip, across, down, zoom, angle = rng.random(5).tolist()
        if how.continuous:
            factor = how.zooms[0] + zoom * (how.zooms[-1] - how.zooms[0])
        else:
            factor = how.zooms[int(zoom * len(how.zooms))]
        turn = how.angle * (2 * angle - 1)
        return cls(zoom=factor, across=across, down=down, angle=turn, flip=flip < 0.5)


CENTRE = View()


def _unknown(kind: str) -> int:
    return 0 if kind in ("depth", "normals") else UNKNOWN


@dataclass(frozen=True, slots=True)
class _Box:
    """The part of an image ``full`` that becomes ``size``: its upper left corner and extent."""

    full: tuple[int, int]
    size: tuple[int, int]
    top: float
    left: float
    height: float
    width: float

    @classmethod
    def of(cls, full: tuple[int, int], size: tuple[int, int], view: View) -> _Box:
        each = min(full[0] / size[0], full[1] / size[1]) / view.zoom  # source pixels a pixel
        height, width = size[0] * each, size[1] * each
        top, left = view.down * (full[0] - height), view.across * (full[1] - width)
        return cls(full, size, top, left, height, width)

    def _nearest(self, axis: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        start, extent = ((self.top, self.height), (self.left, self.width))[axis]
        count, limit = self.size[axis], self.full[axis]
        place = np.floor(start + (np.arange(count) + 0.5) * extent / count).astype(np.intp)
        return place.clip(0, limit - 1), (place >= 0) & (place < limit)

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lanczos resampling; black outside."""
        top, left = max(self.top, 0.0), max(self.left, 0.0)
        bottom = min(self.top + self.height, self.full[0])
        right = min(self.left + self.width, self.full[1])
        scale = self.size[0] / self.height
        y0, x0 = round((top - self.top) * scale), round((left - self.left) * scale)
        y1 = round((bottom - self.top) * scale)
        x1 = round((right - self.left) * scale)
        part = Image.fromarray(image).resize(
            (x1 - x0, y1 - y0), Image.Resampling.LANCZOS, box=(left, top, right, bottom)
        )
        canvas = np.zeros((*self.size, 3), np.uint8)
        canvas[y0:y1, x0:x1] = np.asarray(part)
        return canvas

    def truth(self, kind: str, values: NDArray[Any]) -> NDArray[Any]:
        """The nearest pixel's; unknown outside. An edge is not lost where pixels are merged."""
        (rows, in_rows), (columns, in_columns) = self._nearest(0), self._nearest(1)
        found = values[rows][:, columns]
        if kind == "edges" and self.height > self.size[0]:
            y, x = np.nonzero(values == 1)
            y = np.floor((y + 0.5 - self.top) * self.size[0] / self.height).astype(np.intp)
            x = np.floor((x + 0.5 - self.left) * self.size[1] / self.width).astype(np.intp)
            inside = (y >= 0) & (y < self.size[0]) & (x >= 0) & (x < self.size[1])
            found[y[inside], x[inside]] = 1
        found[~(in_rows[:, None] & in_columns)] = _unknown(kind)
        return found


def _turned(kind: str, values: NDArray[Any], angle: float) -> NDArray[Any]:
    """``values`` turned about the middle; what comes in at the corners is not known."""
    fill = _unknown(kind)
    planes = values[..., None] if values.ndim == 2 else values
    mode = np.float32 if planes.dtype.kind == "f" else np.uint8
    turned = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(planes[..., c], mode)).rotate(
                angle, Image.Resampling.NEAREST, fillcolor=fill
            )
        )
        for c in range(planes.shape[2])
    ]
    if kind == "normals":
        x, y, z = turned
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turned = [cosine * x + sine * y, cosine * y - sine * x, z]  # y points down
    stacked = np.stack(turned, axis=-1).astype(values.dtype)
    return stacked[..., 0] if values.ndim == 2 else stacked


def fit(
    example: Example, size: tuple[int, int], view: View = CENTRE, *, inverse_depth: bool = False
) -> Example:
    """``example`` as seen by ``view``, at ``size`` (height, width).

    Turning left and right negates the normals' x; turning the image turns them with it; zooming
    divides depth, or multiplies its inverse. Parts of people are all unknown where there is no one.
    """
    image, truths = example.image, dict(example.truths)
    whole = {kind: truths.pop(kind) for kind in ("classification",) if kind in truths}
    if view.angle:
        turned = Image.fromarray(image).rotate(view.angle, Image.Resampling.BICUBIC)
        image = np.asarray(turned)
        truths = {kind: _turned(kind, values, view.angle) for kind, values in truths.items()}
    box = _Box.of((image.shape[0], image.shape[1]), size, view)
    image = box.pixels(image)
    truths = {kind: box.truth(kind, values) for kind, values in truths.items()}
    if view.flip:
        image = image[:, ::-1]
        truths = {kind: values[:, ::-1].copy() for kind, values in truths.items()}
        if "normals" in truths:
            truths["normals"][..., 0] *= -1
    if "depth" in truths and view.zoom != 1:
        factor = view.zoom if inverse_depth else 1 / view.zoom
        truths["depth"] = truths["depth"] * np.float32(factor)
    parts = truths.get("human_parts")
    if parts is not None and not ((parts > 0) & (parts != UNKNOWN)).any():
        truths["human_parts"] = np.full_like(parts, UNKNOWN)
    return Example(np.ascontiguousarray(image), truths | whole)
