"""From a trained :class:`~..m3vit.M3ViT` to the float parameters that quantisation starts from."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

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
from moevit.quant.operators.activations import activation
from moevit.quant.typing import Floats32

from ..config import TaskConfig
from ..decoder import UpsamplingHead
from ..m3vit import Attention, Block, M3ViT
from ..moe import MixtureOfExperts

__all__ = ["to_float_network"]


def _array(tensor: Tensor) -> Floats32:
    return tensor.detach().to("cpu").float().numpy().copy()


def _linear(module: nn.Linear) -> FloatLinear:
    weight = _array(module.weight)
    bias = np.zeros(len(weight), np.float32) if module.bias is None else _array(module.bias)
    return FloatLinear(weight=weight, bias=bias)


def _norm(module: nn.LayerNorm) -> FloatNorm:
    return FloatNorm(gain=_array(module.weight), bias=_array(module.bias), eps=module.eps)


def _attention(module: Attention) -> FloatAttention:
    qkv = _linear(module.qkv)
    weights, biases = np.split(qkv.weight, 3), np.split(qkv.bias, 3)
    # Quantisation knows one scale of scores, 1 / sqrt(head width); another goes into the queries.
    factor = np.float32(module.scale * (len(weights[0]) // module.heads) ** 0.5)
    weights[0], biases[0] = weights[0] * factor, biases[0] * factor
    q, k, v = (FloatLinear(weight=w, bias=b) for w, b in zip(weights, biases, strict=True))
    return FloatAttention(q=q, k=k, v=v, proj=_linear(module.proj))


def _mlp(module: Any, function: str) -> FloatMlp:
    return FloatMlp(
        fc1=_linear(module.fc1), fc2=_linear(module.fc2), activation=activation(function)
    )


def _moe(module: MixtureOfExperts, model: M3ViT) -> FloatMoe:
    """A mixture with one router a task: what a gate adds for the task is in the router's bias."""
    router, config = module.router, model.config
    embedding, routers = model.task_embedding(), {}
    for number, task in enumerate(config.task_names):
        weight, bias = router.gate(number, embedding)
        zero = np.zeros(len(weight), np.float32)
        routers[task] = FloatLinear(
            weight=_array(weight), bias=zero if bias is None else _array(bias)
        )
    return FloatMoe(
        k=router.top_k,
        routers=routers,
        experts=tuple(_mlp(expert, config.experts_activation) for expert in module.experts),
        starts={} if router.whole else dict(zip(config.task_names, config.starts, strict=True)),
        renormalise=router.renormalise,
        threshold=router.threshold,
        top_p=router.top_p,
        ahead=config.gate_input_ahead,
    )


def _block(module: Block, model: M3ViT) -> FloatBlock:
    mlp = module.mlp
    return FloatBlock(
        norm1=_norm(module.norm1),
        attention=_attention(module.attn),
        norm2=_norm(module.norm2),
        mlp=_moe(mlp, model)
        if isinstance(mlp, MixtureOfExperts)
        else _mlp(mlp, model.config.activation),
    )


def _head(model: M3ViT, task: TaskConfig) -> FloatHead | FloatUpsamplingHead:
    config, module = model.config, model.heads[task.name]
    if isinstance(module, UpsamplingHead):
        return _upsampling(module)
    single = task.kind == "classification"
    return FloatHead(
        linear=_linear(cast(nn.Linear, module.linear)),
        channels=task.channels,
        upscale=1 if single else config.subpixels(task.name),
        class_token=single and not config.mean_pool,
        tokens=config.class_inputs // config.dim if single else 1,
        mean=single and config.mean_pool,
        norm=_norm(cast(nn.LayerNorm, module.norm)) if single and config.pool_norm else None,
    )


def _upsampling(module: UpsamplingHead) -> FloatUpsamplingHead:
    """Stages with a doubling in front of each convolution but the first, and of the 1x1: behind it,
    where the module has it, bilinear doubling gives the same, as its shares add up to 1."""
    if module.corners and module.doublings:
        raise ValueError(
            "Heads trained with align_corners have weights of their own at every pixel of a "
            "doubled map, which the accelerator does not hold; import them without it "
            "(--no-align-corners) for nearly the same"
        )
    stages = []
    for n, (layer, norm) in enumerate(zip(module.convolutions, module.norms, strict=True)):
        weight, bias = _folded(cast(nn.Conv2d, layer), cast(nn.BatchNorm2d, norm))
        stages.append(FloatStage(weight=weight, bias=bias, doubling=n > 0, relu=True))
    last = module.classify
    stages.append(
        FloatStage(
            weight=_array(last.weight),
            bias=_array(cast(Tensor, last.bias)),
            doubling=module.doublings > 0,
            relu=False,
        )
    )
    own = module.norm if isinstance(module.norm, nn.LayerNorm) else None
    return FloatUpsamplingHead(norm=_norm(own) if own else None, stages=tuple(stages))


def _folded(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Floats32, Floats32]:
    """A convolution's weight and bias with the running statistics behind it folded in."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    gain = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    bias = (cast(Tensor, layer.bias).double() - mean.double()) * gain + norm.bias.double()
    return _array(layer.weight.double() * gain[:, None, None, None]), _array(bias)


def to_float_network(model: M3ViT) -> FloatNetwork:
    """The model's parameters as NumPy arrays; the patch embedding takes (row, column, channel)."""
    config = model.config
    kernel = _array(model.patch_embed.proj.weight)  # (D, C, row, column)
    embedding = _array(model.pos_embed)[0]
    row = 0
    for token in (model.cls_token, model.dist_token, model.reg_token):
        if token is not None:
            count = token.shape[1]
            embedding[row : row + count] += _array(token)[0]
            row += count
    return FloatNetwork(
        geometry=Geometry(
            image_height=config.image[0],
            image_width=config.image[1],
            patch=config.patch,
            channels=kernel.shape[1],
            dim=config.dim,
            heads=config.heads,
            class_token=config.class_token,
            distilled=config.distilled,
            registers=config.registers,
        ),
        pixel_mean=_array(model.pixel_mean).reshape(-1),
        pixel_std=_array(model.pixel_std).reshape(-1),
        patch_embed=FloatLinear(
            weight=kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1),
            bias=_array(model.patch_embed.proj.bias),
        ),
        embedding=embedding,
        blocks=tuple(_block(cast(Block, block), model) for block in model.blocks),
        norm=_norm(model.norm) if isinstance(model.norm, nn.LayerNorm) else None,
        entry=_norm(model.norm_pre) if isinstance(model.norm_pre, nn.LayerNorm) else None,
        heads={task.name: _head(model, task) for task in config.tasks if task.kind != "tokens"},
        tasks=config.task_names,
        meta={"model": json.loads(config.to_json())},
    )
