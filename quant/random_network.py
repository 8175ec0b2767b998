"""Small random quantised networks whose values stay lively: food for tests, without training.

Weights are drawn; every scale is then set from what a few random images produce at that point,
layer after layer, so that nothing is stuck at zero or saturated and routing depends on the token.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Literal

import numpy as np

from .formats import LOGIT, WEIGHT_BITS, Multiplier, weight_max
from .golden import PIXEL_OFFSET, attend, patchify, run_experts
from .network import (
    Attention,
    Block,
    Entry,
    Expert,
    Geometry,
    Head,
    Mlp,
    Moe,
    Network,
    Pooled,
    expert_order,
)
from .operators.activations import FRAC, activation
from .operators.gate import NOBODY, Gate
from .operators.layernorm import LayerNorm
from .operators.linear import HiddenOutput, Linear, matmul, to_activation, to_key_value
from .operators.rescale import Rescale
from .operators.softmax import Softmax, token_mean
from .operators.upsampling import Stage, UpsamplingHead, windows
from .typing import Ints

__all__ = ["Sizes", "random_images", "random_network"]

Style = Literal["varied", "one", "starved"]

_IMAGES = 3  # that set the scales
_FORCED = 60 << LOGIT.frac  # a logit offset that no token overcomes


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything that :func:`random_network` lets one choose.

    ``moe`` lists the blocks with experts. ``head_channels`` gives the output planes of each task in
    turn (fewer than ``tasks``: the rest have none). ``class_heads``: they read the class token
    alone and have no sub-pixels. ``style``: ``"varied"``; ``"one"``: expert
    ``favourite`` comes first for every token (with ``top_k`` 1 it gets all of them and the others
    none); ``"starved"``: expert ``favourite`` is never chosen. ``expert_bits``: of their weights.
    ``distilled``: with a distillation token, which class heads read as well. ``registers``: tokens
    behind those that no head reads. ``entry``: a norm in front of the
    blocks. ``pool_norm``: one behind the mean of mean heads. ``mean_heads``: heads
    read the patches' mean and have no sub-pixels. ``decoder_width``: channels of upsampling heads'
    convolutions (0: the heads are linear), which double the map ``doublings`` times and have a norm
    of their own without ``norm``.

    ``window``: how many experts a task may choose among (0: all), in windows spread evenly over the
    tasks; ``favourite`` counts from the window's first. ``renormalise``, ``threshold``, ``top_p``:
    of the gate. ``ahead``: routers read the residual stream in front of the block. ``activation``,
    ``expert_activation`` (empty: the same): of the feed-forward layers and of the experts.
    """

    image_height: int = 16
    image_width: int = 24
    patch: int = 8
    channels: int = 3
    dim: int = 32
    heads: int = 2
    depth: int = 2
    hidden: int = 64
    experts: int = 4
    top_k: int = 2
    expert_hidden: int = 48
    moe: tuple[int, ...] = (1,)
    tasks: int = 2
    head_channels: tuple[int, ...] = (3, 1)
    upscale: int = 2
    class_heads: bool = False
    mean_heads: bool = False
    decoder_width: int = 0
    doublings: int = 2
    distilled: bool = False
    registers: int = 0
    entry: bool = False
    pool_norm: bool = False
    class_token: bool = True
    norm: bool = True
    style: Style = "varied"
    favourite: int = 0
    expert_bits: int = 8
    window: int = 0
    renormalise: bool = False
    threshold: float = 0.0
    top_p: float = 1.0
    ahead: bool = False
    activation: str = "gelu"
    expert_activation: str = ""

    def __post_init__(self) -> None:
        if self.image_height % self.patch or self.image_width % self.patch:
            size = (self.image_height, self.image_width)
            raise ValueError(f"Image {size} is not a multiple of the patch, {self.patch}")
        if self.dim % self.heads:
            raise ValueError(f"Width {self.dim} is not a multiple of {self.heads} heads")
        if self.style not in ("varied", "one", "starved"):
            raise ValueError(f"Style must be varied, one or starved, not {self.style!r}")
        if self.expert_bits not in WEIGHT_BITS:
            raise ValueError(f"Expert bits must be 8 or 4, not {self.expert_bits!r}")
        if self.style == "starved" and self.top_k >= self.seen:
            raise ValueError(f"With top_k {self.top_k} of {self.seen} no expert can be starved")
        if not 0 <= self.window <= self.experts:
            raise ValueError(f"Window must be from 0 to {self.experts}, not {self.window!r}")
        if not 0 <= self.favourite < self.seen:
            raise ValueError(f"Favourite must be below {self.seen}, not {self.favourite!r}")
        if any(not 0 <= i < self.depth for i in self.moe):
            raise ValueError(f"MoE blocks {self.moe} must lie in 0..{self.depth - 1}")
        if len(self.head_channels) > self.tasks:
            raise ValueError(f"{len(self.head_channels)} heads for {self.tasks} tasks")
        if self.pool_norm and (self.norm or not self.mean_heads):
            raise ValueError("A norm behind the mean needs heads on it, and no final norm")
        own = self.decoder_width or self.pool_norm
        if self.head_channels and not self.norm and not own:
            raise ValueError("Linear heads need the final norm")
        if (self.class_heads or self.distilled) and not self.class_token:
            raise ValueError("Heads on the class token, and a distillation token, need one")
        if self.class_heads and self.mean_heads:
            raise ValueError("Heads read the class token or the mean, not both")
        if self.decoder_width and (self.class_heads or self.mean_heads):
            raise ValueError("Upsampling heads read patches, not the class token or the mean")
        if self.decoder_width < 0 or self.doublings < 0:
            found = f"{self.decoder_width} and {self.doublings}"
            raise ValueError(f"Decoder width and doublings must not be negative, found {found}")

    @property
    def seen(self) -> int:
        """Experts that a task may choose among."""
        return self.window or self.experts

    @property
    def geometry(self) -> Geometry:
        """The network's geometry."""
        return Geometry(
            image_height=self.image_height,
            image_width=self.image_width,
            patch=self.patch,
            channels=self.channels,
            dim=self.dim,
            heads=self.heads,
            class_token=self.class_token,
            distilled=self.distilled,
            registers=self.registers,
        )


