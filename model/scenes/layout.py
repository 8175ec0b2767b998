"""Furnishing of one procedural room: which solids stand where, under which light, seen from where.

A layout is drawn from one random generator and holds no pixels. Classes are told apart by shape,
size and place only: every surface takes its colours and texture from the same distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from moevit.quant.typing import Floats32

from .raycast import Box, Cone, Cylinder, Room, Solid, Sphere

__all__ = ["CLASSES", "Camera", "Layout", "Light", "Material", "furnish"]

CLASSES = (
    "floor",
    "wall",
    "ceiling",
    "door",
    "picture",
    "box",
    "sphere",
    "cylinder",
    "cone",
    "table",
)
"""Names of the semantic labels, in label order."""

ROOM_INSTANCES = 3  # floor, wall and ceiling come first, each one instance

_OBJECTS = ("box", "sphere", "cylinder", "cone")


@dataclass(frozen=True, slots=True)
class Material:
    """Two colours mixed by a solid texture, and how much of the light comes back as a highlight.

    ``colours`` is ``(2, 3)`` linear RGB, ``texture`` one of 0 plain, 1 checks, 2 stripes, 3 clouds;
    ``frame`` ``(3, 3)`` turns world into texture coordinates, cycles per metre included.
    """

    colours: Floats32
    texture: int
    frame: Floats32
    gloss: float


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera: ``position`` in metres, ``axes`` rows right, down, forward in the world.

    ``tangent`` is the tangent of half the field of view across the longer side of the image.
    """

    position: Floats32
    axes: Floats32
    tangent: float


@dataclass(frozen=True, slots=True)
class Light:
    """A point light with linear RGB ``colour`` and the share of ``ambient`` light."""

    position: Floats32
    colour: Floats32
    ambient: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that an image depends on but noise and exposure.

    ``solids[i]`` belongs to instance ``owners[i]``; instance ``j`` has label ``labels[j]`` and
    ``materials[j]``. Instances 0 to 2 are the room's floor, walls and ceiling.
    """

    room: Room
    solids: list[Solid]
    owners: list[int]
    labels: list[int]
    materials: list[Material]
    camera: Camera
    light: Light


def _colour(rng: Generator) -> Floats32:
    """A random linear colour: any hue, mostly muted, from dark to light."""
    hue = rng.uniform(0, 6)
    saturation = rng.beta(1.5, 2.5)
    value = rng.uniform(0.12, 0.95)
    ramp = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return np.asarray(value * (1 - saturation * (1 - ramp)), np.float32)


def _frame(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthogonal columns with the span of those of ``rows (3, 3)``, by two reflections.

    Not by LAPACK, whose last bits are the processor's.
    """
    rest, frame = rows.copy(), np.eye(3)
    for j in (0, 1):
        v = rest[j:, j].copy()
        v[0] += math.copysign(math.sqrt(float((v * v).sum())), v[0])
        twice = 2 / (v * v).sum()
        rest[j:] -= np.multiply.outer(v, (v[:, None] * rest[j:]).sum(axis=0) * twice)
        frame[:, j:] -= np.multiply.outer((frame[:, j:] * v).sum(axis=1) * twice, v)
    return frame


def _material(rng: Generator, scale: float) -> Material:
    texture = int(rng.choice(4, p=[0.45, 0.15, 0.2, 0.2]))
    first = _colour(rng)
    second = first + (_colour(rng) - first) * np.float32(rng.uniform(0.2, 1.0))
    frame = _frame(rng.normal(size=(3, 3)))
    if texture in (1, 2) and rng.random() < 0.7:
        frame = np.eye(3)[rng.permutation(3)]
    frequency = rng.uniform(0.6, 2.5) / scale
    return Material(
        colours=np.stack([first, second]).astype(np.float32),
        texture=texture,
        frame=(frame * frequency).astype(np.float32),
        gloss=float(rng.uniform(0, 0.5) * (rng.random() < 0.5)),
    )


