"""Upsampling heads before quantisation: :mod:`..operators.upsampling` in floats.

A stage folds its doubling into windows as the integers do, so that both sides have the same layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..operators.upsampling import Window, windows
from ..typing import Floats32
from .layers import FloatLinear, FloatNorm

__all__ = ["SAMPLED", "FloatStage", "FloatUpsamplingHead", "read_by", "surroundings"]


SAMPLED = 16
"""Pixels of a map whose surroundings calibration sees: a row is nine pixels wide."""

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatStage:
    """Doubling or not, a convolution with batch norm folded in, and ReLU or not.

    ``weight`` ``(O, C, k, k)``, ``bias`` ``(O,)``. ``linears``: layers of the windows to compute
    with instead, in their order.
    """

    weight: Floats32
    bias: Floats32
    doubling: bool
    relu: bool
    linears: tuple[FloatLinear, ...] = ()

    @property
    def kernel(self) -> int:
        """Side of the convolution's kernel."""
        return int(self.weight.shape[2])

    @property
    def factor(self) -> int:
        """Outputs of a pixel along one side."""
        return 2 if self.doubling else 1

    @property
    def taps(self) -> list[FloatLinear]:
        """Each of the kernel's taps as a layer on one pixel."""
        weights = self.weight.reshape(*self.weight.shape[:2], -1)
        return [
            FloatLinear(weight=weights[..., t], bias=self.bias) for t in range(weights.shape[2])
        ]

    def windows(self, size: tuple[int, int]) -> tuple[Window, ...]:
        """Of a map of ``size`` (height, width)."""
        return windows(size, kernel=self.kernel, doubling=self.doubling)

    def folded(self, window: Window) -> FloatLinear:
        """The layer of a window, on the pixels that it reads side by side."""
        return FloatLinear(weight=window.fold(self.weight).astype(np.float32), bias=self.bias)

    def __call__(self, maps: Floats32) -> Floats32:
        """Maps ``(B, h, w, C)`` to ``(B, f h, f w, O)``, image by image to save memory."""
        batch, height, width, _ = maps.shape
        found = self.windows((height, width))
        linears = self.linears or tuple(self.folded(window) for window in found)
        f = self.factor
        out = np.zeros((batch, f * height, f * width, len(self.bias)), np.float32)
        for b in range(batch):
            for window, linear in zip(found, linears, strict=True):
                r, c = window.rows, window.columns
                rows = slice(f * r.start + r.phase, f * (r.start + r.count), f)
                columns = slice(f * c.start + c.phase, f * (c.start + c.count), f)
                out[b, rows, columns] = linear(window.gather(maps[b : b + 1])[0])
        return np.maximum(out, 0, out=out) if self.relu else out


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatUpsamplingHead:
    """Stages on the grid of patch tokens, behind a norm of its own where the network has none."""

    norm: FloatNorm | None
    stages: tuple[FloatStage, ...]

    @property
    def channels(self) -> int:
        """Output planes."""
        return len(self.stages[-1].bias)

    @property
    def upscale(self) -> int:
        """Outputs to a patch's side."""
        return 1 << sum(stage.doubling for stage in self.stages)

    def with_layers(
        self, grid: tuple[int, int], name: str, layer: Callable[[str, FloatLinear], FloatLinear]
    ) -> FloatUpsamplingHead:
        """The head with each window's layer passed through ``layer`` under its name,
        ``<name>.stages.<n>.windows.<w>``."""
        stages, size = [], grid
        for n, stage in enumerate(self.stages):
            linears = stage.linears or tuple(stage.folded(w) for w in stage.windows(size))
            changed = tuple(
                layer(f"{name}.stages.{n}.windows.{w}", linear) for w, linear in enumerate(linears)
            )
            stages.append(replace(stage, linears=changed))
            size = (size[0] * stage.factor, size[1] * stage.factor)
        return replace(self, stages=tuple(stages))


def surroundings(maps: Floats32) -> Floats32:
    """Three by three pixels around :data:`SAMPLED` of each map ``(B, h, w, C)``: ``(n, 9 * C)``.

    Pixels are spread evenly (multiples of the golden section); what would lie outside repeats the
    edge.
    """
    batch, height, width, channels = maps.shape
    count = min(SAMPLED, height * width)
    places = (np.arange(1, count + 1) * _GOLDEN % 1 * height * width).astype(np.int64)
    near = np.array([-1, 0, 1])
    rows = np.clip((places // width)[:, None] + near, 0, height - 1)  # (n, 3)
    columns = np.clip((places % width)[:, None] + near, 0, width - 1)
    out: Floats32 = maps[:, rows[:, :, None], columns[:, None, :]]  # (B, n, 3, 3, C)
    return out.reshape(batch * count, 9 * channels)


def read_by(window: Window, around: Floats32) -> Floats32:
    """What a window's layer reads of :func:`surroundings`: ``(n, taps * C)``."""
    nine = around.reshape(len(around), 3, 3, -1)
    r, c = window.rows, window.columns
    rows = slice(r.first + 1, r.first + 1 + r.taps)
    columns = slice(c.first + 1, c.first + 1 + c.taps)
    return nine[:, rows, columns].reshape(len(around), -1)
