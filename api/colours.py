"""Predictions as colours: the same on panels, pages and boards' pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from moevit.model.kinds import TASK_KINDS, Colours, Scale
from moevit.quant.typing import Array, Bytes

__all__ = ["PALETTE", "paint", "value_range"]

# Paul Tol's "muted" scheme (Technical note SRON/EPS/TN/09-002, 2021), told apart by people with any
# of the common colour deficiencies; it has ten colours, further classes begin again in darker ones.
_MUTED = (
    *("#dddddd", "#88ccee", "#ddcc77", "#882255", "#aa4499"),
    *("#332288", "#cc6677", "#117733", "#999933", "#44aa99"),
)
_ROUNDS = (1.0, 0.65, 0.4)


def _palette() -> list[tuple[float, float, float]]:
    colours = []
    for share in _ROUNDS:
        for name in _MUTED:
            red, green, blue = to_rgb(name)
            colours.append((share * red, share * green, share * blue))
    return colours


PALETTE = _palette()
"""RGB from 0 to 1 of each label of a segmentation."""


def value_range(kind: str, *values: Array) -> tuple[float, float]:
    """The ends of the colour map for ``values`` together.

    Of depth without the farthest pixels, which would flatten the rest; else 0 and 1.
    """
    picture = TASK_KINDS[kind].picture
    if not isinstance(picture, Scale) or picture.fixed:
        return 0.0, 1.0
    low, high = np.percentile(np.concatenate([v.ravel() for v in values]), (0.5, 99.5))
    return float(low), max(float(high), float(low) + 1e-3)


def paint(kind: str, values: Array, limits: tuple[float, float] | None = None) -> Bytes:
    """Decoded predictions (:mod:`moevit.model.tasks`) of one image as RGB ``(H, W, 3)`` uint8.

    Labels by :data:`PALETTE`, vectors as their kind says (:mod:`moevit.model.kinds`), numbers by
    the kind's colour map between ``limits`` (:func:`value_range` if None).
    """
    picture = TASK_KINDS[kind].picture
    colours: Any
    if picture is None:
        table = np.array(PALETTE)
        colours = table[values.astype(np.int64) % len(table)]
    elif isinstance(picture, Colours):
        colours = picture.rgb(values)
    else:
        low, high = limits or value_range(kind, values)
        share = (values.astype(np.float32) - low) / (high - low)
        colours = colormaps[picture.colours](np.clip(share, 0, 1))[..., :3]
    return np.asarray(np.rint(255 * colours), np.uint8)
