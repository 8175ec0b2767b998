"""Training losses of the task kinds, on raw outputs enlarged to the size of the image.

A :class:`Recipe` says how each kind is measured and weighed. The procedural scenes have one of
their own; those of the data sets are M3ViT's (its ``losses/loss_functions.py`` and ``configs/``):
cross-entropy for labels, L1 of depth, L1 of unit normals, and cross-entropy for edges and saliency
in which rare positives weigh more.

A loss is a sum over the known pixels (:func:`moevit.model.tasks.known`) over their number in the
*whole* batch, whose :func:`counts` may be given: so the losses of a batch's parts, computed one
after another or on several machines, add up to that of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import KINDS, LABELLED
from ..tasks import UNKNOWN, enlarge, known

__all__ = ["RECIPES", "Recipe", "counts", "task_loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a training measures and weighs its tasks.

    ``weights`` of the kinds in the sum of losses. ``log_depth``: L1 of the depth's logarithm, or of
    the depth. ``cosine``: one minus the cosine of the angle between normals, or the mean absolute
    difference of their components. ``edge_weight``: of an edge pixel, others weigh one minus it;
    None for 1 each. ``balance_saliency``: a salient pixel weighs the share of the others in the
    batch, and they its own (Xie and Tu 2015, HED).

    Raises ``ValueError`` for an unknown kind, or weights out of range.
    """

    name: str
    weights: Mapping[str, float]
    log_depth: bool = False
    cosine: bool = False
    edge_weight: float | None = 0.95
    balance_saliency: bool = True

    def __post_init__(self) -> None:
        for kind, weight in self.weights.items():
            if kind not in KINDS:
                raise ValueError(f"Recipe kind must be one of {', '.join(KINDS)}, not {kind!r}")
            if not weight >= 0:
                raise ValueError(f"Recipe weight of {kind} must not be negative, not {weight!r}")
        if self.edge_weight is not None and not 0 < self.edge_weight < 1:
            raise ValueError(
                f"Recipe edge_weight must be between 0 and 1, not {self.edge_weight!r}"
            )
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    def weight(self, kind: str) -> float:
        """A kind's weight in the sum; ``ValueError`` for one that the recipe lacks."""
        if kind not in self.weights:
            raise ValueError(
                f"Recipe {self.name} has no weight for {kind!r}, only {', '.join(self.weights)}"
            )
        return self.weights[kind]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="scenes",
            weights={
                "segmentation": 1.0,
                "depth": 2.0,
                "normals": 3.0,
                "edges": 1.5,
                "saliency": 1.5,
            },
            log_depth=True,
            cosine=True,
            edge_weight=None,
            balance_saliency=False,
        ),
        Recipe(
            name="nyud",
            weights={"segmentation": 1.0, "depth": 1.0, "normals": 10.0, "edges": 50.0},
        ),
        Recipe(
            name="pascal_context",
            weights={
                "segmentation": 1.0,
                "human_parts": 2.0,
                "saliency": 5.0,
                "edges": 50.0,
                "normals": 10.0,
            },
        ),
        Recipe(name="cityscapes", weights={"segmentation": 1.0, "depth": 1.0}),
    )
}
"""Recipes by the name of their data. Those of ``scenes`` bring the losses of a half-trained network
to one size; the others are M3ViT's."""


def counts(kind: str, truth: Tensor) -> Tensor:
    """Known pixels, and those among them that are positive (edges, salient), ``(2,)`` float64."""
    mask = known(kind, truth)
    positive = mask & (truth == 1) if kind in ("edges", "saliency") else torch.zeros_like(mask)
    return torch.stack([mask.sum(), positive.sum()]).double()


def _binary(output: Tensor, truth: Tensor, mask: Tensor, positive: float | Tensor | None) -> Tensor:
    """Sum of cross-entropies, in which positive pixels weigh ``positive`` and others the rest."""
    target = (truth == 1).float()
    loss = F.binary_cross_entropy_with_logits(output, target, reduction="none")
    if positive is not None:
        loss = loss * (target * positive + (1 - target) * (1 - positive))
    return torch.where(mask, loss, 0).sum()


def task_loss(
    kind: str,
    raw: Tensor,
    truth: Tensor,
    recipe: Recipe = RECIPES["scenes"],
    total: Tensor | None = None,
) -> Tensor:
    """Loss of a task, a scalar; 0 where no pixel is known.

    ``raw`` is ``(B, C, h, w)``; ``truth`` is ``(B, H, W)``, for normals ``(B, H, W, 3)``. ``total``
    are the :func:`counts` of the batch of which these are a part; of ``truth`` itself if None.
    """
    mask = known(kind, truth)
    pixels, positive = (counts(kind, truth) if total is None else total).to(raw.device).unbind()
    number = pixels.clamp_min(1).float()
    output = enlarge(raw.float(), (truth.shape[1], truth.shape[2]))
    if kind in LABELLED:
        loss = F.cross_entropy(output, truth.long(), ignore_index=UNKNOWN, reduction="sum")
    elif kind == "depth":
        wanted = torch.where(mask, truth.float(), 1)
        found = output[:, 0]
        difference = found - wanted.log() if recipe.log_depth else found.exp() - wanted
        loss = torch.where(mask, difference.abs(), 0).sum()
    elif kind == "normals":
        wanted = truth.float().permute(0, 3, 1, 2)
        if recipe.cosine:
            each = 1 - F.cosine_similarity(output, wanted, dim=1)
        else:
            each = (F.normalize(output, dim=1) - wanted).abs().mean(1)
        loss = torch.where(mask, each, 0).sum()
    elif kind == "edges":
        loss = _binary(output[:, 0], truth, mask, recipe.edge_weight)
    else:  # saliency: known() has refused all others
        share = (1 - positive / pixels.clamp_min(1)).float()
        loss = _binary(output[:, 0], truth, mask, share if recipe.balance_saliency else None)
    return loss / number