def random_images(seed: int, geometry: Geometry, count: int = 1) -> Ints:
    """``count`` images ``(count, H, W, C)`` uint8 with structure at several scales."""
    rng = np.random.default_rng([seed, 1])
    shape = (count, geometry.image_height, geometry.image_width, geometry.channels)
    total = np.zeros(shape)
    for step in (1, 4, 16):
        rows, columns = -(-shape[1] // step), -(-shape[2] // step)
        coarse = rng.normal(size=(count, rows, columns, shape[3]))
        total += coarse.repeat(step, 1).repeat(step, 2)[:, : shape[1], : shape[2]]
    return np.clip(128 + 40 * total, 0, 255).astype(np.uint8)


def random_network(seed: int, sizes: Sizes | None = None) -> Network:
    """A network of the given sizes; the same seed and sizes give the same integers."""
    return _Builder(seed, sizes or Sizes()).build()


class _Builder:
    def __init__(self, seed: int, sizes: Sizes) -> None:
        self.sizes = sizes
        self.rng = np.random.default_rng([seed, 0])
        self.tasks = tuple(f"task{i}" for i in range(sizes.tasks))
        self.images = random_images(seed + 1, sizes.geometry, _IMAGES)

    def build(self) -> Network:
        sizes, geometry = self.sizes, self.sizes.geometry
        pixels = patchify(self.images.astype(np.int64) - PIXEL_OFFSET, sizes.patch)
        patch_embed = self.linear(sizes.dim, pixels, 1500.0)
        embedding = np.round(self.rng.normal(0, 800, (geometry.tokens, sizes.dim))).astype(np.int16)
        x = np.repeat(embedding[None].astype(np.int64), _IMAGES, axis=0)
        first = geometry.front
        x[:, first:] = patch_embed.add(x[:, first:], pixels)
        entry = None
        if sizes.entry:
            entry, x = self.entry(x)
        # From here on tasks diverge; the scales of each block come from the last task's tokens.
        blocks = []
        for i in range(sizes.depth):
            block, x = self.block(i, x)
            blocks.append(block)
        norm = self.norm() if sizes.norm else None
        heads: dict[str, Head | UpsamplingHead] = {}
        for task, channels in zip(self.tasks, sizes.head_channels, strict=False):
            if sizes.decoder_width:
                heads[task] = self.upsampling(channels, norm, x)
            elif sizes.pool_norm:
                heads[task] = self.pooled_head(channels, x)
            else:
                assert norm is not None
                heads[task] = self.head(channels, norm.compute(x))
        return Network(
            geometry=geometry,
            patch_embed=patch_embed,
            embedding=embedding,
            blocks=tuple(blocks),
            norm=norm,
            heads=heads,
            tasks=self.tasks,
            residual_scale=2.0**-11,
            meta={"source": "random"},
            entry=entry,
        )

    def pooled_head(self, channels: int, x: Ints) -> Head:
        rescale, mean = self.rescale(x.reshape(-1, self.sizes.dim)), Multiplier.from_scale(2.5)
        rows = token_mean(rescale.compute(x)[:, self.sizes.geometry.front :], mean)
        pooled = Pooled(rescale=rescale, linear=self.diagonal(), norm=self.norm())
        y = pooled.norm.compute(pooled.linear.add(np.zeros_like(rows), rows))
        return Head(
            linear=self.linear(channels, y, 4000.0, scale=2.0**-10),
            channels=channels,
            upscale=1,
            mean=mean,
            pooled=pooled,
        )

    def entry(self, x: Ints) -> tuple[Entry, Ints]:
        norm, linear = self.norm(), self.diagonal()
        entered = linear.add(np.zeros_like(x), norm.compute(x))
        return Entry(norm=norm, linear=linear), entered

    def diagonal(self) -> Linear:
        dim = self.sizes.dim
        diagonal = np.diag(self.rng.integers(-127, 128, dim)).astype(np.int8)
        scales = [Multiplier.from_scale(float(s)) for s in self.rng.uniform(0.1, 0.5, dim)]
        return Linear(
            weight=diagonal,
            bias=self.rng.integers(-9999, 10000, dim).astype(np.int32),
            mult=np.array([m.mult for m in scales], np.uint16),
            shift=np.array([m.shift for m in scales], np.uint8),
        )

    def head(self, channels: int, y: Ints) -> Head:
        sizes, tokens, mean = self.sizes, 1, None
        upscale = 1 if sizes.class_heads or sizes.mean_heads else sizes.upscale
        if sizes.class_heads and sizes.distilled:
            tokens = 2
            y = y[:, :tokens].reshape(len(y), 1, -1)
        if sizes.mean_heads:
            mean = Multiplier.from_scale(2.5)
            y = token_mean(y[:, sizes.geometry.front :], mean)
        return Head(
            linear=self.linear(channels * upscale**2, y, 4000.0, scale=2.0**-10),
            channels=channels,
            upscale=upscale,
            class_token=sizes.class_heads,
            tokens=tokens,
            mean=mean,
        )

    def upsampling(self, channels: int, norm: LayerNorm | None, x: Ints) -> UpsamplingHead:
        """The stages of :class:`moevit.model.decoder.UpsamplingHead`; windows share no weights."""
        sizes, own = self.sizes, self.norm() if norm is None else None
        y = (norm or own).compute(x)[:, sizes.geometry.front :]  # type: ignore[union-attr]
        maps = y.reshape(len(y), *sizes.geometry.grid, sizes.dim)
        stages = []
        for n in range(max(sizes.doublings, 1)):
            stages.append(self.stage(sizes.decoder_width, maps, kernel=3, doubling=n > 0))
            maps = stages[-1].compute(maps)
        doubling = sizes.doublings > 0
        stages.append(self.stage(channels, maps, kernel=1, doubling=doubling, relu=False))
        return UpsamplingHead(norm=own, stages=tuple(stages))

    def stage(
        self, outputs: int, maps: Ints, *, kernel: int, doubling: bool, relu: bool = True
    ) -> Stage:
        _, height, width, channels = maps.shape
        spread, scale = (110.0, 1.0) if relu else (4000.0, 2.0**-10)
        return Stage(
            height=height,
            width=width,
            channels=channels,
            kernel=kernel,
            doubling=doubling,
            relu=relu,
            linears=tuple(
                self.linear(outputs, window.gather(maps), spread, scale)
                for window in windows((height, width), kernel=kernel, doubling=doubling)
            ),
        )

    def linear(
        self, outputs: int, x: Ints, spread: float, scale: float = 1.0, *, bits: int = 8
    ) -> Linear:
        """Random weights and bias whose values on ``x (..., K)`` have about the given spread."""
        width = x.shape[-1]
        top = weight_max(bits)
        weight = np.clip(np.round(self.rng.normal(0, 45 * top / 127, (outputs, width))), -top, top)
        weight = weight.astype(np.int8)
        acc = matmul(x, weight).reshape(-1, outputs)
        typical = np.sqrt(np.mean(acc.astype(np.float64) ** 2, axis=0)) + 1.0  # (O,)
        bias = np.round(self.rng.normal(0, 0.5, outputs) * typical).astype(np.int32)
        target = spread * np.exp(self.rng.normal(0, 0.2, outputs))
        scales = [Multiplier.from_scale(float(t)) for t in target / typical]
        return Linear(
            weight=weight,
            bias=bias,
            mult=np.array([m.mult for m in scales], np.uint16),
            shift=np.array([m.shift for m in scales], np.uint8),
            scale=scale,
            weight_bits=bits,
        )

    def norm(self) -> LayerNorm:
        dim = self.sizes.dim
        gain = 35 * np.exp(self.rng.normal(0, 0.4, dim)) * self.rng.choice([-1, 1], dim)
        return LayerNorm.from_affine(
            gain, self.rng.normal(0, 10, dim), int(self.rng.integers(1000))
        )

    def block(self, index: int, x: Ints) -> tuple[Block, Ints]:
        sizes = self.sizes
        norm1, norm2 = self.norm(), self.norm()
        y, before = norm1.compute(x), x
        attention, a = self.attention(y)
        x = attention.proj.add(x, a)
        y = norm2.compute(x)
        if index not in sizes.moe:
            mlp = self.mlp(y, sizes.hidden, sizes.activation)
            x = mlp.fc2.add(x, mlp.hidden.compute(mlp.fc1.values(y)))
            return Block(norm1=norm1, attention=attention, norm2=norm2, mlp=mlp), x
        rows = (-1, sizes.dim)
        moe, flat = self.moe(x.reshape(rows), y.reshape(rows), before.reshape(rows))
        return Block(norm1=norm1, attention=attention, norm2=norm2, mlp=moe), flat.reshape(x.shape)

    def attention(self, y: Ints) -> tuple[Attention, Ints]:
        sizes = self.sizes
        q, k, v = (self.linear(sizes.dim, y, 40.0) for _ in range(3))
        qa = to_activation(q.values(y))
        ka, va = (to_key_value(t.values(y)) for t in (k, v))
        spread = 2.0 * (1 << LOGIT.frac)  # of scores: the larger, the sharper the attention
        typical = sizes.dim / sizes.heads * float(np.std(qa) * np.std(ka)) + 1.0
        scores = Multiplier.from_scale(spread / typical * (sizes.dim / sizes.heads) ** 0.5)
        softmax = Softmax(
            score=scores, out=Multiplier.from_scale(float(self.rng.uniform(1.2, 2.5)))
        )
        idle = self.linear(sizes.dim, va, 1000.0)
        attention = Attention(q=q, k=k, v=v, softmax=softmax, proj=idle)
        out = attend(attention.softmax, sizes.heads, qa, ka, va)
        proj = self.linear(sizes.dim, out, 1000.0)
        return Attention(q=q, k=k, v=v, softmax=softmax, proj=proj), out

    def mlp(self, y: Ints, width: int, function: str, *, bits: int = 8) -> Mlp:
        fc1 = self.linear(width, y, 1.2 * (1 << FRAC), bits=bits)
        exact = activation(function).integer.compute(fc1.values(y))
        out = Multiplier.from_scale(180 / max(float(np.quantile(exact, 0.999)), 1.0))
        hidden = HiddenOutput(out=out, zero_point=-108, function=function)
        fc2 = self.linear(self.sizes.dim, hidden.compute(fc1.values(y)), 1000.0, bits=bits)
        return Mlp(fc1=fc1, hidden=hidden, fc2=fc2)

    def moe(self, x: Ints, y: Ints, before: Ints) -> tuple[Moe, Ints]:
        sizes = self.sizes
        ahead, seen = None, y
        if sizes.ahead:
            ahead = self.rescale(before)
            seen = ahead.compute(before)
        routers = {task: self.router(seen) for task in self.tasks}
        function = sizes.expert_activation or sizes.activation
        experts: tuple[Expert, ...] = tuple(
            self.mlp(y, sizes.expert_hidden, function, bits=sizes.expert_bits)
            for _ in range(sizes.experts)
        )
        spare, last = sizes.experts - sizes.seen, max(len(self.tasks) - 1, 1)
        moe = Moe(
            gate=Gate(
                experts=sizes.seen,
                k=sizes.top_k,
                renormalise=sizes.renormalise,
                least=Gate.above(sizes.threshold),
                enough=Gate.reaching(sizes.top_p),
            ),
            routers=routers,
            experts=experts,
            order={},
            usage={},
            starts={t: n * spare // last for n, t in enumerate(self.tasks)} if spare else {},
            ahead=ahead,
        )
        for task, router in routers.items():
            indices, _ = moe.route(task, router.values(seen))
            counts = np.bincount(indices[indices != NOBODY], minlength=sizes.experts) / _IMAGES
            moe.usage[task] = tuple(float(c) for c in counts)
            moe.order[task] = expert_order(moe.usage[task])
        return moe, run_experts(moe, self.tasks[-1], x, y, before)[0]

    def rescale(self, x: Ints) -> Rescale:
        """Each channel of ``x (N, D)`` to about three deviations in 127 steps, and off centre."""
        dim = self.sizes.dim
        spread = np.std(x, axis=0) * np.exp(self.rng.normal(0, 0.2, dim)) + 1.0
        step = 40 / spread * self.rng.choice([-1, 1], dim)
        return Rescale.from_affine(step, -np.mean(x, axis=0) * step + self.rng.normal(0, 5, dim))

    def router(self, y: Ints) -> Linear:
        """Logits of spread log2(experts), neither uniform nor one-sided, and the style's offset."""
        sizes = self.sizes
        spread = (1 << LOGIT.frac) * max(log2(sizes.seen), 1.0)
        linear = self.linear(sizes.seen, y, spread)
        if sizes.style == "varied":
            return linear
        force = _FORCED if sizes.style == "one" else -_FORCED
        step = Multiplier(
            mult=int(linear.mult[sizes.favourite]), shift=int(linear.shift[sizes.favourite])
        ).scale
        bias = linear.bias.copy()
        bias[sizes.favourite] += round(force / step)
        return Linear(weight=linear.weight, bias=bias, mult=linear.mult, shift=linear.shift)
