"""Light, texture and camera noise of the procedural scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moevit.quant.reproducible import power, sine
from moevit.quant.typing import Floats32

from .layout import Layout
from .raycast import dot, occluded, turned

__all__ = ["shade", "to_image"]

_TURN = np.float32(2 * np.pi)
_DARKEST = 1e-12


def _mix(layout: Layout, points: Floats32, instances: NDArray[np.int16]) -> Floats32:
    """Share of each surface's second colour, ``(N,)`` in 0..1, by its solid texture."""
    mix = np.zeros(points.shape[1], np.float32)
    for instance, material in enumerate(layout.materials):
        if material.texture == 0:
            continue
        rays = np.flatnonzero(instances == instance)
        if rays.size == 0:
            continue
        u, v, w = turned(material.frame, points[:, rays]) * _TURN
        if material.texture == 1:
            mix[rays] = (sine(u) * sine(v) * sine(w) > 0).astype(np.float32)
        elif material.texture == 2:
            mix[rays] = 0.5 + 0.5 * np.clip(3 * sine(u), -1, 1)
        else:
            warped = sine(u + 1.5 * sine(v)) + sine(0.6 * w + 2.0 * sine(0.7 * u))
            mix[rays] = 0.5 + 0.25 * warped
    return mix


def shade(
    layout: Layout, points: Floats32, normals: Floats32, instances: NDArray[np.int16]
) -> Floats32:
    """Linear RGB ``(3, N)`` of surface points: ambient, one shadowed point light, a highlight."""
    colours = np.stack([material.colours for material in layout.materials])  # (I, 2, 3)
    gloss = np.array([material.gloss for material in layout.materials], np.float32)[instances]
    mix = _mix(layout, points, instances)
    albedo = np.empty_like(points)
    for channel in range(3):
        first, second = colours[instances, 0, channel], colours[instances, 1, channel]
        albedo[channel] = first + mix * (second - first)

    to_light = layout.light.position[:, None] - points
    squared = dot(to_light, to_light)
    to_light /= np.sqrt(squared)
    facing = dot(to_light, normals)
    lit = facing > 0
    rays = np.flatnonzero(lit)
    lit[rays] = ~occluded(layout.solids, layout.light.position, points[:, rays])
    falloff = np.where(lit, 1 / (1 + 0.08 * squared), np.float32(0))

    to_eye = layout.camera.position[:, None] - points
    to_eye /= np.linalg.norm(to_eye, axis=0)
    halfway = to_light + to_eye
    halfway /= np.maximum(np.linalg.norm(halfway, axis=0), 1e-6)
    shine = np.maximum(dot(halfway, normals), 0)
    for _ in range(5):
        shine *= shine  # to the 32nd power
    ambient = layout.light.ambient * (0.75 + 0.25 * normals[1])
    ambient *= layout.room.openness(points)
    direct = falloff * np.maximum(facing, 0)
    light = layout.light.colour[:, None]
    return np.asarray(albedo * (ambient + direct * light) + gloss * falloff * shine * light)


def to_image(
    colours: Floats32, height: int, width: int, finer: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Average, expose, gamma-encode, add noise and quantise: ``(3, N)`` to ``(H, W, 3)`` uint8."""
    grid = colours.reshape(3, height, finer, width, finer)
    mean = grid.sum(axis=4).sum(axis=2) / np.float32(finer * finer)
    level = float(mean.mean())
    exposure = np.float32(rng.uniform(0.2, 0.42) / max(level, 1e-3))
    encoded = power(np.clip(mean * exposure, _DARKEST, 1), 1 / 2.2)
    noise = rng.standard_normal(encoded.shape, np.float32) * np.float32(rng.uniform(0, 0.025))
    image = np.clip((encoded + noise) * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))
