"""Closed-form ray casting of a few solids, vectorised over rays.

All rays of a call share one origin (the camera, or the light for shadow rays), so every term that
depends on the origin alone is a scalar. Vectors are stored component first: directions are
``(3, N)`` float32, lengths are metres, the world's y axis points up.

A solid answers two questions: how far along each ray its surface is (``distance``, in units of the
direction's own length, ``inf`` for a miss) and which way the surface faces at a hit point
(``normal``). Before the first is asked, rays that miss the solid's bounding sphere are dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moevit.quant.typing import Floats32

__all__ = [
    "Box",
    "Cone",
    "Cylinder",
    "Room",
    "Solid",
    "Sphere",
    "dot",
    "nearest",
    "occluded",
    "turned",
]


_NEAR = 1e-3  # hits closer than this fraction of a direction's length are ignored


def dot(a: Floats32, b: Floats32) -> Floats32:
    """Products of vectors ``(3,)`` or ``(3, N)``, added in their order, unlike a BLAS's."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def turned(frame: Floats32, vectors: Floats32) -> Floats32:
    """``frame (3, 3) @ vectors (3, N)``, row by row as :func:`dot`."""
    return np.stack([dot(row, vectors) for row in frame])


class Solid(Protocol):
    """What the caster needs to know of a shape."""

    @property
    def bound(self) -> tuple[Floats32, float]:
        """Centre ``(3,)`` and radius of a sphere around the solid."""

    def distance(self, origin: Floats32, directions: Floats32) -> Floats32:
        """First hit of each ray, ``(N,)``, in multiples of its direction; ``inf`` for a miss."""

    def normal(self, points: Floats32, directions: Floats32) -> Floats32:
        """Outward unit normal ``(3, N)`` at surface points ``(3, N)`` hit along ``directions``."""


def _nonzero(values: Floats32) -> Floats32:
    """Directions with exact zeros nudged, so that slab and cap tests may divide by them."""
    return np.where(np.abs(values) < 1e-9, np.float32(1e-9), values)


def _axis_normal(local: Floats32, directions: Floats32, half: Floats32) -> Floats32:
    """Normal of an axis-aligned box at points on its surface, among the faces seen by the ray."""
    reach = np.abs(local) / half[:, None]
    reach[local * directions >= 0] = -1.0  # a face turned away from the ray cannot be the one hit
    axis = np.argmax(reach, axis=0)
    normal = np.zeros_like(local)
    columns = np.arange(local.shape[1])
    normal[axis, columns] = -np.sign(directions[axis, columns])
    return normal


@dataclass(frozen=True, slots=True)
class Room:
    """The inside of an axis-aligned box from ``(-w/2, 0, 0)`` to ``(w/2, h, d)``."""

    width: float
    height: float
    depth: float

    def _corners(self) -> tuple[Floats32, Floats32]:
        low = np.array([-self.width / 2, 0.0, 0.0], np.float32)
        high = np.array([self.width / 2, self.height, self.depth], np.float32)
        return low, high

    def cast(self, origin: Floats32, directions: Floats32) -> tuple[Floats32, Floats32]:
        """Distance ``(N,)`` to the wall that each ray leaves by, and inward normals ``(3, N)``."""
        low, high = self._corners()
        safe = _nonzero(directions)
        planes = np.where(safe > 0, high[:, None], low[:, None])
        exits = (planes - origin[:, None]) / safe
        axis = np.argmin(exits, axis=0)
        columns = np.arange(directions.shape[1])
        normal = np.zeros_like(directions)
        normal[axis, columns] = -np.sign(safe[axis, columns])
        return exits[axis, columns], normal

    def openness(self, points: Floats32, reach: float = 0.6) -> Floats32:
        """Share of ambient light at ``points``: 1 in the open, less towards edges and corners."""
        low, high = self._corners()
        near = np.minimum(points - low[:, None], high[:, None] - points) / reach
        a, b, c = np.clip(near, 0.0, 1.0)
        # The nearest plane is the surface itself; the next two make the edge and the corner.
        low_two, high_two = np.minimum(a, b), np.maximum(a, b)
        second = np.maximum(low_two, np.minimum(high_two, c))
        third = np.maximum(high_two, c)
        return np.asarray((0.6 + 0.4 * second) * (0.8 + 0.2 * third))


