"""Quantisation methods by name: plain MinMax, each method alone on top of it, the default, and
training."""

from __future__ import annotations

from dataclasses import replace

from .quantize import Options

__all__ = ["BALANCE", "COMPENSATE", "DEFAULT", "METHODS", "PLAIN", "about", "method"]

DEFAULT = "default"
BALANCE, COMPENSATE = "balance", "compensate"
PLAIN = Options(clip="minmax", migrate=(0.0,), rounding="nearest")
"""Ranges from the extremes, one scale for all channels of a tensor, weights to the nearest code."""

_REPARAMETERISED = Options().migrate

METHODS: dict[str, tuple[Options, str]] = {
    "minmax": (PLAIN, "ranges from extremes, nothing else"),
    "percentile": (replace(PLAIN, clip="percentile"), "ranges keep 99.99 % of the values"),
    "mse": (replace(PLAIN, clip="mse"), "ranges with the least squared error"),
    "migrate": (
        replace(PLAIN, migrate=_REPARAMETERISED),
        "scale and centre a channel behind LayerNorm and in values",
    ),
    "bias": (replace(PLAIN, bias_correction=True), "means of all outputs restored by the biases"),
    "gptq": (replace(PLAIN, rounding="gptq"), "second-order rounding, each expert by its tokens"),
    "descent": (replace(PLAIN, rounding="descent"), "the same, then coordinate descent"),
    DEFAULT: (Options(), "mse, migrate, and gptq for weights of 4 bits"),
    "all": (
        Options(rounding="descent", bias_correction=True),
        "mse, migrate, descent for all weights, bias correction",
    ),
    BALANCE: (
        Options(clip="minmax", migrate=(0.5,), balance=True),
        "ranges by how much a channel matters, none cut: for images unlike the calibration's",
    ),
    COMPENSATE: (
        Options(clip="minmax", migrate=(0.5,), balance=True, compensate=0.2),
        "`balance`, and layers that make up for the rounding before them: for images like its",
    ),
    "qat": (
        Options(finetune=300),
        "`default`, then 300 steps of training with fake quantisation",
    ),
}
"""Options and what they are, in the order of the table that compares them."""


def method(name: str, *, expert_bits: int = 8) -> Options:
    """A method's options. Raises ``ValueError`` naming the methods for an unknown one."""
    if name not in METHODS:
        raise ValueError(f"Method must be one of {', '.join(METHODS)}, not {name!r}")
    return replace(METHODS[name][0], expert_bits=expert_bits)


def about(name: str) -> str:
    """What a method is, in a few words."""
    return METHODS[name][1]
