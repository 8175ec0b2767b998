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
from torch import Tensor

from ..kinds import TASK_KINDS, task_kind
from ..tasks import enlarge, known

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
            if kind not in TASK_KINDS:
                known = ", ".join(TASK_KINDS)
                raise ValueError(f"Recipe kind must be one of {known}, not {kind!r}")
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
                kind.name: kind.scene_weight
                for kind in TASK_KINDS.values()
                if kind.scene_weight is not None
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
    mask, positive = known(kind, truth), task_kind(kind).positive(truth)
    marked = torch.zeros_like(mask) if positive is None else mask & positive
    return torch.stack([mask.sum(), marked.sum()]).double()


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
    share = positive / pixels.clamp_min(1)
    loss = task_kind(kind).loss(output, truth, mask, recipe, share)
    return loss / number
