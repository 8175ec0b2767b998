"""Reading foreign weights safely, and accounting for each of their tensors.

A :class:`Tensors` hands out what an importer asks for by name and shape and remembers what was
wrong. At the end :meth:`Tensors.finish` raises one error that lists everything missing, misshapen,
not finite or left over, so nothing is skipped in silence.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["Tensors", "listed", "read_weights", "strip_prefixes"]

_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "backbone.", "_orig_mod.")
_SHOWN = 20


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` or ``.safetensors`` file by name, without running its code.

    A state dictionary may lie under ``state_dict`` or ``model``, its names may carry ``module.``
    and ``backbone.`` prefixes. Raises ``ValueError`` naming the file if it is absent or broken, if
    it needs arbitrary unpickling, or if it has no tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"Weights {path} are a folder, expected a file")
    if not path.is_file():
        raise ValueError(f"Weights {path} do not exist")
    found = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for name in _CONTAINERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping):
        raise ValueError(
            f"Weights {path} must be a dictionary of tensors, not {type(found).__name__}"
        )
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    others = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
    if not tensors:
        held = f"; it holds {listed(others)}" if others else ""
        raise ValueError(f"Weights {path} have no tensors{held}")
    if others:
        raise ValueError(f"Weights {path} have entries that are no tensors: {listed(others)}")
    return strip_prefixes(tensors, path)


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"Weights {path} are not a whole safetensors file: {error}") from None


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # of old forms of pickle; what is refused is said below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        what = f" ({blocked[1]})" if blocked else ""
        raise ValueError(
            f"Weights {path} are not a file of plain tensors{what}; loading them would run code "
            "from the file. Save the state dictionary alone"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = f" {str(error).splitlines()[0]}" if str(error) else ""
        raise ValueError(
            f"Weights {path} are not a whole PyTorch file: {type(error).__name__}{reason}"
        ) from None


def strip_prefixes(tensors: Mapping[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """Names without ``module.`` and ``backbone.`` in front; ``ValueError`` if two become one."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        while (prefix := next((p for p in _PREFIXES if short.startswith(p)), None)) is not None:
            short = short.removeprefix(prefix)
        if short in plain:
            raise ValueError(f"Weights {path} have {short!r} twice, the second time as {name!r}")
        plain[short] = tensor
    return plain


def listed(names: Sequence[str]) -> str:
    """Names for a message, not too many of them."""
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


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
