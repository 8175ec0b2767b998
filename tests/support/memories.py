"""Random networks on small accelerators, some with memories that just hold them."""

from dataclasses import replace

import numpy as np

from moevit.compiler import Program, compile_network
from moevit.compiler.plan.buffers import Buffers
from moevit.compiler.plan.layout import Shapes
from moevit.compiler.plan.spill import least_words
from moevit.hw.config import AcceleratorConfig
from moevit.quant.network import Network
from moevit.quant.random_network import random_network

from .rtl import CONFIGS, random_sizes

__all__ = ["cramped", "random_program"]


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
        memory__norm_rows=int(rng.integers(2, 5) + b.scales) * b.shapes.words,
        limits__depth=max(config.limits.depth, b.depth * config.array.inputs),
        limits__routed=int(rng.integers(config.array.tokens, 30)),
    )


def random_program(seed: int, *, all_tasks: bool = False) -> tuple[Network, Program] | None:
    """A random network and its program; None if it has none. Odd ones have memories that just
    hold them."""
    rng = np.random.default_rng(seed)
    config = CONFIGS[("micro", "small", "odd")[seed % 3]]
    sizes = random_sizes(rng, config)
    if seed % 2:
        sizes = replace(sizes, mean_heads=False)
    network = random_network(seed, sizes)
    threshold = float(rng.choice([0.0, 3.0, float("inf")]))
    try:
        if seed % 2:
            config = cramped(network, config, rng)
        program = compile_network(network, config, threshold=threshold, all_tasks=all_tasks)
    except ValueError:  # does not fit, or all its tasks not in one program
        return None
    return network, program
