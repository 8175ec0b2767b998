"""Networks of zeros: what a model costs depends on its sizes and routing, not on its weights.

For estimates of sizes that nobody has trained; every task's tokens go to all experts evenly.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np

from moevit.quant.formats import Multiplier
from moevit.quant.network import (
    Attention,
    Block,
    Entry,
    Geometry,
    Head,
    Mlp,
    Moe,
    Network,
    Pooled,
)
from moevit.quant.operators.gate import Gate
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.linear import HiddenOutput, Linear
from moevit.quant.operators.rescale import Rescale
from moevit.quant.operators.softmax import Softmax
from moevit.quant.operators.upsampling import Stage, UpsamplingHead, windows

from .config import KINDS, ModelConfig, TaskConfig

__all__ = ["blank_network"]

_ONE = Multiplier.from_scale(1.0)


def blank_network(config: ModelConfig, *, expert_bits: int = 8) -> Network:
    """The quantised network of ``config`` with nothing in it.

    Layers of the same shape are the same object, so that even large sizes take no time and hardly
    any memory.
    """
    dim = config.dim
    zeros = np.zeros(dim)
    norm = LayerNorm.from_affine(zeros, zeros, 1)
    square = _linear(dim, dim)
    softmax = Softmax(score=_ONE, out=_ONE)
    attention = Attention(q=square, k=square, v=square, softmax=softmax, proj=square)
    dense = _mlp(dim, config.mlp_hidden, config.activation)
    moe = _moe(config, expert_bits)
    return Network(
        geometry=Geometry(
            image_height=config.image[0],
            image_width=config.image[1],
            patch=config.patch,
            channels=len(config.pixel_mean),
            dim=dim,
            heads=config.heads,
            class_token=config.class_token,
            distilled=config.distilled,
            registers=config.registers,
        ),
        patch_embed=_linear(dim, config.patch**2 * len(config.pixel_mean)),
        embedding=np.zeros((config.tokens, dim), np.int16),
        blocks=tuple(
            Block(
                norm1=norm,
                attention=attention,
                norm2=norm,
                mlp=moe if config.is_moe(index) else dense,
            )
            for index in range(config.depth)
        ),
        norm=norm if config.final_norm else None,
        heads={task.name: _head(config, task, norm) for task in config.tasks if _has_head(task)},
        tasks=config.task_names,
        residual_scale=1.0,
        entry=Entry(norm=norm, linear=square) if config.pre_norm else None,
        meta={"model": json.loads(config.to_json())},
    )


@cache
def _linear(outputs: int, inputs: int, bits: int = 8) -> Linear:
    return Linear(
        weight=np.zeros((outputs, inputs), np.int8),
        bias=np.zeros(outputs, np.int32),
        mult=np.full(outputs, _ONE.mult, np.uint16),
        shift=np.full(outputs, _ONE.shift, np.uint8),
        weight_bits=bits,
    )


def _mlp(dim: int, hidden: int, function: str, bits: int = 8) -> Mlp:
    return Mlp(
        fc1=_linear(hidden, dim, bits),
        hidden=HiddenOutput(out=_ONE, zero_point=0, function=function),
        fc2=_linear(dim, hidden, bits),
    )


def _moe(config: ModelConfig, bits: int) -> Moe:
    gate = Gate(
        experts=config.window,
        k=config.top_k,
        renormalise=config.renormalise,
        least=Gate.above(config.prune_threshold),
        enough=Gate.reaching(config.top_p),
    )
    share = config.tokens * config.top_k / config.window
    windowed = config.window < config.experts
    starts = dict(zip(config.task_names, config.starts, strict=True)) if windowed else {}
    usage, zeros = {}, np.zeros(config.dim)
    for task in config.task_names:
        seen = range(starts.get(task, 0), starts.get(task, 0) + config.window)
        usage[task] = tuple(share if e in seen else 0.0 for e in range(config.experts))
    return Moe(
        gate=gate,
        routers={task: _linear(config.window, config.dim) for task in config.task_names},
        experts=(_mlp(config.dim, config.expert_hidden, config.experts_activation, bits),)
        * config.experts,
        order={task: tuple(range(config.experts)) for task in config.task_names},
        usage=usage,
        starts=starts,
        ahead=Rescale.from_affine(zeros, zeros) if config.gate_input_ahead else None,
    )


def _has_head(task: TaskConfig) -> bool:
    return task.kind != "tokens"


def _head(config: ModelConfig, task: TaskConfig, norm: LayerNorm) -> Head | UpsamplingHead:
    if task.kind == "classification":
        zeros = np.zeros(config.dim)
        rescale, square = Rescale.from_affine(zeros, zeros), _linear(config.dim, config.dim)
        pooled = Pooled(rescale=rescale, linear=square, norm=norm)
        return Head(
            linear=_linear(task.channels, config.class_inputs),
            channels=task.channels,
            upscale=1,
            class_token=not config.mean_pool,
            tokens=config.class_inputs // config.dim,
            mean=_ONE if config.mean_pool else None,
            pooled=pooled if config.pool_norm else None,
        )
    side = config.subpixels(task.name)
    if config.decoder == "upsampling" and task.kind in KINDS:
        return _upsampling(config, task.channels, side, None if config.final_norm else norm)
    linear = _linear(task.channels * side**2, config.dim)
    return Head(linear=linear, channels=task.channels, upscale=side)


def _upsampling(
    config: ModelConfig, channels: int, side: int, norm: LayerNorm | None
) -> UpsamplingHead:
    """As :class:`.decoder.UpsamplingHead` has its stages."""
    doublings, (height, width), inputs = side.bit_length() - 1, config.grid, config.dim
    kinds = [(3, n > 0, config.decoder_width) for n in range(max(doublings, 1))]
    kinds.append((1, doublings > 0, channels))
    stages = []
    for kernel, doubling, outputs in kinds:
        cases = windows((height, width), kernel=kernel, doubling=doubling)
        stage = Stage(
            height=height,
            width=width,
            channels=inputs,
            kernel=kernel,
            doubling=doubling,
            relu=kernel > 1,
            linears=tuple(_linear(outputs, case.taps * inputs) for case in cases),
        )
        stages.append(stage)
        height, width, inputs = stage.factor * height, stage.factor * width, outputs
    return UpsamplingHead(norm=norm, stages=tuple(stages))
