"""GEMMs over windows of a map, and what they must do, written from the definition on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moevit.hw.config import AcceleratorConfig
from moevit.hw.isa import ACTIVATED, Destination, Gemm
from moevit.quant.formats import Multiplier
from moevit.quant.operators.linear import Linear, to_activation

__all__ = ["Windows", "window_cases"]

OUT, ZERO_POINT = Multiplier.from_scale(0.07), -90
MODES = (Destination.ACT8, *ACTIVATED, Destination.ACT16, Destination.RESIDUAL)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A map of ``height x width`` pixels of ``words``, windows of ``down x across`` pixels at
    ``rows x columns`` positions from ``(top, left)`` on, and a map of results.

    A result is pixel ``(factor*y + phase[0], factor*x + phase[1])`` of a map with ``margin`` more
    columns than it needs; only ``otiles`` of a result pixel's ``otile_base + otiles`` tiles are
    written. ``cut``: the last words of a window are left out.
    """

    height: int
    width: int
    words: int
    top: int
    left: int
    rows: int
    columns: int
    down: int
    across: int
    cut: int
    factor: int
    phase: tuple[int, int]
    margin: int
    otiles: int
    otile_base: int
    mode: Destination
    seed: int

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Windows:
        """From what JSON leaves of its fields."""
        changed = {"mode": Destination(data["mode"]), "phase": tuple(data["phase"])}
        return cls(**{**data, **changed})

    @property
    def depth(self) -> int:
        """Words of a window."""
        return self.down * self.across * self.words - self.cut

    @property
    def out_shape(self) -> tuple[int, int]:
        """Pixels of the map of results."""
        return self.factor * self.rows, self.factor * self.columns + self.margin

    def pixel_words(self, config: AcceleratorConfig) -> int:
        """Words of a result pixel: of X for RESIDUAL, of A otherwise."""
        tiles = self.otile_base + self.otiles
        if self.mode == Destination.RESIDUAL:
            return tiles
        size = 2 if self.mode == Destination.ACT16 else 1
        return -(-tiles * size * config.array.outputs // config.array.inputs)

    def gemm(self, config: AcceleratorConfig, source: int, target: int) -> Gemm:
        """The instruction for maps at ``source`` (of A) and ``target`` (of A or X)."""
        words, width, pixel = self.words, self.out_shape[1], self.pixel_words(config)
        return Gemm(
            source=source + (self.top * self.width + self.left) * words,
            stride=words,
            depth=self.depth,
            tokens=self.rows * self.columns,
            line=self.columns,
            source_line=self.width,
            span=self.across * words,
            otiles=self.otiles,
            otile_base=self.otile_base,
            mode=self.mode,
            target=target + (self.phase[0] * width + self.phase[1]) * pixel,
            target_stride=self.factor * pixel,
            target_line=width,
            mult=OUT.mult,
            shift=OUT.shift,
            zero_point=ZERO_POINT if self.mode in ACTIVATED else 3,
        )

    def linear(self, config: AcceleratorConfig) -> Linear:
        """Random weights."""
        rng = np.random.default_rng(self.seed)
        outputs = self.otiles * config.array.outputs
        scales = [Multiplier.from_scale(0.01 * s) for s in rng.uniform(0.2, 1, outputs)]
        return Linear(
            weight=rng.integers(-127, 128, (outputs, self.depth * config.array.inputs), np.int8),
            bias=rng.integers(-3000, 3000, outputs).astype(np.int32),
            mult=np.array([s.mult for s in scales], np.uint16),
            shift=np.array([s.shift for s in scales], np.uint8),
        )

    def compute(self, config: AcceleratorConfig, source: np.ndarray, old: np.ndarray) -> np.ndarray:
        """Map of results ``(h, w, values)`` behind the GEMM: of int16 for ACT16 and RESIDUAL.

        ``source``: ``(height, width, channels)`` int8; ``old``: the map of results before.
        """
        linear, o = self.linear(config), config.array.outputs
        out = old.astype(np.int64)
        places = slice(self.otile_base * o, (self.otile_base + self.otiles) * o)
        for y in range(self.rows):
            for x in range(self.columns):
                top, left = self.top + y, self.left + x
                window = source[top : top + self.down, left : left + self.across].reshape(1, -1)
                window = window[:, : self.depth * config.array.inputs]
                at = (self.factor * y + self.phase[0], self.factor * x + self.phase[1], places)
                if self.mode == Destination.RESIDUAL:
                    out[at] = linear.add(out[at][None], window)[0]
                    continue
                values = linear.values(window)[0]
                if self.mode == Destination.ACT8:
                    values = to_activation(values, 3)
                elif self.mode in ACTIVATED:
                    function = ACTIVATED[self.mode]
                    values = to_activation(OUT.compute(function.compute(values)), ZERO_POINT)
                out[at] = values
        return out.astype(old.dtype)


@st.composite
def window_cases(draw: st.DrawFn, *, most_words: int = 3, most_depth: int = 32) -> Windows:
    """Maps of 1 x 1 to 7 x 9 pixels and windows of up to 3 x 3 that lie in them."""
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    down, across = draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width)))
    top, left = draw(st.integers(0, height - down)), draw(st.integers(0, width - across))
    words = draw(st.integers(1, max(1, min(most_words, most_depth // (down * across)))))
    factor = draw(st.sampled_from((1, 2)))
    return Windows(
        height=height,
        width=width,
        words=words,
        top=top,
        left=left,
        rows=draw(st.integers(1, height - down - top + 1)),
        columns=draw(st.integers(1, width - across - left + 1)),
        down=down,
        across=across,
        cut=draw(st.integers(0, min(2, down * across * words - 1))),
        factor=factor,
        phase=(draw(st.integers(0, factor - 1)), draw(st.integers(0, factor - 1))),
        margin=draw(st.integers(0, 2)),
        otiles=draw(st.integers(1, 3)),
        otile_base=draw(st.integers(0, 2)),
        mode=draw(st.sampled_from(MODES)),
        seed=draw(st.integers(0, 1 << 16)),
    )