def _camera(rng: Generator, room: Room) -> Camera:
    position = np.array(
        [
            rng.uniform(-0.3, 0.3) * room.width,
            rng.uniform(1.0, min(1.9, room.height - 0.5)),
            rng.uniform(0.15, 0.8),
        ],
        np.float32,
    )
    target = -position[0] / room.depth  # turn towards the middle of the room, more or less
    yaw = math.atan(target) + rng.uniform(-0.45, 0.45)
    pitch, roll = rng.uniform(0.05, 0.36), rng.normal(0, 0.02)
    forward = np.array(
        [math.sin(yaw) * math.cos(pitch), -math.sin(pitch), math.cos(yaw) * math.cos(pitch)]
    )
    right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    down = np.cross(right, forward)
    right, down = (
        math.cos(roll) * right + math.sin(roll) * down,
        math.cos(roll) * down - math.sin(roll) * right,
    )
    tangent = math.tan(math.radians(rng.uniform(62, 88)) / 2)
    axes = np.stack([right, down, forward]).astype(np.float32)
    return Camera(position=position, axes=axes, tangent=float(tangent))


def _solid(kind: str, rng: Generator, x: float, y: float, z: float, size: float) -> Solid:
    """A solid of the named kind about ``size`` metres wide standing on height ``y``."""
    tall = float(rng.uniform(0.5, 1.6))
    half = size / 2
    if kind == "sphere":
        return Sphere((x, y + half, z), half)
    if kind == "cylinder":
        return Cylinder((x, y + half * tall, z), half * 0.85, half * tall)
    if kind == "cone":
        height = size * float(rng.uniform(0.9, 1.8))
        return Cone((x, y + height, z), half, height)
    extent = (half * float(rng.uniform(0.5, 1.0)), half * tall, half * float(rng.uniform(0.5, 1.0)))
    return Box((x, y + extent[1], z), extent, float(rng.uniform(0, np.pi)))


def _table(rng: Generator, x: float, z: float, size: float) -> tuple[list[Solid], float]:
    """Solids of a table and the height of its top."""
    height, thick, leg = float(rng.uniform(0.45, 0.85)), 0.035, 0.035
    half_x, half_z = size / 2, size / 2 * float(rng.uniform(0.5, 0.9))
    yaw = float(rng.uniform(0, np.pi))
    solids: list[Solid] = [Box((x, height - thick, z), (half_x, thick, half_z), yaw)]
    cosine, sine = math.cos(yaw), math.sin(yaw)
    for side in (-1, 1):
        for end in (-1, 1):
            u, w = side * (half_x - leg), end * (half_z - leg)
            foot = (x + cosine * u + sine * w, height / 2 - thick, z - sine * u + cosine * w)
            solids.append(Box(foot, (leg, height / 2 - thick, leg), yaw))
    return solids, height


