"""What the heads' raw outputs mean, the same for every backend.

A raw output ``(B, C, h, w)`` is first enlarged bilinearly to the image's size, then decoded as the
kind of its task says (:mod:`.kinds`): labels to uint8 ``(B, H, W)``, numbers to float32 of that
shape, vectors to float32 ``(B, H, W, n)`` of length 1.

A truth has the shape of what is decoded, and may not know some pixels: their label, edge or
saliency is :data:`UNKNOWN` (255), their depth is 0, their vector zero. :func:`known` tells; such
pixels count neither in a loss nor in a score. Edges and saliency may also be ``bool``, all known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .kinds import UNKNOWN, task_kind

__all__ = ["UNKNOWN", "decode", "enlarge", "known", "predict"]


def known(kind: str, truth: Any) -> Any:
    """Which pixels of a truth are known, bool ``(B, H, W)``; a tensor's are a tensor.

    Raises ``ValueError`` for another kind.
    """
    return task_kind(kind).known(truth)


def enlarge(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation to ``size`` (height, width), pixel centres aligned as areas."""
    if tuple(raw.shape[-2:]) == size:
        return raw
    return F.interpolate(raw, size=size, mode="bilinear", align_corners=False)


def decode(kind: str, raw: NDArray[np.float32]) -> NDArray[Any]:
    """Decode an output ``(B, C, H, W)``; ``ValueError`` for another kind."""
    return task_kind(kind).decode(raw)


def predict(kind: str, raw: NDArray[np.float32], size: tuple[int, int]) -> NDArray[Any]:
    """Enlarge a raw output ``(B, C, h, w)`` to ``size`` and decode it."""
    tensor = torch.from_numpy(np.ascontiguousarray(raw, dtype=np.float32))
    return decode(kind, enlarge(tensor, size).numpy())
