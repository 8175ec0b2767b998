"""Routers that use all experts alike: biases chosen so that each expert gets its share of tokens.

For benchmarks. A random router leaves some experts empty and a trained one is skewed; a uniform one
is the worst case for weight traffic and padding. Only the routers' biases change, one layer after
the other, so that the integers of a balanced network are as real as those of any other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..golden import Golden, run_experts
from ..network import Block, Moe, Network, expert_order
from ..operators.linear import Linear

__all__ = ["balance_router", "balance_routers"]

Ints = np.ndarray[Any, np.dtype[Any]]

_STEPS = 400


def balance_router(router: Linear, y: Ints, k: int) -> Linear:
    """``router`` with biases under which rows ``y (N, D)`` spread evenly over the experts.

    Each step lowers the logits of experts with more than their share ``N * k / E`` of the rows and
    raises the others', ever more finely; the best spread that was seen counts.
    """
    logits = np.asarray(router.values(y), np.float64)  # (N, E)
    rows, experts = logits.shape
    share = rows * k / experts
    # What one step of the bias is worth in logits, and the room that the accumulator leaves.
    unit = router.mult.astype(np.float64) / 2.0 ** router.shift.astype(np.float64)
    offset = np.median(logits) - np.median(logits, axis=0)
    best, best_spread = offset, np.inf
    step = max(float(logits.std()), 1.0)
    for n in range(_STEPS):
        shifted = np.rint(offset / unit) * unit + logits
        chosen = np.argsort(-shifted, axis=1, kind="stable")[:, :k]
        counts = np.bincount(chosen.ravel(), minlength=experts)
        spread = float(np.abs(counts - share).max())
        if spread < best_spread:
            best, best_spread = offset.copy(), spread
        offset = offset - step * (1 - n / _STEPS) ** 2 * np.clip((counts - share) / share, -1, 1)
    bias = router.bias.astype(np.int64) + np.rint(best / unit).astype(np.int64)
    return replace(router, bias=bias.astype(router.bias.dtype))


def balance_routers(network: Network, images: Ints) -> Network:
    """``network`` with every task's routers balanced on ``images (N, H, W, C)`` uint8.

    Layers are balanced in order, each on what the balanced ones before it give. Usage and order of
    the experts are those of the same images.
    """
    routers: dict[int, dict[str, tuple[Linear, tuple[float, ...]]]] = {}
    for task in network.tasks:
        for index, found in _balance(network, images, task).items():
            routers.setdefault(index, {})[task] = found
    blocks = [
        _with_routers(block, routers[i]) if i in routers else block
        for i, block in enumerate(network.blocks)
    ]
    return replace(network, blocks=tuple(blocks))


def _balance(
    network: Network, images: Ints, task: str
) -> dict[int, tuple[Linear, tuple[float, ...]]]:
    """One task's balanced router of each MoE layer, and the tokens an image of each expert."""
    golden, found = Golden(network), {}
    for index, x, y in golden.router_inputs(images, task):
        moe = network.blocks[index].mlp
        assert isinstance(moe, Moe)
        rows = y.reshape(-1, y.shape[-1])
        if moe.ahead is not None:
            raise ValueError(f"Block {index}: only gates that read the block's norm are balanced")
        router = balance_router(moe.routers[task], rows, moe.gate.k)
        balanced = replace(moe, routers={**moe.routers, task: router})
        flat, chosen, _ = run_experts(balanced, task, x.reshape(rows.shape), rows, rows)
        sent = np.bincount(chosen[chosen >= 0], minlength=len(moe.experts))
        found[index] = (router, tuple((sent / len(images)).tolist()))
        x[...] = flat.reshape(x.shape)
    return found


def _moe(moe: Moe, routers: dict[str, tuple[Linear, tuple[float, ...]]]) -> Moe:
    return replace(
        moe,
        routers={**moe.routers, **{task: router for task, (router, _) in routers.items()}},
        usage={**moe.usage, **{task: usage for task, (_, usage) in routers.items()}},
        order={**moe.order, **{task: expert_order(usage) for task, (_, usage) in routers.items()}},
    )


def _with_routers(block: Block, routers: dict[str, tuple[Linear, tuple[float, ...]]]) -> Block:
    assert isinstance(block.mlp, Moe)
    return replace(block, mlp=_moe(block.mlp, routers))