@dataclass(frozen=True, slots=True)
class Box:
    """A box with half extents ``half``, turned by ``yaw`` radians about the vertical."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float = 0.0

    @property
    def bound(self) -> tuple[Floats32, float]:
        return np.array(self.centre, np.float32), math.sqrt(
            sum(side * side for side in map(float, self.half))
        )

    def _local(self, vectors: Floats32) -> Floats32:
        cosine, sine = np.float32(math.cos(self.yaw)), np.float32(math.sin(self.yaw))
        x, y, z = vectors
        return np.stack([cosine * x - sine * z, y, sine * x + cosine * z])

    def _world(self, vectors: Floats32) -> Floats32:
        cosine, sine = np.float32(math.cos(self.yaw)), np.float32(math.sin(self.yaw))
        x, y, z = vectors
        return np.stack([cosine * x + sine * z, y, cosine * z - sine * x])

    def distance(self, origin: Floats32, directions: Floats32) -> Floats32:
        half = np.array(self.half, np.float32)[:, None]
        centre = np.array(self.centre, np.float32)
        start = self._local((origin - centre)[:, None])
        along = _nonzero(self._local(directions))
        first, second = (-half - start) / along, (half - start) / along
        enter = np.minimum(first, second).max(axis=0)
        leave = np.maximum(first, second).min(axis=0)
        return np.where((enter <= leave) & (enter > _NEAR), enter, np.float32(np.inf))

    def normal(self, points: Floats32, directions: Floats32) -> Floats32:
        centre = np.array(self.centre, np.float32)[:, None]
        half = np.array(self.half, np.float32)
        return self._world(
            _axis_normal(self._local(points - centre), self._local(directions), half)
        )


@dataclass(frozen=True, slots=True)
class Sphere:
    """A ball."""

    centre: tuple[float, float, float]
    radius: float

    @property
    def bound(self) -> tuple[Floats32, float]:
        return np.array(self.centre, np.float32), self.radius

    def distance(self, origin: Floats32, directions: Floats32) -> Floats32:
        start = origin - np.array(self.centre, np.float32)
        a = dot(directions, directions)
        b = dot(start, directions)
        c = np.float32(dot(start, start) - self.radius**2)
        root = b * b - a * c
        hit = (-b - np.sqrt(np.maximum(root, 0.0))) / a
        return np.where((root > 0) & (hit > _NEAR), hit, np.float32(np.inf))

    def normal(self, points: Floats32, directions: Floats32) -> Floats32:
        del directions
        offset = points - np.array(self.centre, np.float32)[:, None]
        return np.asarray(offset / np.linalg.norm(offset, axis=0))


@dataclass(frozen=True, slots=True)
class Cylinder:
    """An upright cylinder with flat caps; ``centre`` is its middle."""

    centre: tuple[float, float, float]
    radius: float
    half_height: float

    @property
    def bound(self) -> tuple[Floats32, float]:
        return np.array(self.centre, np.float32), math.sqrt(self.radius**2 + self.half_height**2)

    def distance(self, origin: Floats32, directions: Floats32) -> Floats32:
        start = origin - np.array(self.centre, np.float32)
        dx, dy, dz = directions[0], _nonzero(directions[1]), directions[2]
        a = np.maximum(dx * dx + dz * dz, 1e-12)
        b = start[0] * dx + start[2] * dz
        c = np.float32(start[0] ** 2 + start[2] ** 2 - self.radius**2)
        root = b * b - a * c
        side = (-b - np.sqrt(np.maximum(root, 0.0))) / a
        on_side = (root > 0) & (np.abs(start[1] + side * dy) <= self.half_height) & (side > _NEAR)
        result = np.where(on_side, side, np.float32(np.inf))
        if abs(start[1]) > self.half_height:  # only the cap turned to the origin can be seen
            cap = (np.copysign(self.half_height, start[1]) - start[1]) / dy
            x, z = start[0] + cap * dx, start[2] + cap * dz
            on_cap = (x * x + z * z <= self.radius**2) & (cap > _NEAR)
            result = np.where(on_cap, np.minimum(result, cap), result)
        return result.astype(np.float32, copy=False)

    def normal(self, points: Floats32, directions: Floats32) -> Floats32:
        del directions
        x, y, z = points - np.array(self.centre, np.float32)[:, None]
        radial = np.maximum(np.sqrt(x * x + z * z), 1e-9)
        cap = np.abs(y) / self.half_height > radial / self.radius
        none = np.zeros_like(x)
        return np.stack(
            [
                np.where(cap, none, x / radial),
                np.where(cap, np.sign(y), none),
                np.where(cap, none, z / radial),
            ]
        )


@dataclass(frozen=True, slots=True)
class Cone:
    """An upright cone; ``apex`` is its tip, the base lies ``height`` below."""

    apex: tuple[float, float, float]
    radius: float
    height: float

    @property
    def bound(self) -> tuple[Floats32, float]:
        x, y, z = self.apex
        centre = np.array([x, y - self.height / 2, z], np.float32)
        return centre, math.sqrt(self.radius**2 + (self.height / 2) ** 2)

    def distance(self, origin: Floats32, directions: Floats32) -> Floats32:
        start = origin - np.array(self.apex, np.float32)
        slope = np.float32((self.radius / self.height) ** 2)
        dx, dy, dz = directions[0], _nonzero(directions[1]), directions[2]
        a = _nonzero(dx * dx + dz * dz - slope * dy * dy)
        b = start[0] * dx + start[2] * dz - slope * start[1] * dy
        c = np.float32(start[0] ** 2 + start[2] ** 2 - slope * start[1] ** 2)
        root = b * b - a * c
        spread = np.sqrt(np.maximum(root, 0.0))
        result = np.full(dx.shape, np.inf, np.float32)
        for sign in (-1.0, 1.0):
            hit = (-b + np.float32(sign) * spread) / a
            y = start[1] + hit * dy
            valid = (root > 0) & (y <= 0) & (y >= -self.height) & (hit > _NEAR)
            result = np.where(valid, np.minimum(result, hit), result)
        if start[1] < -self.height:
            base = (-self.height - start[1]) / dy
            x, z = start[0] + base * dx, start[2] + base * dz
            valid = (x * x + z * z <= self.radius**2) & (base > _NEAR)
            result = np.where(valid, np.minimum(result, base), result)
        return result.astype(np.float32, copy=False)

    def normal(self, points: Floats32, directions: Floats32) -> Floats32:
        x, y, z = points - np.array(self.apex, np.float32)[:, None]
        slope = np.float32((self.radius / self.height) ** 2)
        side = np.stack([x, -slope * y, z])
        side /= np.maximum(np.linalg.norm(side, axis=0), 1e-9)
        base = (y < -0.9999 * self.height) & (directions[1] > 0)
        side[:, base] = np.array([[0.0], [-1.0], [0.0]], np.float32)
        return side


def _candidates(
    solid: Solid, origin: Floats32, directions: Floats32, squared: Floats32
) -> NDArray[np.intp]:
    """Indices of the rays that meet the solid's bounding sphere in front of the origin."""
    centre, radius = solid.bound
    to = centre - origin
    beyond = np.float32(dot(to, to) - radius * radius)
    if beyond <= 0:
        return np.arange(directions.shape[1])
    along = dot(to, directions)
    return np.flatnonzero((along > 0) & (along * along >= beyond * squared))


