"""The golden model: a quantised network executed with the operators' integer references.

It is written from the definition of :class:`~moevit.quant.network.Network` alone and says nothing
of tiles, memories or instructions. The interpreter of the instruction set and the hardware must
reproduce its outputs bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .network import Block, Head, Mlp, Moe, Network
from .operators.gate import NOBODY
from .operators.linear import matmul, to_activation, to_key_value
from .operators.softmax import Softmax, token_mean
from .operators.upsampling import UpsamplingHead
from .typing import Ints
from .unshuffle import unshuffle

__all__ = [
    "Golden",
    "GoldenResult",
    "Routing",
    "attend",
    "dequantise",
    "patchify",
    "raster",
    "run_experts",
    "unshuffle",
]


PIXEL_OFFSET = 128
"""Subtracted from a uint8 pixel to make it an activation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Routing:
    """What one MoE layer decided for one image.

    ``block`` is the layer's index in ``Network.blocks``. ``indices`` and ``scores`` are
    ``(tokens, k)``, by falling logit; scores are Q0.15. ``experts`` counts all of them; a choice
    that the gate dropped is :data:`~.operators.gate.NOBODY`.
    """

    block: int
    experts: int
    indices: Ints
    scores: Ints

    @property
    def counts(self) -> tuple[int, ...]:
        """Queue length of every expert."""
        chosen = self.indices[self.indices != NOBODY]
        return tuple(np.bincount(chosen, minlength=self.experts).tolist())


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldenResult:
    """One image under one task.

    ``output``: with a linear head ``(patches, channels * s * s)`` int16, one row where the head
    reads the class token; with an upsampling head ``(pixels, channels)`` int16, pixels in raster
    order; without a head the tokens ``(tokens, D)``, int8 after the final norm or the int16
    residual stream if there is no norm either. ``routing``: one entry a MoE layer.

    ``trace``: every intermediate tensor by name, empty unless asked for. Names are ``embed`` (and,
    with a norm in front of the blocks, ``entry`` and ``entered``), then
    ``blocks.<i>.<step>``, then ``norm``, ``mean`` or ``stages.<n>`` ``(pixels, channels)``, and
    ``head``. The steps are ``norm1 q k v attention proj norm2``, then ``hidden mlp`` in a dense
    block and ``ahead`` (of a gate that reads the block's input), ``logits``,
    ``experts.<e>.tokens``, ``experts.<e>.hidden`` (of experts with tokens, in the order of
    execution), ``mlp`` in a MoE block. ``proj`` and ``mlp`` are the residual stream after
    the addition.
    """

    task: str
    output: Ints
    routing: tuple[Routing, ...]
    trace: dict[str, Ints] = field(default_factory=dict)


class _Trace:
    """Collects named tensors of a batch; does nothing unless enabled."""

    def __init__(self, enabled: bool, items: dict[str, Ints] | None = None) -> None:
        self.enabled = enabled
        self.items = dict(items or {})

    def __call__(self, name: str, value: Ints) -> Ints:
        if self.enabled:
            self.items[name] = value.copy()
        return value


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """A batch on its way through the blocks: the residual ``(B, tokens, D)`` in ``block``.

    ``x`` has gone through the block's attention, ``ahead`` is what it was in front of it.
    """

    block: int
    x: Ints
    ahead: Ints
    trace: dict[str, Ints]


def patchify(images: Ints, patch: int) -> Ints:
    """Images ``(..., H, W, C)`` to patches ``(..., grid rows * columns, patch * patch * C)``.

    A patch holds its pixels in the order row, column, channel; patches come in raster order.
    """
    *lead, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    split = images.reshape(*lead, rows, patch, columns, patch, channels)
    return np.moveaxis(split, -4, -3).reshape(*lead, rows * columns, patch * patch * channels)


def raster(output: Ints, *, size: tuple[int, int], scale: float) -> Ints:
    """Pixels in raster order ``(..., H * W, C)`` to float planes ``(..., C, H, W)``."""
    planes = output.astype(np.float32).reshape(*output.shape[:-2], *size, output.shape[-1])
    return np.moveaxis(planes, -1, -3) * np.float32(scale)


def dequantise(output: Ints, head: Head | UpsamplingHead, grid: tuple[int, int]) -> Ints:
    """Output of ``head`` as float planes; see :func:`unshuffle` and :func:`raster`."""
    if isinstance(head, UpsamplingHead):
        size = (grid[0] * head.upscale, grid[1] * head.upscale)
        return raster(output, size=size, scale=head.scale)
    return unshuffle(
        output, channels=head.channels, upscale=head.upscale, scale=head.scale, grid=grid
    )


