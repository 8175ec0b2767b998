"""Random builds of the accelerator: small ones, whose simulators are built in seconds."""

from __future__ import annotations

import numpy as np

from moevit.hw.config import AcceleratorConfig, ArrayConfig, LimitConfig, MemoryConfig

__all__ = ["random_machine"]


def random_machine(seed: int, index: int) -> AcceleratorConfig:
    """Configuration ``index`` of the campaign ``seed``: array, memories, rings, ports and limits.

    Shape, ports and ring go round with the index, so that eighteen machines have all pairs of them;
    everything else is drawn.
    """
    rng = np.random.default_rng([seed, 7, index])
    line, half = index // 3, index // 9
    ports, ring = (1, 2, 4)[index % 3], (32, 64, 128)[line % 3]
    tokens = (2, 4, 6)[(index + line) % 3]
    outputs = 8 if ports == 4 else (4, 8)[line % 2]
    inputs = outputs * (2, 4)[(half + index % 9) % 2]
    inputs = max(inputs, ports * 32 // outputs)  # a row of 4-bit weights is a beat a port, or more

    def between(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    def among(*values: int) -> int:
        return int(rng.choice(values))

    roomy = rng.random() < 0.5
    experts = between(3, 8)
    return AcceleratorConfig(
        name=f"random-{seed}-{index}",
        array=ArrayConfig(tokens=tokens, inputs=inputs, outputs=outputs),
        memory=MemoryConfig(
            activation_words=between(900, 2000) if roomy else between(150, 500),
            residual_words=between(800, 1500) if roomy else between(100, 400),
            kv_rows=between(60, 300),
            ring_rows=ring,
            demand_rows=among(32, 64),
            param_rows=among(32, 64),
            demand_param_rows=32,
            norm_rows=between(40, 150),
            ports=ports,
            landing_beats=among(32, 64),
        ),
        limits=LimitConfig(
            tokens=between(24, 70),
            depth=inputs * between(8, 24),
            experts=experts,
            top_k=between(1, min(experts, 4)),
            routed=between(8, 40),
        ),
        clock_mhz=100.0,
        watchdog_cycles=6000,
    )
