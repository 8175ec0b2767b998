"""The network before quantisation: float parameters in NumPy, and a forward pass that is watched.

What calibration sees is the same on every machine (:mod:`..reproducible`), and with it the
integers.

The counterpart of :mod:`..network` with the same structure. An adapter of the training framework
fills it (``moevit.model.export.float_network``), so that nothing here needs that framework.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..golden import patchify, raster, unshuffle
from ..network import Geometry
from ..operators.activations import GELU, Activation
from ..operators.gate import NOBODY
from ..reproducible import exp, product
from ..typing import Floats32, Ints64
from .layers import FloatLinear, FloatNorm
from .upsampling import FloatUpsamplingHead, surroundings

__all__ = [
    "Edit",
    "FloatAttention",
    "FloatBlock",
    "FloatHead",
    "FloatLinear",
    "FloatMlp",
    "FloatMoe",
    "FloatNetwork",
    "FloatNorm",
    "Observe",
    "with_layers",
]

Observe = Callable[[str, Any], None]
"""Called with a site's name and its rows ``(n, channels)``."""
Edit = Callable[[str, Any], Any]
"""Called with a site's name and its tensor ``(..., channels)``; gives what is used instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatAttention:
    """Projections ``(D, D)``; head h owns channels ``h*d..`` of q, k and v."""

    q: FloatLinear
    k: FloatLinear
    v: FloatLinear
    proj: FloatLinear


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatMlp:
    """Feed-forward of a block or of one expert, with an activation function between its layers."""

    fc1: FloatLinear
    fc2: FloatLinear
    activation: Activation = GELU

    def hidden(self, y: Floats32) -> Floats32:
        """What the second layer reads."""
        return self.activation(self.fc1(y))


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatMoe:
    """Experts and a router for each task; ``k`` experts a token.

    ``starts``: first of the experts that a task may choose, as many as its router has outputs (0
    where the task is absent). ``renormalise``: scores are a softmax over the chosen experts, not
    over all that may be chosen. ``threshold``: a score not above it counts as 0, its expert is not
    computed; 0 keeps all. ``top_p``: so does a score behind others that add up to it; 1 keeps all.
    ``ahead``: the router reads the residual stream in front of the block.
    """

    k: int
    routers: dict[str, FloatLinear]
    experts: tuple[FloatMlp, ...]
    starts: dict[str, int] = field(default_factory=dict)
    renormalise: bool = False
    threshold: float = 0.0
    top_p: float = 1.0
    ahead: bool = False

    def route(self, task: str, logits: Floats32) -> tuple[Ints64, Floats32]:
        """Logits ``(n, E)`` to the chosen experts and their scores, ``(n, k)``, best first.

        A choice that the threshold or ``top_p`` drops is :data:`~..operators.gate.NOBODY` with
        score 0.
        """
        probabilities = _softmax(logits)
        chosen = np.argsort(-probabilities, axis=-1, kind="stable")[:, : self.k]
        scores: Floats32 = np.take_along_axis(probabilities, chosen, axis=-1)
        if self.renormalise:
            scores = scores / scores.sum(axis=-1, keepdims=True)
        dropped = np.zeros(scores.shape, bool)
        if self.threshold:
            dropped = scores <= self.threshold
        if self.top_p < 1:
            dropped |= np.cumsum(scores, axis=-1) - scores >= self.top_p
        if dropped.any():
            scores = np.where(dropped, np.float32(0), scores)
            chosen = np.where(dropped, NOBODY - self.starts.get(task, 0), chosen)
        return chosen + self.starts.get(task, 0), scores


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatBlock:
    """Pre-norm transformer block."""

    norm1: FloatNorm
    attention: FloatAttention
    norm2: FloatNorm
    mlp: FloatMlp | FloatMoe


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatHead:
    """Linear head; outputs in pixel-shuffle order ``c*s*s + dy*s + dx``, ``s = upscale``.

    It reads every patch token, or the first ``tokens`` tokens side by side (``class_token``), or
    the patch tokens' mean (``mean``), with a norm behind it if it has one.
    """

    linear: FloatLinear
    channels: int
    upscale: int
    class_token: bool = False
    tokens: int = 1
    mean: bool = False
    norm: FloatNorm | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatNetwork:
    """A whole float network.

    Pixels enter as ``(u8 - pixel_mean) / pixel_std``, both ``(channels,)`` on the scale 0..255.
    ``patch_embed`` takes a patch in the order (row, column, channel). ``embedding`` ``(tokens, D)``
    is the position embedding with the class token added to row 0. ``entry``: what normalises the
    embedded tokens in front of the first block.
    """

    geometry: Geometry
    pixel_mean: Floats32
    pixel_std: Floats32
    patch_embed: FloatLinear
    embedding: Floats32
    blocks: tuple[FloatBlock, ...]
    norm: FloatNorm | None
    heads: dict[str, FloatHead | FloatUpsamplingHead]
    tasks: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    entry: FloatNorm | None = None

    def run(
        self,
        images: Any,
        tasks: Sequence[str] | None = None,
        observe: Observe | None = None,
        edit: Edit | None = None,
    ) -> dict[str, Floats32]:
        """Images ``(B, H, W, C)`` uint8 to each task's head output ``(B, patches, C*s*s)``.

        A head on the class token gives one row, an upsampling head ``(B, pixels, C)``; a task
        without a head gives its tokens ``(B, tokens, D)``. What precedes the first MoE layer
        is computed, and observed, once. Sites: ``residual`` after every addition, ``blocks.<i>.x``
        with x one of ``norm1 q k v attention norm2`` (the norms' ``x_hat``, before gain and bias),
        ``blocks.<i>.hidden`` or ``blocks.<i>.experts.<e>.x`` with x one of ``input hidden``,
        ``blocks.<i>.logits.<task>``, ``blocks.<i>.ahead`` (what a gate in front of the block
        reads),
        ``entry`` (the ``x_hat`` of a norm in front of the blocks),
        ``blocks.<i>.routing.<task>`` (chosen experts, ``(n, k)``), ``norm``, ``heads.<task>``;
        of upsampling heads also ``heads.<task>.norm`` (their own ``x_hat``),
        ``heads.<task>.stages.<n>`` behind each ReLU, and ``heads.<task>.around.<n>``, samples of
        what a stage reads (:func:`~.upsampling.surroundings`).

        ``edit`` may replace any of them but the chosen experts and samples, and the attention
        weights ``blocks.<i>.weights`` ``(B, heads, queries, keys)``, which are not observed.
        """
        watch = _Tap(observe, edit)
        first = next(
            (i for i, b in enumerate(self.blocks) if isinstance(b.mlp, FloatMoe)), len(self.blocks)
        )
        shared = self._embed(np.asarray(images), watch)
        for i in range(first):
            shared = self._block(i, shared, "", watch)
        outputs = {}
        for task in self.tasks if tasks is None else tasks:
            x = shared
            for i in range(first, len(self.blocks)):
                x = self._block(i, x, task, watch)
            outputs[task] = self._output(x, task, watch)
        return outputs

    def _embed(self, images: Any, watch: _Tap) -> Floats32:
        pixels = ((images - self.pixel_mean) / self.pixel_std).astype(np.float32)
        x = np.repeat(self.embedding[None], len(images), axis=0).astype(np.float32)
        x[:, self.geometry.front :] += self.patch_embed(patchify(pixels, self.geometry.patch))
        x = watch("residual", x)
        return x if self.entry is None else watch("residual", self._entered(self.entry, x, watch))

    def _entered(self, norm: FloatNorm, x: Floats32, watch: _Tap) -> Floats32:
        return self._norm(norm, x, "entry", watch)

    def _block(self, index: int, x: Floats32, task: str, watch: _Tap) -> Floats32:
        block, prefix, before = self.blocks[index], f"blocks.{index}.", x
        y = self._norm(block.norm1, x, prefix + "norm1", watch)
        x = watch("residual", x + self._attention(block.attention, y, prefix, watch))
        y = self._norm(block.norm2, x, prefix + "norm2", watch)
        if isinstance(block.mlp, FloatMoe):
            gate_input = _rows(y)
            if block.mlp.ahead:
                gate_input = watch(prefix + "ahead", _rows(before))
            change = self._moe(block.mlp, _rows(y), gate_input, task, prefix, watch)
            change = change.reshape(x.shape)
        else:
            change = self._mlp(block.mlp, y, prefix + "hidden", watch)
        return watch("residual", x + change)

    @staticmethod
    def _norm(norm: FloatNorm, x: Floats32, name: str, watch: _Tap) -> Floats32:
        x_hat = watch(name, norm.normalised(x))
        return x_hat * norm.gain + norm.bias

    def _attention(self, a: FloatAttention, y: Floats32, prefix: str, watch: _Tap) -> Floats32:
        batch, tokens, dim = y.shape
        heads = self.geometry.heads
        split = []
        for name, linear in (("q", a.q), ("k", a.k), ("v", a.v)):
            t = watch(prefix + name, linear(y))
            split.append(t.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3))
        q, k, v = split
        scores = product(q, k) * np.float32(self.geometry.head_dim**-0.5)
        weights = watch.edited(prefix + "weights", _softmax(scores))
        out = product(weights, v.swapaxes(-1, -2)).transpose(0, 2, 1, 3)
        out = out.reshape(batch, tokens, dim)
        return a.proj(watch(prefix + "attention", out))

    @staticmethod
    def _mlp(mlp: FloatMlp, y: Floats32, name: str, watch: _Tap) -> Floats32:
        return mlp.fc2(watch(name, mlp.hidden(y)))

    def _moe(
        self, moe: FloatMoe, y: Floats32, gate_input: Floats32, task: str, prefix: str, watch: _Tap
    ) -> Floats32:
        logits = watch(f"{prefix}logits.{task}", moe.routers[task](gate_input))
        chosen, scores = moe.route(task, logits)
        watch.observe(f"{prefix}routing.{task}", chosen)
        out = np.zeros_like(y)
        for e, expert in enumerate(moe.experts):
            rows, rank = np.nonzero(chosen == e)
            if len(rows):
                name = f"{prefix}experts.{e}."
                own = watch(name + "input", y[rows])
                result = self._mlp(expert, own, name + "hidden", watch)
                out[rows] += result * scores[rows, rank, None]
        return out

    def _output(self, x: Floats32, task: str, watch: _Tap) -> Floats32:
        head = self.heads.get(task)
        if isinstance(head, FloatUpsamplingHead):
            return self._upsampled(head, x[:, self.geometry.front :], task, watch)
        if head is not None and head.class_token:
            x = x[:, : head.tokens]
        if self.norm is not None:
            x = self._norm(self.norm, x, "norm", watch)
        if head is None:
            return x
        if head.class_token:
            x = x.reshape(len(x), 1, -1)
        else:
            x = x[:, self.geometry.front :]
        if head.norm is not None:
            x = watch(f"heads.{task}.rows", x)
        if head.mean:
            x = watch(f"heads.{task}.mean", x.mean(axis=1, keepdims=True))
        if head.norm is not None:
            x = self._norm(head.norm, x, f"heads.{task}.norm", watch)
        return watch(f"heads.{task}", head.linear(x))

    def _upsampled(
        self, head: FloatUpsamplingHead, x: Floats32, task: str, watch: _Tap
    ) -> Floats32:
        """Patch tokens ``(B, patches, D)`` through an upsampling head, ``(B, pixels, C)``."""
        name = f"heads.{task}"
        norm, site = (self.norm, "norm") if head.norm is None else (head.norm, f"{name}.norm")
        if norm is None:
            raise ValueError(f"Head {task!r} needs a norm of its own: the network has none")
        maps = self._norm(norm, x, site, watch).reshape(len(x), *self.geometry.grid, -1)
        for n, stage in enumerate(head.stages):
            if watch.watched:
                watch.observe(f"{name}.around.{n}", surroundings(maps))
            maps = watch(f"{name}.stages.{n}" if stage.relu else name, stage(maps))
        return maps.reshape(len(x), -1, head.channels)

    def planes(self, output: Floats32, task: str) -> Floats32:
        """Output of a task's head as planes ``(B, C, H', W')``."""
        head, grid = self.heads[task], self.geometry.grid
        if isinstance(head, FloatUpsamplingHead):
            size = (grid[0] * head.upscale, grid[1] * head.upscale)
            return raster(output, size=size, scale=1.0)
        return unshuffle(output, channels=head.channels, upscale=head.upscale, scale=1.0, grid=grid)


def with_layers(
    network: FloatNetwork, layer: Callable[[str, FloatLinear], FloatLinear]
) -> FloatNetwork:
    """The network with each linear layer passed through ``layer``, which is told its name:
    ``patch_embed``, ``heads.<task>`` (of upsampling heads
    ``heads.<task>.stages.<n>.windows.<w>``), ``blocks.<i>.x`` with x one of ``q k v proj fc1 fc2``,
    ``routers.<task>``, ``experts.<e>.fc1`` and ``.fc2``."""

    def mlp(prefix: str, exact: FloatMlp) -> FloatMlp:
        fc1, fc2 = layer(prefix + "fc1", exact.fc1), layer(prefix + "fc2", exact.fc2)
        return replace(exact, fc1=fc1, fc2=fc2)

    def head_of(
        name: str, exact: FloatHead | FloatUpsamplingHead
    ) -> FloatHead | FloatUpsamplingHead:
        if isinstance(exact, FloatUpsamplingHead):
            return exact.with_layers(network.geometry.grid, name, layer)
        return replace(exact, linear=layer(name, exact.linear))

    blocks = []
    for i, block in enumerate(network.blocks):
        prefix, a, m = f"blocks.{i}.", block.attention, block.mlp
        attention = replace(
            a, **{name: layer(prefix + name, getattr(a, name)) for name in ("q", "k", "v", "proj")}
        )
        changed: FloatMlp | FloatMoe
        if isinstance(m, FloatMoe):
            changed = replace(
                m,
                routers={t: layer(f"{prefix}routers.{t}", r) for t, r in m.routers.items()},
                experts=tuple(mlp(f"{prefix}experts.{e}.", x) for e, x in enumerate(m.experts)),
            )
        else:
            changed = mlp(prefix, m)
        blocks.append(replace(block, attention=attention, mlp=changed))
    return replace(
        network,
        patch_embed=layer("patch_embed", network.patch_embed),
        blocks=tuple(blocks),
        heads={task: head_of(f"heads.{task}", head) for task, head in network.heads.items()},
    )


class _Tap:
    """A forward pass hands each site to it and goes on with what it gives back."""

    def __init__(self, observe: Observe | None, edit: Edit | None) -> None:
        self.watched = observe is not None
        self.observe: Observe = _ignore if observe is None else observe
        self.edited: Edit = _unchanged if edit is None else edit

    def __call__(self, name: str, x: Floats32) -> Floats32:
        self.observe(name, _rows(x))
        out: Floats32 = self.edited(name, x)
        return out


def _ignore(name: str, rows: Any) -> None:
    """Observes nothing."""


def _unchanged(name: str, x: Any) -> Any:
    """Edits nothing."""
    return x


def _softmax(logits: Floats32) -> Floats32:
    e = exp(logits - logits.max(axis=-1, keepdims=True))
    out: Floats32 = e / e.sum(axis=-1, keepdims=True)
    return out


def _rows(x: Floats32) -> Floats32:
    return x.reshape(-1, x.shape[-1])
