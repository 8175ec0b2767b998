"""Transformations of a float network that change nothing of what it computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moevit.quant.float.network import (
    FloatAttention,
    FloatLinear,
    FloatMlp,
    FloatMoe,
    FloatNetwork,
    FloatNorm,
)
from moevit.quant.typing import Floats

__all__ = ["TRANSFORMATIONS", "transformed"]

TRANSFORMATIONS = ("norms", "values", "queries", "order")


def transformed(
    network: FloatNetwork, kind: str, most: float = 30.0, seed: int = 0
) -> FloatNetwork:
    """The same function in other numbers.

    ``norms``: a norm's gain and bias against the next weights; ``values``: values against the
    projection; ``queries``: queries against keys; each channel by a factor from ``1 / most`` to
    ``most``. ``order``: hidden channels and experts in another order. The final norm stays.
    """
    rng = np.random.default_rng(seed)

    def factors(count: int) -> Floats:
        found: Floats = np.exp(rng.uniform(-np.log(most), np.log(most), count))
        return found

    def mixed(mlp: FloatMlp) -> FloatMlp:
        order = rng.permutation(len(mlp.fc1.bias))
        fc1 = FloatLinear(weight=mlp.fc1.weight[order], bias=mlp.fc1.bias[order])
        return FloatMlp(fc1=fc1, fc2=replace(mlp.fc2, weight=mlp.fc2.weight[:, order]))

    blocks = []
    for block in network.blocks:
        a, mlp = block.attention, block.mlp
        if kind == "norms":
            one, two = (factors(len(block.norm1.gain)) for _ in range(2))
            a = replace(a, **{n: _reads(getattr(a, n), one) for n in "qkv"})
            if isinstance(mlp, FloatMlp):
                mlp = replace(mlp, fc1=_reads(mlp.fc1, two))
            else:
                routers = mlp.routers
                if not mlp.ahead:
                    routers = {t: _reads(r, two) for t, r in routers.items()}
                experts = tuple(replace(x, fc1=_reads(x.fc1, two)) for x in mlp.experts)
                mlp = replace(mlp, routers=routers, experts=experts)
            block = replace(block, norm1=_norm(block.norm1, one), norm2=_norm(block.norm2, two))
        elif kind == "values":
            by = factors(len(a.v.bias))
            a = replace(a, v=_gives(a.v, by), proj=_reads(a.proj, by))
        elif kind == "queries":
            a = _against(a, factors(len(a.q.bias)))
        elif isinstance(mlp, FloatMlp):
            mlp = mixed(mlp)
        else:
            mlp = _reordered(mlp, rng, mixed)
        blocks.append(replace(block, attention=a, mlp=mlp))
    return replace(network, blocks=tuple(blocks))


def _reordered(moe: FloatMoe, rng: np.random.Generator, mixed: object) -> FloatMoe:
    """Experts in another order, where every task may choose all of them."""
    assert callable(mixed)
    count = len(moe.experts)
    experts = tuple(mixed(x) for x in moe.experts)
    if any(len(r.bias) != count for r in moe.routers.values()):
        return replace(moe, experts=experts)
    order = rng.permutation(count)
    routers = {
        t: FloatLinear(weight=r.weight[order], bias=r.bias[order]) for t, r in moe.routers.items()
    }
    return replace(moe, routers=routers, experts=tuple(experts[e] for e in order))


def _against(a: FloatAttention, by: Floats) -> FloatAttention:
    return replace(a, q=_gives(a.q, by), k=_gives(a.k, 1 / by))


def _norm(norm: FloatNorm, by: Floats) -> FloatNorm:
    gain, bias = (norm.gain * by).astype(np.float32), (norm.bias * by).astype(np.float32)
    return replace(norm, gain=gain, bias=bias)


def _gives(layer: FloatLinear, by: Floats) -> FloatLinear:
    weight = (layer.weight * by[:, None]).astype(np.float32)
    return FloatLinear(weight=weight, bias=(layer.bias * by).astype(np.float32))


def _reads(layer: FloatLinear, by: Floats) -> FloatLinear:
    return replace(layer, weight=(layer.weight / by).astype(np.float32))