def attend(softmax: Softmax, heads: int, q: Ints, k: Ints, v: Ints) -> Ints:
    """Multi-head attention of int8 ``q k v (..., tokens, D)`` to int8 ``(..., tokens, D)``."""

    def split(t: Ints) -> Ints:
        return np.swapaxes(t.reshape(*t.shape[:-1], heads, -1), -2, -3)  # (..., heads, tokens, d)

    weights = softmax.weights(softmax.scores(matmul(split(q), split(k))))
    acc = matmul(weights, np.swapaxes(split(v), -1, -2))
    out: Ints = to_activation(softmax.outputs(acc, weights.sum(axis=-1)))
    return np.swapaxes(out, -2, -3).reshape(q.shape)


def run_experts(
    moe: Moe,
    task: str,
    x: Ints,
    y: Ints,
    ahead: Ints,
    trace: _Trace | None = None,
    prefix: str = "",
) -> tuple[Ints, Ints, Ints]:
    """Mixture of experts on rows: residual ``x (N, D)``, activations ``y (N, D)``.

    ``ahead`` ``(N, D)`` is the residual in front of the block. Returns the new residual, the chosen
    experts ``(N, k)`` and their scores ``(N, k)``. Experts act in the order of the task's schedule;
    the residual saturates after each of them.
    """
    keep = trace or _Trace(False)
    gate_input = y if moe.ahead is None else keep(f"{prefix}ahead", moe.ahead.compute(ahead))
    logits = keep(f"{prefix}logits", moe.routers[task].values(gate_input))
    indices, scores = moe.route(task, logits)
    x = x.copy()
    for e in moe.order[task]:
        expert = moe.experts[e]
        rows, rank = np.nonzero(indices == e)
        if not len(rows):
            continue
        keep(f"{prefix}experts.{e}.tokens", rows)
        hidden = keep(
            f"{prefix}experts.{e}.hidden", expert.hidden.compute(expert.fc1.values(y[rows]))
        )
        x[rows] = expert.fc2.add(x[rows], hidden, scores[rows, rank])
    return x, indices, scores


