"""Procedural indoor scenes: images with labels, depth, normals, edges and saliency that agree.

Scene ``index`` of a split is a pure function of ``(split, index)`` and the image size: nothing is
stored, and no two splits share a random seed. The geometry is rendered once through each pixel
centre for the truth and once through a finer grid for the antialiased image, so that all maps
describe exactly the same view.

Conventions: depth is the distance along the optical axis in metres; normals are unit vectors in
camera coordinates (x right, y down, z forward), pointing towards the camera; an edge is a pixel
next to another instance, a crease or a jump in depth; the salient pixels are those of the objects
that stand out most by size, place and colour (:mod:`moevit.model.scenes.truth`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moevit.quant.typing import Floats32

from .layout import CLASSES, ROOM_INSTANCES, Layout, furnish
from .raycast import nearest, turned
from .shading import shade, to_image
from .truth import find_edges, find_orientation, find_salient

__all__ = ["CLASSES", "SPLITS", "Sample", "render", "scene"]

SPLITS = ("train", "validation", "test", "calibration")
"""Names of the splits; a split's number is part of its scenes' seeds."""

_ROOT = 0x6D6F6576  # keeps these seeds apart from any other use of small integers


@dataclass(frozen=True, slots=True)
class Sample:
    """An image ``(H, W, 3)`` uint8 and its truths.

    ``segmentation`` ``(H, W)`` uint8 labels, ``depth`` ``(H, W)`` float32 metres, ``normals``
    ``(H, W, 3)`` float32 unit vectors, ``edges`` and ``saliency`` ``(H, W)`` bool.
    """

    image: NDArray[np.uint8]
    segmentation: NDArray[np.uint8]
    depth: Floats32
    normals: Floats32
    edges: NDArray[np.bool_]
    saliency: NDArray[np.bool_]

    @property
    def orientation(self) -> Floats32:
        """Which way the edges run ``(H, W, 2)`` float32 (:func:`~.truth.find_orientation`)."""
        return find_orientation(self.edges)


@dataclass(frozen=True, slots=True)
class Hits:
    """What a bundle of ``N`` camera rays meets: ``depth`` ``(N,)``, ``points`` and ``normals``
    ``(3, N)`` in the world, ``instances`` ``(N,)``."""

    depth: Floats32
    points: Floats32
    normals: Floats32
    instances: NDArray[np.int16]


def _rays(layout: Layout, height: int, width: int, finer: int) -> Floats32:
    """World directions ``(3, H*finer*W*finer)`` whose component along the optical axis is 1."""
    focal = max(height, width) / 2 / layout.camera.tangent
    u = ((np.arange(width * finer) + 0.5) / finer - width / 2) / focal
    v = ((np.arange(height * finer) + 0.5) / finer - height / 2) / focal
    grid = np.empty((3, height * finer, width * finer), np.float32)
    grid[0], grid[1], grid[2] = u[None, :], v[:, None], 1.0
    return turned(layout.camera.axes.T, grid.reshape(3, -1))


def _trace(layout: Layout, directions: Floats32) -> Hits:
    origin = layout.camera.position
    far, normals = layout.room.cast(origin, directions)
    depth, index = nearest(layout.solids, origin, directions, far)
    points = origin[:, None] + directions * depth
    instances = np.where(normals[1] > 0.5, 0, np.where(normals[1] < -0.5, 2, 1)).astype(np.int16)
    for number, solid in enumerate(layout.solids):
        rays = np.flatnonzero(index == number)
        if rays.size:
            normals[:, rays] = solid.normal(points[:, rays], directions[:, rays])
            instances[rays] = layout.owners[number]
    return Hits(depth, points, normals, instances)


def render(layout: Layout, height: int, width: int, rng: np.random.Generator, finer: int) -> Sample:
    """Render a layout at ``height`` x ``width`` pixels with ``finer`` squared colours a pixel."""
    directions = _rays(layout, height, width, 1)
    hits = _trace(layout, directions)
    fine = hits
    if finer > 1:
        fine = _trace(layout, _rays(layout, height, width, finer))
    colours = shade(layout, fine.points, fine.normals, fine.instances)
    image = to_image(colours, height, width, finer, rng)
    depth = hits.depth.reshape(height, width)
    instances = hits.instances.reshape(height, width)
    normals = turned(layout.camera.axes, hits.normals).T.reshape(height, width, 3)
    rays = turned(layout.camera.axes, directions).T.reshape(height, width, 3)
    return Sample(
        image=image,
        segmentation=np.array(layout.labels, np.uint8)[instances],
        depth=depth,
        normals=np.ascontiguousarray(normals),
        edges=find_edges(depth, normals, rays, instances),
        saliency=find_salient(image, instances, ROOM_INSTANCES, layout.labels),
    )


def scene(split: str, index: int, height: int = 64, width: int = 128, *, finer: int = 2) -> Sample:
    """Scene ``index`` of ``split`` at any image size of at least 8 x 8 pixels.

    The room does not depend on the size. ``finer`` is the antialiasing grid of the image, 1 for
    none. Raises ``ValueError`` for an unknown split, a negative index or too small a size.
    """
    if split not in SPLITS:
        raise ValueError(f"Split must be one of {', '.join(SPLITS)}, not {split!r}")
    if index < 0:
        raise ValueError(f"Scene index must not be negative, not {index!r}")
    if height < 8 or width < 8:
        raise ValueError(f"Scene size must be at least 8x8 pixels, not {height}x{width}")
    if finer < 1:
        raise ValueError(f"Antialiasing grid must be at least 1, not {finer!r}")
    seed = np.random.SeedSequence([_ROOT, SPLITS.index(split), index])
    rng = np.random.Generator(np.random.PCG64(seed))
    layout = furnish(rng)
    return render(layout, height, width, rng, finer)
