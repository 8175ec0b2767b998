"""Upsampling heads: 3x3 convolutions, with the bilinear doubling in front of each folded into it.

A convolution of a map that was doubled bilinearly is, for each of the four positions within a pixel
of the map before, a convolution of that map (the sub-pixel form of Shi et al. 2016, sec. 3): a
doubled row is a mean of two rows, so that three of them next to one another are means of three.
The products are as many as those of the convolution itself, the doubled map is never made, and its
values are not rounded. Only the weights at the edges differ, where doubling repeats the last pixel
(``align_corners=False``) and the convolution adds zeros: a :class:`Window` for each of these cases
has weights of its own and reads no pixel that does not exist.

ReLU costs nothing: its outputs are int8 with the code -128 for 0, where saturation cuts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from ..formats import ACTIVATION
from ..typing import Floats, Ints
from .layernorm import LayerNorm
from .linear import Linear, to_activation

__all__ = [
    "KERNELS",
    "MAX_SIDE",
    "Span",
    "Stage",
    "UpsamplingHead",
    "Window",
    "doubling_matrix",
    "spans",
    "windows",
]

KERNELS = (1, 3)
"""Sides of a convolution's kernel."""
MAX_SIDE = 2048
"""Pixels of a map's side, at most: what a damaged file may ask for is bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Positions of one axis of a map whose output of one phase has the same coefficients.

    ``count`` positions from ``start`` on; position p gives output ``factor * p + phase`` and reads
    ``taps`` positions from ``p + first`` on. ``coefficients`` ``(taps, kernel)``: what a tap counts
    for each element of the kernel.
    """

    start: int
    count: int
    phase: int
    first: int
    coefficients: tuple[tuple[float, ...], ...]

    @property
    def taps(self) -> int:
        """Positions that are read."""
        return len(self.coefficients)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Pixels of a map with the same weights: a span down and one across."""

    rows: Span
    columns: Span

    @property
    def taps(self) -> int:
        """Pixels that are read for one output."""
        return self.rows.taps * self.columns.taps

    def fold(self, weight: Floats) -> Floats:
        """A convolution's ``(O, C, kernel, kernel)`` as ``(O, taps * C)``, tap by tap."""
        down, across = np.array(self.rows.coefficients), np.array(self.columns.coefficients)
        folded: Floats = np.einsum("tk,ul,ockl->otuc", down, across, weight)
        return folded.reshape(len(weight), -1)

    def gather(self, maps: Ints) -> Ints:
        """What its outputs read: maps ``(B, h, w, C)`` to ``(B, rows, columns, taps * C)``."""
        r, c = self.rows, self.columns
        taps = [
            maps[:, y : y + r.count, x : x + c.count]
            for y in range(r.start + r.first, r.start + r.first + r.taps)
            for x in range(c.start + c.first, c.start + c.first + c.taps)
        ]
        return np.concatenate(taps, axis=-1)


def doubling_matrix(size: int) -> Floats:
    """Bilinear doubling of one axis, ``(2 * size, size)``; pixels' centres keep their places."""
    matrix = np.zeros((2 * size, size))
    for p in range(2 * size):
        near = p // 2
        far = min(max(near + (1 if p % 2 else -1), 0), size - 1)
        matrix[p, near] += 0.75
        matrix[p, far] += 0.25
    return matrix


