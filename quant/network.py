"""The quantised network: geometry and integer parameters, independent of PyTorch and of hardware.

This is what calibration produces, what the golden model executes and what the compiler takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .dial import AS_COMPILED, Dial
from .formats import Multiplier
from .operators.gate import NOBODY, Gate
from .operators.layernorm import LayerNorm
from .operators.linear import HiddenOutput, Linear
from .operators.rescale import Rescale
from .operators.softmax import Softmax
from .operators.upsampling import UpsamplingHead

__all__ = [
    "Attention",
    "Block",
    "Entry",
    "Expert",
    "Geometry",
    "Head",
    "Mlp",
    "Moe",
    "Network",
    "Pooled",
    "expert_order",
]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes. ``tokens`` counts the class token, which comes first; ``dim = heads * head_dim``.

    With ``distilled`` a second token like it, the distillation token, is behind it, and behind
    both are ``registers`` tokens that no head reads.
    """

    image_height: int
    image_width: int
    patch: int
    channels: int
    dim: int
    heads: int
    class_token: bool = True
    distilled: bool = False
    registers: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_height // self.patch, self.image_width // self.patch

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Patches plus the tokens in front of them."""
        return self.patches + self.front

    @property
    def front(self) -> int:
        """Tokens in front of the patches."""
        return int(self.class_token) + int(self.distilled) + self.registers

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """Self-attention. ``q``, ``k``, ``v``: ``(D, D)`` to int8, head h owning channels ``h*d..``.

    ``proj`` adds to the residual.
    """

    q: Linear
    k: Linear
    v: Linear
    softmax: Softmax
    proj: Linear


@dataclass(frozen=True, kw_only=True, eq=False)
class Mlp:
    """Dense feed-forward: ``fc1`` gives the pre-activation, ``fc2`` adds to the residual.

    ``hidden`` holds the activation function and the scale behind it.
    """

    fc1: Linear
    hidden: HiddenOutput
    fc2: Linear


def expert_order(usage: Sequence[float]) -> tuple[int, ...]:
    """Experts by falling usage; of equally used ones the lower index comes first."""
    return tuple(sorted(range(len(usage)), key=lambda e: (-usage[e], e)))


Expert = Mlp
"""An expert is a smaller MLP whose result is weighted by the token's score."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moe:
    """Experts and, for each task, a router.

    ``routers[task]`` maps the gate's input to logits ``(N, n)`` of the ``n = gate.experts`` experts
    from ``starts[task]`` on, those that the task may choose (0 where the task is absent). The input
    are the activations that the experts see; with ``ahead`` it is the residual stream in front of
    the block, rescaled. ``order[task]`` is a permutation of all experts: the order in which they
    are executed (most popular first). ``usage[task]`` counts, for each expert, the tokens an image
    sends to it on average in calibration.
    """

    gate: Gate
    routers: dict[str, Linear]
    experts: tuple[Expert, ...]
    order: dict[str, tuple[int, ...]]
    usage: dict[str, tuple[float, ...]]
    starts: dict[str, int] = field(default_factory=dict)
    ahead: Rescale | None = None

    def window(self, task: str) -> range:
        """The experts that a task may choose."""
        start = self.starts.get(task, 0)
        return range(start, start + self.gate.experts)

    def route(self, task: str, logits: Any) -> tuple[Any, Any]:
        """A router's logits ``(N, n)`` to the chosen experts and their scores, both ``(N, k)``.

        Experts are numbered among all; see :meth:`Gate.compute`.
        """
        index, score = self.gate.compute(logits)
        return np.where(index == NOBODY, NOBODY, index + self.window(task).start), score


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Pre-norm transformer block; ``mlp`` is dense or a mixture of experts."""

    norm1: LayerNorm
    attention: Attention
    norm2: LayerNorm
    mlp: Mlp | Moe


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A norm between the embedded tokens and the first block.

    The residual stream becomes what ``linear`` ``(D, D)``, a diagonal, makes of the norm's int8
    outputs, added to zeros.
    """

    norm: LayerNorm
    linear: Linear


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooled:
    """A mean of the residual stream over the patches, and the norm behind it.

    ``rescale`` makes int8 of the patches' residuals, of which the mean is taken; ``linear``
    ``(D, D)``, a diagonal, adds it to zeros as a residual of its own scale, and ``norm`` follows.
    """

    rescale: Rescale
    linear: Linear
    norm: LayerNorm


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """Linear head on every patch token: 16-bit outputs ``(patches, channels * s * s)``.

    With ``class_token`` it reads that token alone and gives one row, ``upscale`` being 1; where
    ``tokens`` is 2, that and the distillation token, side by side. With ``mean`` it reads the patch
    tokens' mean times ``mean`` (:func:`~.operators.softmax.token_mean`), also one row; with
    ``pooled`` that mean is of the residual stream and has a norm behind it.
    ``linear.scale`` turns outputs into floats. ``channels`` output planes, ``upscale`` = s
    sub-pixels a side; output index
    ``c*s*s + dy*s + dx`` (pixel-shuffle order).
    """

    linear: Linear
    channels: int
    upscale: int
    class_token: bool = False
    tokens: int = 1
    mean: Multiplier | None = None
    pooled: Pooled | None = None

    @property
    def single(self) -> bool:
        """Whether the result is one row."""
        return self.class_token or self.mean is not None

    @property
    def scale(self) -> float:
        """Float value of one output step."""
        return self.linear.scale

    @property
    def norm(self) -> Rescale | None:
        """What makes int8 of the tokens where the network's final norm does not."""
        return None if self.pooled is None else self.pooled.rescale


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A whole quantised multi-task network.

    ``patch_embed``: weight ``(D, patch*patch*channels)`` with inputs in the order (row, column,
    channel) of an interleaved image, pixels entering as ``u8 - 128``; it adds to the residual.
    ``embedding``: ``(tokens, D)`` int16, position embedding with the class token added to row 0.
    ``residual_scale``: float value of one step of the residual stream.
    ``norm`` and ``heads`` are absent in a backbone without heads; an upsampling head brings a norm
    of its own where the network has none. ``meta`` is free JSON (the model's configuration,
    calibration method). ``norm_scale``: float value of one step of the final norm's outputs where
    they are the result, in a network without heads; 0 elsewhere.
    """

    geometry: Geometry
    patch_embed: Linear
    embedding: np.ndarray
    blocks: tuple[Block, ...]
    norm: LayerNorm | None
    heads: dict[str, Head | UpsamplingHead]
    tasks: tuple[str, ...]
    residual_scale: float
    meta: dict[str, Any] = field(default_factory=dict)
    norm_scale: float = 0.0
    entry: Entry | None = None

    @property
    def token_scale(self) -> float:
        """Float value of one step of the tokens that a task without head gives."""
        return self.residual_scale if self.norm is None else self.norm_scale or 1.0

    @property
    def linear_heads(self) -> dict[str, Head]:
        """The heads that are linear, by task."""
        return {task: head for task, head in self.heads.items() if isinstance(head, Head)}

    @property
    def dial(self) -> Dial:
        """The loosest of all routers' limits, which no frame's dial may exceed
        (:meth:`.dial.Dial.check`)."""
        found = [block.mlp.gate.limits for block in self.blocks if isinstance(block.mlp, Moe)]
        if not found:
            return AS_COMPILED
        sums = [gate.enough for gate in found]
        return Dial(
            top_k=max(gate.top_k for gate in found),
            least=min(gate.least for gate in found),
            enough=max(sums) if all(sums) else 0,
        )

    def dialled(self, dial: Dial) -> Network:
        """The network of a frame with ``dial``: fewer experts, everything else as it is."""
        if dial == AS_COMPILED:
            return self
        blocks = tuple(
            replace(block, mlp=replace(block.mlp, gate=block.mlp.gate.dialled(dial)))
            if isinstance(block.mlp, Moe)
            else block
            for block in self.blocks
        )
        return replace(self, blocks=blocks)

    def final_norm(self, task: str) -> LayerNorm | Rescale | None:
        """What makes int8 of a task's last tokens: the network's norm, or the head's own."""
        head = self.heads.get(task)
        return self.norm if head is None or head.norm is None else head.norm
