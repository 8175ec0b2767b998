"""Random float networks with the habits of trained ones: uneven channels and biased norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from moevit.quant.float.network import (
    FloatAttention,
    FloatBlock,
    FloatHead,
    FloatLinear,
    FloatMlp,
    FloatMoe,
    FloatNetwork,
    FloatNorm,
)
from moevit.quant.float.upsampling import FloatStage, FloatUpsamplingHead
from moevit.quant.network import Geometry
from moevit.quant.operators.activations import GELU, Activation

__all__ = ["float_network"]


def float_network(
    seed: int = 0,
    *,
    dim: int = 32,
    heads: int = 2,
    depth: int = 3,
    hidden: int = 64,
    experts: int = 4,
    k: int = 2,
    expert_hidden: int = 48,
    moe: tuple[int, ...] = (1,),
    tasks: tuple[str, ...] = ("a", "b"),
    class_token: bool = True,
    window: int = 0,
    doublings: int | None = None,
    own_norm: bool = False,
    activation: Activation = GELU,
    **gate: Any,
) -> FloatNetwork:
    """A network on 16 x 24 images with patches of 8; same seed, same network.

    ``window``: experts that a task may choose among, each task's one further on than the last's (0:
    all). ``doublings``: of upsampling heads, None for linear ones; ``own_norm``: they have one and
    the network has none. ``gate``: further fields of the mixtures.
    """
    seen = window or experts
    rng = np.random.default_rng(seed)

    def normal(*shape: int, size: float = 1.0) -> Any:
        return rng.normal(0, size, shape).astype(np.float32)

    def linear(outputs: int, inputs: int, size: float = 1.0, bias: float = 0.1) -> FloatLinear:
        rows = np.exp(normal(outputs, 1, size=0.3))
        weight = rows * normal(outputs, inputs, size=size * inputs**-0.5)
        return FloatLinear(weight=weight, bias=normal(outputs, size=bias))

    def norm() -> FloatNorm:
        gain = np.exp(normal(dim, size=0.5))
        gain[rng.integers(dim)] *= 6
        return FloatNorm(gain=gain, bias=normal(dim, size=0.5), eps=1e-6)

    def mlp(width: int) -> FloatMlp:
        return FloatMlp(fc1=linear(width, dim), fc2=linear(dim, width, 0.5), activation=activation)

    def mixture() -> FloatMoe:
        routers = {
            task: FloatLinear(
                weight=normal(seen, dim, size=dim**-0.5), bias=np.zeros(seen, np.float32)
            )
            for task in tasks
        }
        return FloatMoe(
            k=k,
            routers=routers,
            experts=tuple(mlp(expert_hidden) for _ in range(experts)),
            starts={t: n % (experts - seen + 1) for n, t in enumerate(tasks)} if window else {},
            **gate,
        )

    def convolution(
        outputs: int, inputs: int, kernel: int, doubling: bool, relu: bool = True
    ) -> FloatStage:
        rows = np.exp(normal(outputs, 1, 1, 1, size=0.4))  # channels of uneven width
        size = (inputs * kernel**2) ** -0.5
        weight = rows * normal(outputs, inputs, kernel, kernel, size=size)
        return FloatStage(
            weight=weight, bias=normal(outputs, size=0.2), doubling=doubling, relu=relu
        )

    def upsampling(channels: int) -> FloatUpsamplingHead:
        assert doublings is not None
        width = 11
        stages = [
            convolution(width, width if n else dim, 3, n > 0) for n in range(max(doublings, 1))
        ]
        stages.append(convolution(channels, width, 1, doublings > 0, relu=False))
        return FloatUpsamplingHead(norm=norm() if own_norm else None, stages=tuple(stages))

    geometry = Geometry(
        image_height=16,
        image_width=24,
        patch=8,
        channels=3,
        dim=dim,
        heads=heads,
        class_token=class_token,
    )
    blocks = tuple(
        FloatBlock(
            norm1=norm(),
            attention=FloatAttention(
                q=linear(dim, dim),
                k=linear(dim, dim, bias=1.0),
                v=linear(dim, dim, bias=1.0),
                proj=linear(dim, dim, 0.5),
            ),
            norm2=norm(),
            mlp=mixture() if i in moe else mlp(hidden),
        )
        for i in range(depth)
    )
    return FloatNetwork(
        geometry=geometry,
        pixel_mean=np.array([120, 125, 130], np.float32),
        pixel_std=np.array([60, 64, 70], np.float32),
        patch_embed=linear(dim, 192),
        embedding=normal(geometry.tokens, dim, size=0.5),
        blocks=blocks,
        norm=None if own_norm else norm(),
        heads={
            task: FloatHead(linear=linear(4 * (i + 1), dim), channels=i + 1, upscale=2)
            if doublings is None
            else upsampling(i + 1)
            for i, task in enumerate(tasks)
        },
        tasks=tasks,
        meta={"name": "random"},
    )
