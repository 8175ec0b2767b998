"""Multiply-accumulates of a network itself, without padding."""

from __future__ import annotations

from moevit.quant.network import Head, Mlp, Moe, Network
from moevit.quant.operators.upsampling import Stage

__all__ = ["shared_macs", "useful_macs"]


def useful_macs(network: Network, task: str) -> int:
    """Multiply-accumulates of one image: no padding, every token in ``top_k`` experts."""
    g = network.geometry
    total = _embedding_macs(network)
    total += sum(_attention_macs(network) + _mlp_macs(network, b.mlp) for b in network.blocks)
    head = network.heads.get(task)
    if isinstance(head, Head):
        outputs, inputs = head.linear.shape
        total += (1 if head.single else g.patches) * inputs * outputs
    elif head is not None:
        total += sum(_convolution_macs(stage) for stage in head.stages)
    return total


def _convolution_macs(stage: Stage) -> int:
    """Those of the convolution itself: of a doubled map, but for a 1x1, which commutes with it."""
    pixels = stage.height * stage.width * (stage.factor**2 if stage.kernel > 1 else 1)
    return pixels * stage.kernel**2 * stage.channels * stage.outputs


def shared_macs(network: Network) -> int:
    """Those of :func:`useful_macs` in front of the first router, the same for every task."""
    total = _embedding_macs(network)
    for block in network.blocks:
        total += _attention_macs(network)
        if not isinstance(block.mlp, Mlp):
            break
        total += _mlp_macs(network, block.mlp)
    return total


def _embedding_macs(network: Network) -> int:
    g = network.geometry
    return g.patches * g.dim * g.patch * g.patch * g.channels


def _attention_macs(network: Network) -> int:
    n, dim = network.geometry.tokens, network.geometry.dim
    return 4 * n * dim * dim + 2 * n * n * dim  # q, k, v, projection; scores, weighted sum


def _mlp_macs(network: Network, mlp: Mlp | Moe) -> int:
    n, dim = network.geometry.tokens, network.geometry.dim
    if isinstance(mlp, Mlp):
        return 2 * n * dim * mlp.fc1.shape[0]
    hidden = sum(e.fc1.shape[0] for e in mlp.experts) / len(mlp.experts)
    return n * dim * mlp.gate.experts + round(2 * n * mlp.gate.k * dim * hidden)
