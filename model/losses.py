"""Training losses of the task kinds, on raw outputs enlarged to the size of the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import KINDS
from .tasks import enlarge

__all__ = ["WEIGHTS", "task_loss"]

WEIGHTS = {"segmentation": 1.0, "depth": 2.0, "normals": 3.0, "edges": 1.5, "saliency": 1.5}
"""Weight of each kind in the sum; they bring the losses of a half-trained network to one size."""


def task_loss(kind: str, raw: Tensor, truth: Tensor) -> Tensor:
    """Mean loss over all pixels, a scalar.

    ``raw`` is ``(B, C, h, w)``; ``truth`` is ``(B, H, W)``, for normals ``(B, H, W, 3)``.
    Cross-entropy for labels, absolute error of log depth, one minus the cosine of the angle between
    normals, and binary cross-entropy for edges and saliency.
    """
    height, width = truth.shape[1:3]
    output = enlarge(raw.float(), (height, width))
    if kind == "segmentation":
        return F.cross_entropy(output, truth.long())
    if kind == "depth":
        return F.l1_loss(output[:, 0], truth.float().log())
    if kind == "normals":
        cosine = F.cosine_similarity(output, truth.float().permute(0, 3, 1, 2), dim=1)
        return torch.mean(1 - cosine)
    if kind in ("edges", "saliency"):
        return F.binary_cross_entropy_with_logits(output[:, 0], truth.float())
    raise ValueError(f"Task kind must be one of {', '.join(KINDS)}, not {kind!r}")