class _Furnisher:
    """Collects instances while keeping the footprints of standing objects apart."""

    def __init__(self, rng: Generator, room: Room, camera: Camera) -> None:
        self.rng, self.room, self.camera = rng, room, camera
        self.solids: list[Solid] = []
        self.owners: list[int] = []
        self.labels = [CLASSES.index(name) for name in ("floor", "wall", "ceiling")]
        self.materials = [_material(rng, 1.2) for _ in range(ROOM_INSTANCES)]
        self.taken: list[tuple[float, float, float]] = []
        self._panels: list[tuple[int, float, float]] = []

    def add(self, kind: str, solids: list[Solid], scale: float) -> None:
        self.owners += [len(self.labels)] * len(solids)
        self.solids += solids
        self.labels.append(CLASSES.index(kind))
        self.materials.append(_material(self.rng, scale))

    def spot(self, radius: float) -> tuple[float, float] | None:
        """A free place on the floor in front of the camera, or None when tries run out."""
        forward, right = self.camera.axes[2], self.camera.axes[0]
        eye = self.camera.position
        for _ in range(12):
            ahead = float(self.rng.uniform(1.2 + radius, 1.0 + 0.9 * self.room.depth))
            aside = float(self.rng.uniform(-0.9, 0.9)) * self.camera.tangent * ahead
            x = float(eye[0] + forward[0] * ahead + right[0] * aside)
            z = float(eye[2] + forward[2] * ahead + right[2] * aside)
            inside = abs(x) < self.room.width / 2 - radius and radius < z < self.room.depth - radius
            clear = all(np.hypot(x - u, z - v) > radius + r for u, v, r in self.taken)
            if inside and clear:
                self.taken.append((x, z, radius))
                return x, z
        return None

    def panel(self, kind: str) -> None:
        """A door or a picture on the far wall or one of the side walls."""
        rng, room = self.rng, self.room
        side = int(rng.choice([-1, 0, 1]))
        span = room.depth if side else room.width
        if kind == "door":
            width, tall = float(rng.uniform(0.7, 1.3)), float(rng.uniform(1.8, 2.2))
            tall = min(tall, room.height - 0.2)
            middle, thick = tall / 2, 0.03
        else:
            width, tall = float(rng.uniform(0.5, 1.8)), float(rng.uniform(0.4, 1.1))
            middle, thick = float(rng.uniform(1.4, 1.8)), 0.02
            middle = min(middle, room.height - tall / 2 - 0.05)
        along = float(rng.uniform(width / 2 + 0.1, span - width / 2 - 0.1))
        if side:
            centre = (side * (room.width / 2 - thick), middle, along)
            half = (thick, tall / 2, width / 2)
        else:
            centre = (along - room.width / 2, middle, room.depth - thick)
            half = (width / 2, tall / 2, thick)
        place = (side, along)
        if all(s != side or abs(a - along) > (w + width) / 2 for (s, a, w) in self._panels):
            self._panels.append((*place, width))
            self.add(kind, [Box(centre, half)], 0.5)

    def run(self) -> None:
        rng = self.rng
        for kind, most in (("door", 2), ("picture", 4)):
            for _ in range(int(rng.integers(0, most))):
                self.panel(kind)
        tops: list[tuple[float, float, float, float]] = []
        if rng.random() < 0.6:
            size = float(rng.uniform(0.8, 1.6))
            place = self.spot(size * 0.6)
            if place is not None:
                solids, height = _table(rng, *place, size)
                self.add("table", solids, 0.6)
                tops.append((*place, height, size * 0.4))
        for _ in range(int(rng.integers(2, 7))):
            kind = str(rng.choice(_OBJECTS))
            if tops and rng.random() < 0.35:
                x, z, y, room_left = tops.pop()
                size = min(float(rng.uniform(0.2, 0.45)), room_left)
                self.add(kind, [_solid(kind, rng, x, y, z, size)], size)
                continue
            size = float(rng.uniform(0.3, 1.1))
            place = self.spot(size * 0.6)
            if place is not None:
                self.add(kind, [_solid(kind, rng, place[0], 0.0, place[1], size)], size)


def furnish(rng: Generator) -> Layout:
    """Draw a room, its furniture, a light and a camera."""
    room = Room(
        width=float(rng.uniform(3.5, 7.5)),
        height=float(rng.uniform(2.3, 3.2)),
        depth=float(rng.uniform(4.0, 9.0)),
    )
    camera = _camera(rng, room)
    furnisher = _Furnisher(rng, room, camera)
    furnisher.run()
    light = Light(
        position=np.array(
            [
                rng.uniform(-0.4, 0.4) * room.width,
                room.height - rng.uniform(0.1, 0.5),
                rng.uniform(0.1, 0.8) * room.depth,
            ],
            np.float32,
        ),
        colour=(1 + rng.uniform(-0.18, 0.18, 3)).astype(np.float32),
        ambient=float(rng.uniform(0.25, 0.5)),
    )
    return Layout(
        room=room,
        solids=furnisher.solids,
        owners=furnisher.owners,
        labels=furnisher.labels,
        materials=furnisher.materials,
        camera=camera,
        light=light,
    )
