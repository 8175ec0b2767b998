"""Calibration: what every tensor of a float network looks like on a set of images.

Static quantisation needs the ranges of activations before it sees the image. Each site keeps
exact per-channel extremes and a uniform sample of rows (reservoir sampling, Vitter 1985, algorithm
R) for clipping searches and for error estimates; routing is counted for the expert schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..float.network import FloatMoe, FloatNetwork
from ..operators.gate import NOBODY

__all__ = ["Calibration", "Site", "calibrate"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

_BATCH = 8
_PICTURES = 64


@dataclass(kw_only=True, eq=False)
class Site:
    """One tensor: ``low``, ``high``, ``sum`` per channel; ``rows`` ``(n, channels)``, a sample."""

    low: Floats
    high: Floats
    sum: np.ndarray[Any, np.dtype[np.float64]]
    count: int
    rows: Floats

    @property
    def mean(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Mean of each channel."""
        return self.sum / max(self.count, 1)

    def sample(self, limit: int) -> Floats:
        """At most ``limit`` rows, spread evenly over those that were kept."""
        if len(self.rows) <= limit:
            return self.rows
        return self.rows[np.linspace(0, len(self.rows) - 1, limit).astype(np.int64)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Statistics by site name (see :meth:`~..float.network.FloatNetwork.run`) and routing counts.

    ``usage[block][task]`` is the mean number of tokens an image sends to each expert. ``pictures``
    ``(n, H, W, C)`` uint8 are the first of the images, those that quantisation looks at again.
    """

    images: int
    sites: dict[str, Site]
    usage: dict[int, dict[str, tuple[float, ...]]]
    pictures: Any = None

    def site(self, name: str) -> Site:
        """Statistics of a site; ``ValueError`` for one that calibration never reached."""
        if name not in self.sites:
            raise ValueError(f"Calibration holds nothing for {name!r}")
        return self.sites[name]


@dataclass(kw_only=True)
class _Recorder:
    """Collects sites; ``capacity`` rows each."""

    capacity: int
    rng: np.random.Generator
    sites: dict[str, Site] = field(default_factory=dict)
    routing: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = field(default_factory=dict)
    experts: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str, rows: Any) -> None:
        if ".routing." in name:
            counts = np.bincount(rows[rows != NOBODY], minlength=self.experts[name])
            self.routing[name] = self.routing.get(name, np.zeros_like(counts)) + counts
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        total = rows.sum(axis=0, dtype=np.float64)
        site = self.sites.get(name)
        if site is None:
            empty = np.empty((0, rows.shape[1]), np.float32)
            site = self.sites[name] = Site(low=low, high=high, sum=total, count=0, rows=empty)
        else:
            site.low, site.high = np.minimum(site.low, low), np.maximum(site.high, high)
            site.sum += total
        self._sample(site, rows)

    def _sample(self, site: Site, rows: Floats) -> None:
        free = self.capacity - len(site.rows)
        if free > 0:
            site.rows = np.concatenate([site.rows, rows[:free]])
            site.count += min(free, len(rows))
            rows = rows[free:]
        if len(rows):
            slots = self.rng.integers(0, site.count + 1 + np.arange(len(rows)))
            kept = slots < self.capacity
            site.rows[slots[kept]] = rows[kept]
            site.count += len(rows)


def calibrate(
    network: FloatNetwork,
    images: Any,
    *,
    rows: int = 4096,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Run ``images`` ``(N, H, W, C)`` uint8 under every task and collect statistics.

    ``rows`` are kept of each site. ``progress`` is called with the number of images done.
    Raises ``ValueError`` if there is no image.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"Calibration needs images (N, H, W, C), not shape {images.shape}")
    recorder = _Recorder(capacity=rows, rng=np.random.default_rng(seed))
    for i, block in enumerate(network.blocks):
        if isinstance(block.mlp, FloatMoe):
            for task in network.tasks:
                recorder.experts[f"blocks.{i}.routing.{task}"] = len(block.mlp.experts)
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        network.run(batch, observe=recorder)
        if progress is not None:
            progress(start + len(batch))
    usage = {
        i: {task: _mean(recorder, f"blocks.{i}.routing.{task}", len(images)) for task in tasks}
        for i, tasks in _mixtures(network)
    }
    return Calibration(
        images=len(images), sites=recorder.sites, usage=usage, pictures=images[:_PICTURES].copy()
    )


def _mixtures(network: FloatNetwork) -> Iterable[tuple[int, tuple[str, ...]]]:
    return ((i, network.tasks) for i, b in enumerate(network.blocks) if isinstance(b.mlp, FloatMoe))


def _mean(recorder: _Recorder, name: str, images: int) -> tuple[float, ...]:
    return tuple(float(c) for c in recorder.routing[name] / images)