@cache
def spans(size: int, *, kernel: int, doubling: bool) -> tuple[Span, ...]:
    """One axis of ``size`` positions under doubling (or not) and a convolution with zeros around.

    Ordered by phase, then position.
    """
    factor, reach = (2, kernel // 2) if doubling else (1, kernel // 2)
    matrix = doubling_matrix(size) if doubling else np.eye(size)
    padded = np.pad(matrix, ((reach, reach), (0, 0)))
    found: list[Span] = []
    for phase, position in product(range(factor), range(size)):
        output = factor * position + phase
        table = padded[output : output + kernel].T  # (size, kernel)
        used = np.flatnonzero(table.any(axis=1))
        first, last = int(used[0]), int(used[-1])
        span = Span(
            start=position,
            count=1,
            phase=phase,
            first=first - position,
            coefficients=tuple(map(tuple, table[first : last + 1].tolist())),
        )
        before = found[-1] if found else None
        if before and (before.phase, before.first, before.coefficients) == (
            span.phase,
            span.first,
            span.coefficients,
        ):
            found[-1] = Span(
                start=before.start,
                count=before.count + 1,
                phase=phase,
                first=span.first,
                coefficients=span.coefficients,
            )
        else:
            found.append(span)
    return tuple(found)


def windows(size: tuple[int, int], *, kernel: int, doubling: bool) -> tuple[Window, ...]:
    """The windows of a map of ``size`` (height, width), row spans outer, column spans inner."""
    down, across = (spans(s, kernel=kernel, doubling=doubling) for s in size)
    return tuple(Window(rows=r, columns=c) for r, c in product(down, across))


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """Doubling or not, a convolution, and ReLU or not: maps ``(h, w, C)`` to ``(f h, f w, O)``.

    ``linears``: for each of :func:`windows`, in order, a layer on the pixels it reads side by side.
    With ``relu`` the outputs are int8 with 0 at :attr:`zero_point`, without it 16-bit values.
    """

    height: int
    width: int
    channels: int
    kernel: int
    doubling: bool
    relu: bool
    linears: tuple[Linear, ...]

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= MAX_SIDE:
                raise ValueError(f"{name} must be from 1 to {MAX_SIDE}, not {getattr(self, name)}")
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {KERNELS}, not {self.kernel}")
        expected = self.windows
        if len(self.linears) != len(expected):
            raise ValueError(f"linears must be {len(expected)}, not {len(self.linears)}")
        outputs = self.linears[0].shape[0]
        for n, (window, linear) in enumerate(zip(expected, self.linears, strict=True)):
            shape = (outputs, window.taps * self.channels)
            if linear.shape != shape:
                raise ValueError(f"linears.{n}.weight must be {shape}, not {linear.shape}")

    @property
    def windows(self) -> tuple[Window, ...]:
        """What each of ``linears`` reads and where its outputs belong."""
        return windows((self.height, self.width), kernel=self.kernel, doubling=self.doubling)

    @property
    def factor(self) -> int:
        """Outputs of a pixel along one side."""
        return 2 if self.doubling else 1

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.linears[0].shape[0]

    @property
    def zero_point(self) -> int:
        """Code of 0 in the outputs of a ReLU."""
        return ACTIVATION.min

    @property
    def pieces(self) -> Iterator[tuple[Window, Linear]]:
        """Windows and their layers."""
        return zip(self.windows, self.linears, strict=True)

    def compute(self, maps: Ints) -> Ints:
        """Maps ``(B, h, w, C)`` int8 to ``(B, f h, f w, O)``."""
        f = self.factor
        out = np.zeros((len(maps), f * self.height, f * self.width, self.outputs), np.int64)
        maps = maps.astype(np.int8)
        for b, (window, linear) in product(range(len(maps)), self.pieces):  # one by one: memory
            r, c = window.rows, window.columns
            rows = slice(f * r.start + r.phase, f * (r.start + r.count), f)
            columns = slice(f * c.start + c.phase, f * (c.start + c.count), f)
            out[b, rows, columns] = linear.values(window.gather(maps[b : b + 1])[0])
        return to_activation(out, self.zero_point) if self.relu else out


@dataclass(frozen=True, kw_only=True, eq=False)
class UpsamplingHead:
    """M3ViT's progressive-upsampling head on the patch tokens: ``(upscale * rows * upscale *
    columns, channels)`` 16-bit outputs, pixel by pixel in raster order.

    ``norm``: its own, where the backbone ends without one. The first stage reads the normalised
    tokens as a map of the grid of patches. ``scale`` turns outputs into floats.
    """

    norm: LayerNorm | None
    stages: tuple[Stage, ...]

    @property
    def channels(self) -> int:
        """Output planes."""
        return self.stages[-1].outputs

    @property
    def upscale(self) -> int:
        """Outputs to a patch's side."""
        return 1 << sum(stage.doubling for stage in self.stages)

    @property
    def scale(self) -> float:
        """Float value of one output step."""
        return self.stages[-1].linears[0].scale

    # What a linear head may be, and this never is: it reads every patch token by itself.
    @property
    def single(self) -> bool:
        """Whether the result is one row."""
        return False

    @property
    def class_token(self) -> bool:
        """Whether it reads the class token."""
        return False

    @property
    def tokens(self) -> int:
        """Tokens that are read side by side."""
        return 1

    @property
    def mean(self) -> None:
        """No mean over tokens is made first."""
        return None

    def maps(self, tokens: Ints) -> Iterator[Ints]:
        """Normalised patch tokens ``(B, patches, D)`` int8 to each stage's ``(B, pixels, O)``."""
        out = tokens
        for stage in self.stages:
            maps = out.reshape(len(tokens), stage.height, stage.width, stage.channels)
            out = stage.compute(maps).reshape(len(tokens), -1, stage.outputs)
            yield out

    def compute(self, tokens: Ints) -> Ints:
        """Normalised patch tokens ``(B, patches, D)`` int8 to ``(B, pixels, channels)``."""
        *_, out = self.maps(tokens)
        return out
