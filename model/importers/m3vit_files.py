"""M3ViT's checkpoints on disk: one file, or the folder that its training script leaves.

With FastMoE each process (rank) keeps its share of every block's experts. The script saves a folder
``best_model.pth.tar/0.pth, 1.pth, ...``, a file a rank; everything but the experts is in the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .containers import Weights, read_weights
from .reading import read_objects

__all__ = ["EXPERTS", "read_m3vit"]

EXPERTS = re.compile(r"(blocks\.\d+\.mlp\.experts\.)(\d+\.)?(htoh4|h4toh)\.(weight|bias)")
"""Names of the experts' tensors; with a number where each expert has its own."""

_WHOLE = ("best_model.pth.tar", "checkpoint.pth.tar")  # names of the folder


def read_m3vit(path: Path | str, key: str | None = None) -> Weights:
    """All tensors of a checkpoint, backbone and heads alike, experts of all ranks together.

    Raises ``ValueError`` naming the file that is missing from a folder, or does not fit it.
    """
    path = Path(path)
    if not path.is_dir():
        return _together(_single(read_weights(path, key)))
    files = {int(p.stem): p for p in path.glob("*.pth") if p.stem.isdecimal()}
    if not files:
        raise ValueError(f"Weights {path} are a folder, expected files 0.pth, 1.pth, ... a rank")
    absent = sorted(set(range(max(files) + 1)) - set(files))
    if absent:
        names = ", ".join(f"{number}.pth" for number in absent)
        raise ValueError(f"Weights {path} lack {names}: a share of the experts each")
    first = _together(_single(read_weights(files[0], key)))
    parts: dict[str, list[Tensor]] = {
        name: [tensor] for name, tensor in first.tensors.items() if EXPERTS.fullmatch(name)
    }
    for number in range(1, len(files)):
        share = _experts(files[number])
        if set(share) != set(parts):
            odd = sorted(set(share) ^ set(parts))[0]
            raise ValueError(f"Weights {files[number]} do not have the experts of 0.pth: {odd}")
        for name, tensor in share.items():
            if tensor.shape[1:] != parts[name][0].shape[1:]:
                raise ValueError(
                    f"Weights {files[number]}: {name} is {tuple(tensor.shape)}, in 0.pth "
                    f"{tuple(parts[name][0].shape)}"
                )
            parts[name].append(tensor)
    tensors = dict(first.tensors) | {n: torch.cat(shares) for n, shares in parts.items()}
    return Weights(tensors=tensors, key=first.key, aside=first.aside)


def _together(weights: Weights) -> Weights:
    """Backbone and what is beside it under one roof: only one of the two has decoders."""
    both = set(weights.tensors) & set(weights.outside)
    if both:
        raise ValueError(f"{sorted(both)[0]!r} is there twice, inside and outside {weights.key}")
    tensors = {**weights.tensors, **weights.outside}
    return Weights(tensors=tensors, key=weights.key, aside=weights.aside)


def _experts(path: Path) -> dict[str, Tensor]:
    """The experts in the file of one rank, whatever their names begin with."""
    found: dict[str, Tensor] = {}
    for named in _mappings(read_objects(path)):
        for name, tensor in named.items():
            match = re.search(r"blocks\.\d+\.mlp\.experts\..*", str(name))
            if match and isinstance(tensor, Tensor):
                found[match[0]] = tensor
    if not found:
        raise ValueError(f"Weights {path} have no experts: tensors blocks.N.mlp.experts.*")
    return _stacked(found)


def _mappings(found: object) -> list[Mapping[object, object]]:
    if not isinstance(found, Mapping):
        return []
    inner = [m for value in found.values() for m in _mappings(value)]
    return [found, *inner]


def _single(weights: Weights) -> Weights:
    return Weights(
        tensors=_stacked(weights.tensors),
        key=weights.key,
        outside=weights.outside,
        aside=weights.aside,
    )


def _stacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Experts named one by one (FastMoE's list of experts) as one tensor of all, ``(E, ...)``."""
    out: dict[str, Tensor] = {}
    alone: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        match = EXPERTS.fullmatch(name)
        if match is None or match[2] is None:
            out[name] = tensor
            continue
        dimensions = 2 if match[4] == "weight" else 1
        if tensor.ndim == dimensions + 1 and len(tensor) == 1:
            tensor = tensor[0]
        alone.setdefault(f"{match[1]}{match[3]}.{match[4]}", {})[int(match[2][:-1])] = tensor
    for name, experts in alone.items():
        if sorted(experts) != list(range(len(experts))):
            raise ValueError(f"{name} lacks some of its experts: there are {sorted(experts)}")
        try:
            out[name] = torch.stack([experts[e] for e in sorted(experts)])
        except (RuntimeError, TypeError):
            shapes = sorted({tuple(t.shape) for t in experts.values()})
            raise ValueError(f"{name} has experts of different shapes: {shapes}") from None
    return out
