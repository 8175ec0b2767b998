"""Configurations whose memories just hold a network."""

import numpy as np

from moevit.compiler.plan.buffers import Buffers
from moevit.compiler.plan.layout import Shapes
from moevit.compiler.plan.spill import least_words
from moevit.hw.config import AcceleratorConfig
from moevit.quant.network import Network

__all__ = ["cramped"]


def cramped(
    network: Network, config: AcceleratorConfig, rng: np.random.Generator
) -> AcceleratorConfig:
    """``config`` with memories from what the smallest tiles need to three times that."""
    b = Buffers.of(network, Shapes(config=config, geometry=network.geometry))
    activations, residual = least_words(b)
    factor = rng.choice([1.0, 1.2, 1.7, 3.0], 3)
    return config.but(
        memory__activation_words=int(activations * factor[0]),
        memory__residual_words=int(residual * factor[1]),
        memory__kv_rows=int(b.head_rows * factor[2]),
        memory__norm_rows=int(rng.integers(2, 5) + b.gates) * b.shapes.words,
        limits__depth=max(config.limits.depth, b.depth * config.array.inputs),
        limits__routed=int(rng.integers(config.array.tokens, 30)),
    )
