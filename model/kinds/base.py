"""What a kind of task is, from a head's raw output to a picture.

Nothing here imports PyTorch until a loss asks for it: the command line reads names and channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moevit.quant.typing import Array, Floats32

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.metrics import Scorer
    from ..training.losses import Recipe

__all__ = ["UNKNOWN", "Colours", "Picture", "Scale", "TaskKind"]

UNKNOWN = 255
"""Label of a pixel whose truth is not known, as in PASCAL VOC and Cityscapes."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A picture of numbers: one of matplotlib's colour maps and what its bar says.

    ``fixed``: it goes from 0 to 1, not over what the pixels have.
    """

    colours: str
    label: str
    fixed: bool = True


@dataclass(frozen=True, kw_only=True)
class Colours:
    """A picture of vectors: ``rgb`` of ``(..., C)`` from 0 to 1.

    ``key`` of coordinates x and y from -1 to 1 gives the vectors whose colours explain the others',
    and where they are drawn; ``label`` is beside them.
    """

    rgb: Callable[[Array], Array]
    key: Callable[[Array, Array], tuple[Array, Array]]
    label: str


Picture = Scale | Colours | None
"""None: labels, each with a colour of the palette."""


@dataclass(frozen=True, kw_only=True)
class TaskKind(ABC):
    """A kind of task.

    ``channels`` of its heads, None where there are as many as labels. ``metric``: the one by which
    networks are compared, better where higher unless ``lower_is_better``; ``shown``: its short
    name, unit and format for people. ``scene_weight``: of its loss on the procedural scenes, None
    where they do not know its truth. ``kept``: type and last axis of a truth in the cache of
    scenes.

    A raw output is ``(B, C, H, W)``, enlarged to the image's size; a decoded one and a truth
    ``(B, H, W)`` or ``(B, H, W, n)``.
    """

    name: str
    channels: int | None
    metric: str
    shown: tuple[str, str, str]
    picture: Picture
    lower_is_better: bool = False
    scene_weight: float | None = None
    kept: tuple[Any, tuple[int, ...]] = (np.uint8, ())

    @abstractmethod
    def known(self, truth: Any) -> Any:
        """Which pixels of a truth, array or tensor, are known: bool ``(B, H, W)``."""

    @abstractmethod
    def decode(self, raw: Floats32) -> Array:
        """What a raw output means."""

    def positive(self, truth: Tensor) -> Tensor | None:
        """Pixels that a loss counts for themselves, None if it does not."""
        return None

    @abstractmethod
    def loss(
        self, output: Tensor, truth: Tensor, mask: Tensor, recipe: Recipe, positive: Tensor
    ) -> Tensor:
        """Sum of the losses of the known pixels (``mask``).

        ``positive``: the share of :meth:`positive` pixels among the known ones of the batch.
        """

    @abstractmethod
    def scorer(self, channels: int) -> Scorer:
        """What gathers its metrics."""

    @abstractmethod
    def constant(self, truth: Array, channels: int) -> Floats32:
        """The raw value ``(C,)`` of the best constant, for truths of ``n`` pixels."""

    @abstractmethod
    def probe(self, features: Floats32, truth: Array, channels: int) -> Floats32:
        """Weights ``(features, C)`` of a linear model of single pixels."""

    def from_probe(self, linear: Floats32) -> Floats32:
        """The raw output that a linear model's stands for."""
        return linear

    def keep(self, truth: Array) -> Array:
        """A truth as the cache of scenes keeps it."""
        return truth.astype(self.kept[0])

    def kept_truth(self, kept: Array) -> Array:
        """What was kept."""
        return kept

    def mirrored(self, truth: Array) -> Array:
        """The truth of an image turned left to right, whose pixels are turned already."""
        return truth


def least_squares(features: Floats32, targets: Array) -> Floats32:
    """Weights of a linear model for targets ``(n, ...)``."""
    solution, *_ = np.linalg.lstsq(features, targets.reshape(len(targets), -1))
    return np.asarray(solution, np.float32)


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Vectors ``(..., n)`` over their lengths."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-6))


def regression(features: Floats32, truth: Array, channels: int) -> Floats32:
    """Weights ``(6, channels)`` of a softmax regression, or a logistic one for one channel."""
    import torch
    import torch.nn.functional as F

    x, y = torch.from_numpy(features), torch.from_numpy(truth)
    weight = torch.zeros(features.shape[1], channels, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = x @ weight
        if channels == 1:
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], y)
        else:
            loss = F.cross_entropy(logits, y.long())
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    result: Floats32 = weight.detach().numpy()
    return result