class Golden:
    """Executes a :class:`~moevit.quant.network.Network` in integers.

    >>> result = Golden(network).run(image, "depth")  # doctest: +SKIP
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._first_moe = next(
            (i for i, block in enumerate(network.blocks) if isinstance(block.mlp, Moe)),
            len(network.blocks),
        )

    def run(self, image: Ints, task: str, *, trace: bool = False) -> GoldenResult:
        """One image ``(H, W, C)`` uint8 under one task."""
        self._check_task(task)
        state = self._prefix(self._check(np.asarray(image)[None]), trace)
        return self._finish(state, task, trace)[0]

    def run_batch(
        self, images: Ints, tasks: Sequence[str] | None = None, *, chunk: int = 8
    ) -> dict[str, list[GoldenResult]]:
        """Images ``(N, H, W, C)`` uint8 under each task (default: all of them).

        What comes before the first MoE layer is computed once for all tasks. ``chunk`` images are
        held at a time.
        """
        tasks = self.network.tasks if tasks is None else tasks
        for task in tasks:
            self._check_task(task)
        images = self._check(np.asarray(images))
        results: dict[str, list[GoldenResult]] = {task: [] for task in tasks}
        for start in range(0, len(images), chunk):
            state = self._prefix(images[start : start + chunk], False)
            for task in tasks:
                results[task] += self._finish(state, task, False)
        return results

    def dequantise(self, output: Ints, task: str) -> Ints:
        """A head's output ``(..., rows, columns)`` to float planes ``(..., C, H', W')``."""
        if task not in self.network.heads:
            raise ValueError(f"The network has no head for task {task!r}")
        return dequantise(output, self.network.heads[task], self.network.geometry.grid)

    def router_inputs(self, images: Ints, task: str) -> Iterator[tuple[int, Ints, Ints]]:
        """Each MoE layer of a batch: its block, residual ``x (B, tokens, D)``, activations ``y``.

        The caller does the layer: it writes the new residual to ``x`` before it asks for the next.
        """
        self._check_task(task)
        keep = _Trace(False)
        state = self._prefix(self._check(np.asarray(images)), False)
        x = state.x
        for i, block in enumerate(self.network.blocks[state.block :], state.block):
            if i > state.block:
                x = self._attention(block, x, keep, "")
            if isinstance(block.mlp, Moe):
                x = x.copy()
                yield i, x, block.norm2.compute(x)
            else:
                x = self._mlp(block, x, keep, "")

    # Steps -------------------------------------------------------------------------------------
    def _check_task(self, task: str) -> None:
        if task not in self.network.tasks:
            expected = ", ".join(self.network.tasks)
            raise ValueError(f"Unknown task {task!r}; expected one of {expected}")

    def _check(self, images: Ints) -> Ints:
        g = self.network.geometry
        shape = (g.image_height, g.image_width, g.channels)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            found = f"{images.shape[1:]} {images.dtype}"
            raise ValueError(f"Image must be {shape} uint8 (height, width, channels), not {found}")
        return images

    def _prefix(self, images: Ints, trace: bool) -> _State:
        """Patch embedding and the blocks that are the same for all tasks."""
        net, keep = self.network, _Trace(trace)
        pixels = patchify(images.astype(np.int64) - PIXEL_OFFSET, net.geometry.patch)
        x = np.repeat(net.embedding[None].astype(np.int64), len(images), axis=0)  # (B, tokens, D)
        first = net.geometry.front
        x[:, first:] = net.patch_embed.add(x[:, first:], pixels)
        keep("embed", x)
        if net.entry is not None:
            y = keep("entry", net.entry.norm.compute(x))
            x = keep("entered", net.entry.linear.add(np.zeros_like(x), y))
        for i, block in enumerate(net.blocks[: self._first_moe]):
            x = self._attention(block, x, keep, f"blocks.{i}.")
            x = self._mlp(block, x, keep, f"blocks.{i}.")
        if self._first_moe < len(net.blocks):  # attention precedes the first router
            i = self._first_moe
            before, x = x, self._attention(net.blocks[i], x, keep, f"blocks.{i}.")
            return _State(i, x, before, keep.items)
        return _State(self._first_moe, x, x, keep.items)

    def _finish(self, state: _State, task: str, trace: bool) -> list[GoldenResult]:
        """From the first MoE layer to the head."""
        net, keep, x, before = self.network, _Trace(trace, state.trace), state.x, state.ahead
        batch, tokens, dim = x.shape
        routing: list[list[Routing]] = [[] for _ in range(batch)]
        for i, block in enumerate(net.blocks[state.block :], state.block):
            prefix = f"blocks.{i}."
            if i > state.block:
                before, x = x, self._attention(block, x, keep, prefix)
            if not isinstance(block.mlp, Moe):
                x = self._mlp(block, x, keep, prefix)
                continue
            y = keep(prefix + "norm2", block.norm2.compute(x))
            rows = (batch * tokens, dim)
            flat, indices, scores = run_experts(
                block.mlp,
                task,
                x.reshape(rows),
                y.reshape(rows),
                before.reshape(rows),
                keep,
                prefix,
            )
            x = keep(prefix + "mlp", flat.reshape(x.shape))
            for b in range(batch):
                own = slice(b * tokens, (b + 1) * tokens)
                experts = len(block.mlp.experts)
                routing[b].append(
                    Routing(block=i, experts=experts, indices=indices[own], scores=scores[own])
                )
        output = self._output(x, task, keep)
        return [
            GoldenResult(
                task=task,
                output=output[b],
                routing=tuple(routing[b]),
                trace={  # a trace is of one image: drop the batch axis where there is one
                    name: t[0] if t.ndim == 3 else t for name, t in keep.items.items()
                },
            )
            for b in range(batch)
        ]

    def _attention(self, block: Block, x: Ints, keep: _Trace, prefix: str) -> Ints:
        a = block.attention
        y = keep(prefix + "norm1", block.norm1.compute(x))
        q = keep(prefix + "q", to_activation(a.q.values(y)))
        k = keep(prefix + "k", to_key_value(a.k.values(y)))
        v = keep(prefix + "v", to_key_value(a.v.values(y)))
        out = keep(prefix + "attention", attend(a.softmax, self.network.geometry.heads, q, k, v))
        return keep(prefix + "proj", a.proj.add(x, out))

    @staticmethod
    def _mlp(block: Block, x: Ints, keep: _Trace, prefix: str) -> Ints:
        mlp = block.mlp
        assert isinstance(mlp, Mlp)
        y = keep(prefix + "norm2", block.norm2.compute(x))
        hidden = keep(prefix + "hidden", mlp.hidden.compute(mlp.fc1.values(y)))
        return keep(prefix + "mlp", mlp.fc2.add(x, hidden))

    def _output(self, x: Ints, task: str, keep: _Trace) -> Ints:
        net = self.network
        head, norm = net.heads.get(task), net.final_norm(task)
        if norm is None:
            if head is not None:
                raise ValueError(f"Head {task!r} needs the final norm, which the network lacks")
            return x.astype(np.int16)
        y = keep("norm", norm.compute(x))
        if head is None:
            return y.astype(np.int8)
        rows = y[:, net.geometry.front :]
        if isinstance(head, UpsamplingHead):
            maps = head.maps(rows)
            *_, rows = (keep(f"stages.{n}", found) for n, found in enumerate(maps))
            return keep("head", rows.astype(np.int16))
        if head.class_token:
            rows = y[:, : head.tokens].reshape(len(y), 1, -1)
        elif head.mean is not None:
            rows = keep("mean", token_mean(rows, head.mean))
            if head.pooled is not None:
                row = keep("pooled", head.pooled.linear.add(np.zeros_like(rows), rows))
                rows = keep("pool norm", head.pooled.norm.compute(row))
        return keep("head", head.linear.values(rows).astype(np.int16))
