"""Activation functions as layers of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from moevit.quant.operators.activations import Activation, activation

__all__ = ["activation_layer"]


def activation_layer(name: str) -> Callable[[], nn.Module]:
    """What makes the layer of the activation function of that name."""
    function = activation(name)
    kind, arguments = function.layer
    base = partial(getattr(nn, kind), **arguments)
    return base if function.gain == 1 else partial(_Scaled, function, base)


class _Scaled(nn.Module):
    """``base(gain * x) / gain``."""

    def __init__(self, function: Activation, base: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.gain, self.base = function.gain, base()

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        out: Tensor = self.base(self.gain * x) / self.gain
        return out
