"""Post-training quantisation of upsampling heads' stages, with the methods of :mod:`.quantize`.

Outputs of a ReLU are codes from -128 for 0 up, with a scale for each channel that the next stage's
weights absorb: exponents between one scale for all channels and each channel its own range, the one
with the least error behind the next convolution.

Each window has weights and rounding of its own; by default a tap makes up for the error of the one
before (:func:`~.rounding.diffused`), since pixels side by side are alike. What a window reads is
taken from samples all over the map (:func:`~..float.upsampling.surroundings`), at its edges too:
rounding and bias correction see the same images' pixels, not only those at that edge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..float.upsampling import FloatStage, FloatUpsamplingHead, read_by
from ..formats import VALUE, weight_max
from ..operators.linear import Linear
from ..operators.upsampling import Stage
from .calibrate import Calibration
from .layers import Layers
from .ranges import Encoding
from .rounding import seeks

__all__ = ["upsampling_stages"]

Floats = np.ndarray[Any, np.dtype[Any]]


def upsampling_stages(
    made: Layers,
    stats: Calibration,
    head: FloatUpsamplingHead,
    *,
    name: str,
    grid: tuple[int, int],
    encoding: Encoding,
) -> tuple[Stage, ...]:
    """Integers of the stages of ``head``, whose sites and layers begin with ``name``.

    ``encoding``: of the normalised patch tokens, a map of ``grid`` (rows, columns).
    """
    site = stats.site(name)
    peak = max(float(np.abs(site.low).max()), float(np.abs(site.high).max()))
    final = peak * made.options.headroom / VALUE.max
    stages, (height, width) = [], grid
    for n, stage in enumerate(head.stages):
        where = f"{name}.stages.{n}"
        step: float | Floats = final
        behind, pivot = encoding, _centre(stats, f"{name}.around.{n}", encoding)
        if stage.relu:
            after = head.stages[n + 1]
            size = (height * stage.factor, width * stage.factor)
            widest = max(after.windows(size), key=lambda window: window.taps)
            rows = read_by(widest, stats.site(f"{name}.around.{n + 1}").rows)
            behind = made.rectified(
                where, stats.site(where), after.folded(widest), rows, widest.taps
            )
            step = behind.scale
        around = stats.site(f"{name}.around.{n}").rows if _needs_rows(made) else None
        stages.append(
            Stage(
                height=height,
                width=width,
                channels=int(stage.weight.shape[1]),
                kernel=stage.kernel,
                doubling=stage.doubling,
                relu=stage.relu,
                linears=_linears(
                    made, stage, (height, width), encoding, step, where, around, pivot
                ),
            )
        )
        encoding = behind
        height, width = height * stage.factor, width * stage.factor
    return tuple(stages)


def _centre(stats: Calibration, around: str, encoding: Encoding) -> Floats:
    """Mean code of each channel that a stage reads."""
    pixels = stats.site(around).rows.reshape(-1, len(encoding.scale))
    out: Floats = encoding.encode(pixels).mean(axis=0)
    return out


def _needs_rows(made: Layers) -> bool:
    options = made.options
    return (
        options.bias_correction
        or options.rounding == "auto"
        or seeks(options.rounding, weight_max(8))
    )


def _linears(
    made: Layers,
    stage: FloatStage,
    size: tuple[int, int],
    encoding: Encoding,
    step: float | Floats,
    where: str,
    around: Floats | None,
    pivot: Floats,
) -> tuple[Linear, ...]:
    found = []
    for w, window in enumerate(stage.windows(size)):
        found.append(
            made.linear(
                stage.folded(window),
                encoding.tiled(window.taps),
                step,
                name=f"{where}.windows.{w}",
                rows=None if around is None else read_by(window, around),
                pivot=np.tile(pivot, window.taps),
                taps=window.taps,
            )
        )
    return tuple(found)
