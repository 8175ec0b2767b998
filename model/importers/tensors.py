"""Accounting for each tensor of foreign weights (:mod:`.containers` finds them in their file).

A :class:`Tensors` hands out what an importer asks for by name and shape and remembers what was
wrong. At the end :meth:`Tensors.finish` raises one error that lists everything missing, misshapen,
not finite or left over, so nothing is skipped in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .containers import listed

__all__ = ["Tensors"]


class Tensors:
    """Named tensors on their way into a model, each taken exactly once.

    Parameters
    ----------
    source:
        What the errors call the file or folder.
    values:
        The tensors by name.
    """

    def __init__(self, source: str, values: Mapping[str, Tensor]) -> None:
        self.source = source
        self._values = dict(values)
        self._left = dict.fromkeys(values)
        self._missing: list[str] = []
        self._wrong: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._values

    @property
    def names(self) -> tuple[str, ...]:
        """All names, taken or not."""
        return tuple(self._values)

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor that sizes are read from.

        Raises ``ValueError`` at once if it is missing or has another number of dimensions.
        """
        if name not in self._values:
            raise ValueError(f"{self.source} lacks {name}, from which sizes are read")
        shape = tuple(self._values[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise ValueError(f"{self.source}: {name} is {shape}, expected {dimensions} dimensions")
        return shape

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape as float32; zeros, and a note for :meth:`finish`, if it is not."""
        tensor = self._values.get(name)
        self._left.pop(name, None)
        if tensor is None:
            self._missing.append(f"{name} {shape}")
        elif tuple(tensor.shape) != shape:
            self._wrong.append(f"{name} is {tuple(tensor.shape)}, expected {shape}")
        elif not tensor.is_floating_point():
            self._wrong.append(f"{name} is {tensor.dtype}, expected floating point")
        elif not torch.isfinite(tensor).all():
            self._wrong.append(f"{name} has values that are not finite")
        else:
            return tensor.detach().float().contiguous()
        return torch.zeros(shape)

    def complain(self, problem: str) -> None:
        """Note a problem of values or names for :meth:`finish`."""
        self._wrong.append(problem)

    def leave(self, names: Iterable[str]) -> list[str]:
        """Set aside tensors that are known and not needed; returns those that there are."""
        known = [name for name in names if name in self._left]
        for name in known:
            del self._left[name]
        return known

    def finish(self) -> None:
        """Raises one ``ValueError`` that lists everything that did not fit."""
        problems = []
        if self._missing:
            problems.append(f"missing {listed(self._missing)}")
        if self._wrong:
            problems.append(f"wrong: {listed(self._wrong)}")
        if self._left:
            unexpected = [f"{name} {tuple(self._values[name].shape)}" for name in self._left]
            problems.append(f"unexpected {listed(unexpected)}")
        if problems:
            raise ValueError(f"{self.source} does not fit: " + "; ".join(problems))