def nearest(
    solids: list[Solid], origin: Floats32, directions: Floats32, limit: Floats32
) -> tuple[Floats32, NDArray[np.int16]]:
    """Nearest solid of each ray closer than ``limit`` ``(N,)``.

    Returns the distances ``(N,)`` (``limit`` where nothing is closer) and the index of the solid
    hit, -1 for none.
    """
    best = limit.copy()
    index = np.full(limit.shape, -1, np.int16)
    squared = dot(directions, directions)
    for number, solid in enumerate(solids):
        rays = _candidates(solid, origin, directions, squared)
        if rays.size == 0:
            continue
        hit = solid.distance(origin, directions[:, rays])
        closer = hit < best[rays]
        chosen = rays[closer]
        best[chosen] = hit[closer]
        index[chosen] = number
    return best, index


def occluded(solids: list[Solid], light: Floats32, points: Floats32) -> NDArray[np.bool_]:
    """Whether a solid stands between the light ``(3,)`` and each of ``points`` ``(3, N)``."""
    directions = points - light[:, None]
    dark = np.zeros(points.shape[1], np.bool_)
    squared = dot(directions, directions)
    for solid in solids:
        rays = _candidates(solid, light, directions, squared)
        if rays.size:
            dark[rays] |= solid.distance(light, directions[:, rays]) < 0.998
    return dark
