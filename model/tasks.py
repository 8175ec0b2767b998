"""What the heads' raw outputs mean, the same for every backend.

A raw output ``(B, C, h, w)`` is first enlarged bilinearly to the picture's size, then decoded by
the kind of its task:

=============  ==  ==================================================================
kind            C  decoded
=============  ==  ==================================================================
segmentation    K  label of the largest of K logits, uint8 ``(B, H, W)``
depth           1  ``exp`` of the raw value: metres, float32 ``(B, H, W)``
normals         3  the raw vector over its length, float32 ``(B, H, W, 3)``
edges           1  logistic of the logit: probability, float32 ``(B, H, W)``
saliency        1  the same
=============  ==  ==================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .config import KINDS

__all__ = ["decode", "enlarge", "predict"]


def enlarge(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation to ``size`` (height, width), pixel centres aligned as areas."""
    if tuple(raw.shape[-2:]) == size:
        return raw
    return F.interpolate(raw, size=size, mode="bilinear", align_corners=False)


def decode(kind: str, raw: NDArray[np.float32]) -> NDArray[Any]:
    """Decode an output ``(B, C, H, W)``; see the table above. ``ValueError`` for another kind."""
    if kind == "segmentation":
        return np.asarray(raw.argmax(axis=1), np.uint8)
    if kind == "depth":
        return np.asarray(np.exp(np.clip(raw[:, 0], -10, 10)))
    if kind == "normals":
        vectors = raw.transpose(0, 2, 3, 1)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.asarray(vectors / np.maximum(length, 1e-6))
    if kind in ("edges", "saliency"):
        return np.asarray(0.5 * (1 + np.tanh(0.5 * raw[:, 0])))
    raise ValueError(f"Task kind must be one of {', '.join(KINDS)}, not {kind!r}")


def predict(kind: str, raw: NDArray[np.float32], size: tuple[int, int]) -> NDArray[Any]:
    """Enlarge a raw output ``(B, C, h, w)`` to ``size`` and decode it."""
    tensor = torch.from_numpy(np.ascontiguousarray(raw, dtype=np.float32))
    return decode(kind, enlarge(tensor, size).numpy())
