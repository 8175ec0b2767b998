"""Edges and salient objects, by rule, from what the renderer knows of a scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moevit.quant.reproducible import exp
from moevit.quant.typing import Floats32

__all__ = ["find_edges", "find_orientation", "find_salient"]

_CREASE = np.float32(np.cos(np.radians(30)))  # neighbours' normals further apart make an edge
_JUMP = 0.06  # relative departure of a neighbour's depth from the pixel's tangent plane
_SMALLEST = 0.004  # share of the image below which an object is never salient
_ONE_WAY = 0.25  # share of the edges' gradients that must run one way more than across
_RUNNER_UP = 0.6  # objects scoring at least this share of the best are salient too


def _breaks(
    depth: Floats32, normals: Floats32, rays: Floats32, instances: NDArray[np.int16], axis: int
) -> NDArray[np.bool_]:
    """Whether the surface breaks between each pixel and its next along ``axis``."""
    near = [slice(None), slice(None)]
    next_ = [slice(None), slice(None)]
    near[axis], next_[axis] = slice(None, -1), slice(1, None)
    a, b = tuple(near), tuple(next_)
    other = instances[a] != instances[b]
    crease = (normals[a] * normals[b]).sum(axis=-1) < _CREASE
    # The depth at which the next pixel's ray would meet this pixel's tangent plane.
    plane = depth[a] * (normals[a] * rays[a]).sum(axis=-1)
    slant = (normals[a] * rays[b]).sum(axis=-1)
    expected = plane / np.where(np.abs(slant) < 1e-4, np.float32(-1e-4), slant)
    jump = np.abs(depth[b] - expected) > _JUMP * depth[b]
    return np.asarray(other | crease | jump)


def find_edges(
    depth: Floats32, normals: Floats32, rays: Floats32, instances: NDArray[np.int16]
) -> NDArray[np.bool_]:
    """Pixels on either side of a break in the surface, ``(H, W)`` bool.

    A break separates two neighbours (right or below) that belong to different instances, whose
    normals differ by more than 30 degrees, or of which one lies off the other's tangent plane by
    more than 6 % of its depth. ``rays`` ``(H, W, 3)`` are camera directions with z = 1.
    """
    edges = np.zeros(depth.shape, np.bool_)
    for axis in (0, 1):
        broken = _breaks(depth, normals, rays, instances, axis)
        if axis == 0:
            edges[:-1] |= broken
            edges[1:] |= broken
        else:
            edges[:, :-1] |= broken
            edges[:, 1:] |= broken
    return edges


def find_orientation(edges: NDArray[np.bool_]) -> Floats32:
    """Which way contours run: ``(cos 2a, sin 2a)`` of the angle to the x axis, ``(H, W, 2)``.

    From the structure tensor of the smoothed edges over 5 x 5 pixels (Bigun and Granlund 1987),
    whose larger eigenvector is across a contour. Zero off the edges, and where they run one way by
    less than a quarter more than another. Sums are of whole numbers, the same on every machine.
    """
    smooth = _summed(_summed(edges.astype(np.int64), 1), 1)
    padded = np.pad(smooth, 1, mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    xx, yy, xy = (_summed(a, 2) for a in (across * across, down * down, across * down))
    vectors = np.stack([yy - xx, -2 * xy], axis=-1).astype(np.float64)
    length = np.sqrt((vectors * vectors).sum(axis=-1))
    clear = edges & (length > 0) & (length >= _ONE_WAY * (xx + yy))
    unit = vectors / np.where(clear, length, 1)[..., None]
    return np.where(clear[..., None], unit, 0).astype(np.float32)


def _summed(values: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Sums over squares of ``2 * reach + 1`` pixels a side, beyond the image those at its edge."""
    for axis in (0, 1):
        width = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(values, width, mode="edge")
        length = values.shape[axis]
        parts = [np.take(padded, range(n, n + length), axis=axis) for n in range(2 * reach + 1)]
        values = np.asarray(sum(parts), np.int64)
    return values


def find_salient(
    image: NDArray[np.uint8],
    instances: NDArray[np.int16],
    background: int,
    labels: list[int],
) -> NDArray[np.bool_]:
    """Pixels of the objects that stand out most, ``(H, W)`` bool; none when no object is visible.

    An object's score is the square root of its share of the image, times a Gaussian of its
    centre's distance from the middle (sigma 0.3 of the image's width), times 0.3 plus the
    distance of its mean colour from the mean of the rest. The best object is salient, and so is
    any that scores at least 60 % of it. The first ``background`` instances (the room) never are.
    """
    height, width = instances.shape
    flat = instances.ravel().astype(np.intp)
    count = len(labels)
    area = np.bincount(flat, minlength=count).astype(np.float64)
    x = np.tile((np.arange(width) + 0.5) / width - 0.5, height)
    y = np.repeat(((np.arange(height) + 0.5) - height / 2) / width, width)
    safe = np.maximum(area, 1)
    centre_x = np.bincount(flat, x, count) / safe
    centre_y = np.bincount(flat, y, count) / safe
    channels = image.reshape(-1, 3) / 255.0
    sums = np.stack([np.bincount(flat, channels[:, c], count) for c in range(3)], axis=1)
    rest = (sums.sum(axis=0) - sums) / np.maximum(flat.size - area, 1)[:, None]
    contrast = np.linalg.norm(sums / safe[:, None] - rest, axis=1)
    place = exp(-(centre_x**2 + centre_y**2) / (2 * 0.3**2))
    score = np.sqrt(area / flat.size) * place * (0.3 + contrast)
    score[:background] = 0
    score[area < _SMALLEST * flat.size] = 0
    best = score.max()
    if best <= 0:
        return np.zeros(instances.shape, np.bool_)
    return np.asarray((score >= _RUNNER_UP * best)[instances])
