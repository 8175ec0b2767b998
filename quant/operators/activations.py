"""Activation functions, each one object: floats, integers and its form in every export.

The accelerator computes ``relu(v) - t(|v|)`` (the form in which Edge-MoE has GELU, Sarkar et al.
2023, section IV-D): a correction that depends on the magnitude alone, vanishes from some magnitude
on, and is a table. ``x * s(x)`` is of that form wherever ``s(x) + s(-x) = 1``, with
``t(u) = u * s(-u)``. The argument is a 16-bit number with 8 fractional bits, the result likewise.

To add a function is to write its :class:`Activation` here, and the destination of its integers in
``hw/codes.py`` where these are new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import erfc, exp, pi, sqrt
from typing import Any

import numpy as np

from .. import reproducible
from ..formats import VALUE
from ..typing import Floats32

__all__ = [
    "ACTIVATIONS",
    "FRAC",
    "GELU",
    "GELU_TANH",
    "QUICK_GELU",
    "RELU",
    "SILU",
    "Activation",
    "IntegerActivation",
    "activation",
]

FRAC = 8
"""Fractional bits of an argument and of a result."""

AddNode = Callable[..., str]
"""Adds a node of ONNX, from the operator and its inputs' names, and returns its output's name."""


@dataclass(frozen=True, kw_only=True)
class IntegerActivation:
    """``compute(v)`` for ``v`` in units of ``2**-FRAC``; ``name`` is that of its destination.

    ``correction`` is ``t(u)`` of real ``u >= 0``, or None for ReLU itself. Magnitudes are divided
    into at most two ``segments``, each given by its end and a step, powers of 2 in arguments: an
    entry of the table holds the value at the middle of a step. Behind the last segment it is 0.
    """

    name: str
    correction: Callable[[float], float] | None
    segments: tuple[tuple[int, int], ...] = ()

    @cached_property
    def tables(self) -> list[tuple[range, list[int]]]:
        """For each segment its steps' first magnitudes, and ``round(2**FRAC * t(u))`` of their
        middles."""
        found: list[tuple[range, list[int]]] = []
        start = 0
        for stop, step in self.segments:
            middles = ((n + (step - 1) / 2) / (1 << FRAC) for n in range(start, stop, step))
            assert self.correction is not None
            table = [round(self.correction(u) * (1 << FRAC)) for u in middles]
            found.append((range(start, stop, step), table))
            start = stop
        return found

    def compute(self, value: Any) -> Any:
        """The function of ``value`` (16 bits, ``FRAC`` fractional bits), in the same format."""
        v = VALUE.saturate(np.asarray(value, np.int64))
        size, out = np.abs(v), np.maximum(v, 0)
        for steps, table in self.tables:
            inside = (size >= steps.start) & (size < steps.stop)
            index = np.where(inside, (size - steps.start) // steps.step, 0)
            out -= np.where(inside, np.asarray(table)[index], 0)
        return out if isinstance(value, np.ndarray) else int(out)


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation function ``f(x) = base(gain * x) / gain`` as a model's configuration names it.

    ``base`` takes and gives float32, the same on every machine. ``integer`` is what the accelerator
    has of it. ``finest``: as many steps of int8 results for each step of the integers, at most, as
    keep them within one step of exact. ``layer``: class of ``torch.nn`` and its arguments. ``onnx``
    makes ``base`` of standard operators of opset 20 on. All are of ``base``: a gain is folded into
    the scales of what surrounds it.
    """

    name: str
    base: Callable[[Floats32], Floats32]
    integer: IntegerActivation
    finest: float
    layer: tuple[str, Mapping[str, Any]]
    onnx: Callable[[AddNode, str], str]
    gain: float = field(default=1.0)

    def __reduce__(self) -> tuple[Callable[[str], Activation], tuple[str]]:
        return activation, (self.name,)

    def __call__(self, x: Floats32) -> Floats32:
        """The function of floats."""
        if self.gain == 1:
            return self.base(x)
        out: Floats32 = self.base(x * np.float32(self.gain)) / np.float32(self.gain)
        return out

    @property
    def step(self) -> float:
        """Real value of one step of the integers, argument and result."""
        return 1 / ((1 << FRAC) * self.gain)

    @property
    def finest_step(self) -> float:
        """Smallest step of int8 results that keeps them within one step of exact."""
        return self.step / self.finest


def _gelu(x: Floats32) -> Floats32:
    out: Floats32 = x * reproducible.ndtr(x)
    return out


GELU = Activation(
    name="gelu",
    base=_gelu,
    integer=IntegerActivation(
        name="gelu",
        correction=lambda u: u * (0.5 * erfc(u / sqrt(2))),
        segments=((512, 2), (1024, 2)),
    ),
    finest=0.73,
    layer=("GELU", {}),
    onnx=lambda add, x: add("Gelu", x),
)
"""Exact GELU, ``x * Phi(x)`` (Hendrycks and Gimpel 2016)."""


def _silu(x: Floats32) -> Floats32:
    small = reproducible.exp(-np.abs(x))  # so that nothing overflows
    out: Floats32 = x * np.where(x < 0, small, np.float32(1)) / (1 + small)
    return out


SILU = Activation(
    name="silu",
    base=_silu,
    integer=IntegerActivation(
        name="silu",
        correction=lambda u: u / (1 + exp(u)),
        segments=((512, 2), (2048, 8)),
    ),
    finest=0.59,
    layer=("SiLU", {}),
    onnx=lambda add, x: add("Mul", x, add("Sigmoid", x)),
)
"""SiLU or swish, ``x / (1 + exp(-x))`` (Elfwing et al. 2018). Its correction is 0.7
of a step where the table ends, at 8."""

RELU = Activation(
    name="relu",
    base=lambda x: np.maximum(x, 0),
    integer=IntegerActivation(name="relu", correction=None),
    finest=1.0,
    layer=("ReLU", {}),
    onnx=lambda add, x: add("Relu", x),
)
"""The larger of ``x`` and 0."""


def _gelu_tanh(x: Floats32) -> Floats32:
    z = np.float32(2 * sqrt(2 / pi)) * (x + np.float32(0.044715) * x * x * x)
    small = reproducible.exp(-np.abs(z))
    out: Floats32 = x * np.where(z < 0, small, np.float32(1)) / (1 + small)
    return out


GELU_TANH = replace(
    GELU,
    name="gelu_tanh",
    base=_gelu_tanh,
    finest=0.63,
    layer=("GELU", {"approximate": "tanh"}),
    onnx=lambda add, x: add("Gelu", x, approximate="tanh"),
)
"""GELU's approximation by tanh (Hendrycks and Gimpel 2016): at most an eighth of a step of the
integers from GELU, whose integers it has."""

QUICK_GELU = replace(SILU, name="quick_gelu", gain=1.702)
"""``x * sigmoid(1.702 x)``, CLIP's: SiLU of another scale."""

ACTIVATIONS: dict[str, Activation] = {a.name: a for a in (GELU, SILU, RELU, GELU_TANH, QUICK_GELU)}
"""All of them by name."""


def activation(name: str) -> Activation:
    """One by name; ``ValueError`` naming the known ones otherwise."""
    if name not in ACTIVATIONS:
        raise ValueError(f"must be one of {', '.join(ACTIVATIONS)}, not {name!r}")
    return ACTIVATIONS[name]
