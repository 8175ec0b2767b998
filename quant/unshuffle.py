"""From a head's integers to planes of floats.

A driver on a board uses this file as it is: it needs Python 3.10 and NumPy, and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["unshuffle"]

Ints = np.ndarray[Any, np.dtype[Any]]


def unshuffle(
    output: Ints, *, channels: int, upscale: int, scale: float, grid: tuple[int, int]
) -> Ints:
    """Head output ``(..., patches, C*s*s)`` to float planes ``(..., C, rows * s, columns * s)``.

    ``upscale`` is s; one step of ``output`` is worth ``scale``. The one row of a head on the class
    token becomes planes of one pixel.
    """
    rows, columns = grid if output.shape[-2] > 1 else (1, 1)
    s, lead = upscale, output.shape[:-2]
    planes = output.reshape(*lead, rows, columns, channels, s, s).astype(np.float32)
    planes = np.moveaxis(planes, (-3, -5, -2, -4, -1), (-5, -4, -3, -2, -1))
    return (planes * np.float32(scale)).reshape(*lead, channels, rows * s, columns * s)
