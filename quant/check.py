"""Does a quantised network hang together? Every array's type, shape and range, named when wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .formats import ACTIVATION, MULTIPLIER_BITS, RESIDUAL, SHIFT_BITS, WEIGHT, QFormat, weight_max
from .network import Block, Geometry, Head, Mlp, Moe, Network
from .operators.activations import activation
from .operators.layernorm import BIAS, EPS, GAIN, LayerNorm
from .operators.linear import Linear
from .operators.rescale import Rescale
from .operators.upsampling import UpsamplingHead

__all__ = ["check_network"]

_MULT = QFormat(width=MULTIPLIER_BITS, signed=False)
_SHIFT = QFormat(width=SHIFT_BITS, signed=False)


def check_network(network: Network) -> None:
    """Raise ``ValueError`` naming the first field that does not fit the others or its format."""
    g = network.geometry
    _geometry(g)
    _linear("patch_embed", network.patch_embed, g.dim, g.patch * g.patch * g.channels)
    _array("embedding", network.embedding, (g.tokens, g.dim), RESIDUAL, np.int16)
    if not network.tasks:
        raise ValueError("tasks must name at least one task")
    if network.entry is not None:
        _norm("entry.norm", network.entry.norm, g.dim)
        _linear("entry.linear", network.entry.linear, g.dim, g.dim)
    for i, block in enumerate(network.blocks):
        _block(f"blocks.{i}", block, g.dim, network.tasks)
    if network.norm is not None:
        _norm("norm", network.norm, g.dim)
    for task, head in network.heads.items():
        if task not in network.tasks:
            raise ValueError(f"heads.{task} is not one of the tasks {', '.join(network.tasks)}")
        if network.final_norm(task) is None:
            raise ValueError(f"heads.{task} needs the final norm, which is absent")
        if None not in (head.norm, network.norm):
            raise ValueError(f"heads.{task}.norm must be absent: the network has a final norm")
        if isinstance(head, UpsamplingHead):
            _upsampling(f"heads.{task}", head, g)
        else:
            _head(f"heads.{task}", head, g)
    if not (np.isfinite(network.norm_scale) and network.norm_scale >= 0):
        raise ValueError(f"norm_scale must not be negative, not {network.norm_scale!r}")
    if not (np.isfinite(network.residual_scale) and network.residual_scale > 0):
        raise ValueError(f"residual_scale must be positive, not {network.residual_scale!r}")


def _head(path: str, head: Head, g: Geometry) -> None:
    if head.class_token and (not g.class_token or head.upscale != 1):
        raise ValueError(f"{path} reads the class token, which needs one and upscale 1")
    if head.mean is not None and (head.class_token or head.upscale != 1):
        raise ValueError(f"{path} reads the patches' mean alone, which needs upscale 1")
    if head.mean is not None and not head.mean.mult >> (MULTIPLIER_BITS - 1):
        raise ValueError(f"{path}.mean must have its top bit set, not {head.mean!r}")
    most = 1 + int(g.distilled) if head.class_token else 1
    if not 1 <= head.tokens <= most:
        raise ValueError(f"{path}.tokens must be from 1 to {most}, not {head.tokens!r}")
    if head.pooled is not None:
        if head.mean is None:
            raise ValueError(f"{path}.pooled needs a mean")
        _affine(f"{path}.pooled.rescale", head.pooled.rescale, g.dim)
        _linear(f"{path}.pooled.linear", head.pooled.linear, g.dim, g.dim)
        _norm(f"{path}.pooled.norm", head.pooled.norm, g.dim)
    outputs = head.channels * head.upscale**2
    _linear(f"{path}.linear", head.linear, outputs, g.dim * head.tokens)


def _upsampling(path: str, head: UpsamplingHead, g: Geometry) -> None:
    if head.norm is not None:
        _norm(f"{path}.norm", head.norm, g.dim)
    if not head.stages:
        raise ValueError(f"{path}.stages must be one at least")
    (height, width), channels = g.grid, g.dim
    for n, stage in enumerate(head.stages):
        where, last = f"{path}.stages.{n}", n == len(head.stages) - 1
        found = (stage.height, stage.width, stage.channels)
        if found != (height, width, channels):
            expected = f"{height} x {width} of {channels} channels"
            raise ValueError(f"{where} must read {expected}, not {' x '.join(map(str, found))}")
        if stage.relu == last:
            raise ValueError(f"{where}.relu must be {not last}: all stages but the last have one")
        for w, (window, linear) in enumerate(stage.pieces):
            depth = window.taps * channels
            _linear(f"{where}.linears.{w}", linear, stage.outputs, depth)
            if last and linear.scale != head.scale:
                raise ValueError(f"{where}.linears.{w}.scale must be {head.scale!r}, as the others")
        height, width = height * stage.factor, width * stage.factor
        channels = stage.outputs


def _geometry(g: Geometry) -> None:
    if g.distilled and not g.class_token:
        raise ValueError("geometry.distilled needs class_token")
    if g.registers < 0:
        raise ValueError(f"geometry.registers must not be negative, not {g.registers!r}")
    for name in ("image_height", "image_width", "patch", "channels", "dim", "heads"):
        if getattr(g, name) < 1:
            raise ValueError(f"geometry.{name} must be positive, not {getattr(g, name)!r}")
    if g.image_height % g.patch or g.image_width % g.patch:
        size = f"{g.image_height} x {g.image_width}"
        raise ValueError(f"geometry.patch {g.patch} must divide the image, {size}")
    if g.dim % g.heads:
        raise ValueError(f"geometry.heads {g.heads} must divide dim {g.dim}")


def _block(path: str, block: Block, dim: int, tasks: Sequence[str]) -> None:
    _norm(f"{path}.norm1", block.norm1, dim)
    _norm(f"{path}.norm2", block.norm2, dim)
    for name in ("q", "k", "v", "proj"):
        linear: Linear = getattr(block.attention, name)
        _linear(f"{path}.attention.{name}", linear, dim, dim)
    out = block.attention.softmax.out
    if not out.mult >> (MULTIPLIER_BITS - 1):
        raise ValueError(f"{path}.attention.softmax.out must have its top bit set, not {out!r}")
    if isinstance(block.mlp, Moe):
        _moe(f"{path}.mlp", block.mlp, dim, tasks)
    else:
        _mlp(f"{path}.mlp", block.mlp, dim)


def _mlp(path: str, mlp: Mlp, dim: int) -> None:
    hidden = mlp.fc1.shape[0]
    _linear(f"{path}.fc1", mlp.fc1, hidden, dim)
    _linear(f"{path}.fc2", mlp.fc2, dim, hidden)
    zero = mlp.hidden.zero_point
    if not ACTIVATION.min <= zero <= ACTIVATION.max:
        raise ValueError(f"{path}.hidden.zero_point must fit 8 bits, not {zero!r}")
    try:
        activation(mlp.hidden.function)
    except ValueError as error:
        raise ValueError(f"{path}.hidden.function {error}") from None


def _moe(path: str, moe: Moe, dim: int, tasks: Sequence[str]) -> None:
    experts, seen = len(moe.experts), moe.gate.experts
    if seen > experts:
        raise ValueError(f"{path}.gate.experts must be at most {experts} experts, not {seen}")
    if moe.ahead is not None:
        _affine(f"{path}.ahead", moe.ahead, dim)
    for e, expert in enumerate(moe.experts):
        _mlp(f"{path}.experts.{e}", expert, dim)
    functions = sorted({expert.hidden.function for expert in moe.experts})
    if len(functions) > 1:
        raise ValueError(f"{path}.experts must have one function, not {', '.join(functions)}")
    unknown = sorted(set(moe.starts) - set(tasks))
    if unknown:
        raise ValueError(f"{path}.starts names {', '.join(unknown)}, expected {', '.join(tasks)}")
    for name in ("routers", "order", "usage"):
        missing = sorted(set(tasks) ^ set(getattr(moe, name)))
        if missing:
            raise ValueError(f"{path}.{name} must have each task once; check {', '.join(missing)}")
    for task in tasks:
        _linear(f"{path}.routers.{task}", moe.routers[task], seen, dim)
        if not 0 <= moe.window(task).start <= experts - seen:
            raise ValueError(
                f"{path}.starts.{task} must be from 0 to {experts - seen}, "
                f"not {moe.window(task).start}"
            )
        if sorted(moe.order[task]) != list(range(experts)):
            raise ValueError(
                f"{path}.order.{task} must be a permutation of {experts} experts, "
                f"not {moe.order[task]!r}"
            )
        if len(moe.usage[task]) != experts:
            raise ValueError(f"{path}.usage.{task} must have {experts} entries")


def _linear(path: str, linear: Linear, outputs: int, depth: int) -> None:
    _array(f"{path}.weight", linear.weight, (outputs, depth), WEIGHT, np.int8)
    limit = weight_max(linear.weight_bits)
    if linear.weight.size and int(np.abs(linear.weight.astype(np.int64)).max()) > limit:
        raise ValueError(f"{path}.weight must lie within +-{limit}")
    _array(f"{path}.bias", linear.bias, (outputs,), BIAS, np.int32)
    _array(f"{path}.mult", linear.mult, (outputs,), _MULT, np.uint16)
    _array(f"{path}.shift", linear.shift, (outputs,), _SHIFT, np.uint8)


def _affine(path: str, norm: LayerNorm | Rescale, dim: int) -> None:
    _array(f"{path}.gain", norm.gain, (dim,), GAIN, np.int16)
    _array(f"{path}.bias", norm.bias, (dim,), BIAS, np.int32)
    _array(f"{path}.shift", norm.shift, (dim,), _SHIFT, np.uint8)


def _norm(path: str, norm: LayerNorm, dim: int) -> None:
    _affine(path, norm, dim)
    if not EPS.min <= norm.eps <= EPS.max:
        raise ValueError(f"{path}.eps must fit {EPS.width} bits, not {norm.eps!r}")


def _array(path: str, value: Any, shape: tuple[int, ...], form: QFormat, dtype: Any) -> None:
    expected = np.dtype(dtype)
    if not isinstance(value, np.ndarray) or value.dtype != expected or value.shape != shape:
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)
        raise ValueError(f"{path} must be {expected} {shape}, not {found}")
    if value.size and not form.min <= int(value.min()) <= int(value.max()) <= form.max:
        raise ValueError(f"{path} must lie in {form.min}..{form.max}")
