"""Which of the things in a file are the network's weights: found by structure, not by name.

Any dictionary in the file that has a tensor whose name ends in the anchor (a tensor that every
network of the kind has) holds such weights; what stands in front of the anchor is their prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .reading import Inert, read_objects

__all__ = ["ANCHOR", "Weights", "choose", "listed", "read_weights"]

ANCHOR = "patch_embed.proj.weight"
"""A tensor that every vision transformer has, under timm's name and M3ViT's."""

_DEPTH = 6  # dictionaries in one another that are looked into
_SHOWN = 20
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_HUGGING_FACE = ("embeddings.", "encoder.layer.")  # in its names of a vision transformer


def listed(names: Sequence[str], most: int = _SHOWN) -> str:
    """Names for a message, not too many of them."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one network in a file.

    ``tensors`` by name without the prefix; ``outside``: those of the same dictionary that do not
    have it, without what all of its names begin with. ``key``: where it was; ``aside``: what else
    the file holds, by name.
    """

    tensors: dict[str, Tensor]
    key: str = ""
    outside: dict[str, Tensor] = field(default_factory=dict)
    aside: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Where the weights were, and what is left aside."""
        notes = [f"weights of {self.key}"] if self.key else []
        return notes + ([f"left aside: {listed(self.aside)}"] if self.aside else [])


def read_weights(path: Path | str, key: str | None = None, anchor: str = ANCHOR) -> Weights:
    """The tensors of a ``.pth`` or safetensors file, without running its code; see :func:`choose`.

    Raises ``ValueError`` naming the file if it is absent, broken, something else, or has no such
    weights, or several and no ``key`` of one.
    """
    path = Path(path)
    return choose(read_objects(path), path, key, anchor)


def choose(found: Any, path: Path | str, key: str | None, anchor: str = ANCHOR) -> Weights:
    """The weights in what a file holds: the only ones, or those that ``key`` names."""
    owners = [(where, named) for where, named in _dictionaries(found, "", 0) if named]
    if not owners:
        what = f"; it holds {listed(list(map(str, found)))}" if isinstance(found, Mapping) else ""
        kind = "" if what else f", but a {type(found).__name__}"
        raise ValueError(f"Weights {path} have no tensors{what or kind}")
    several = {
        _joined(where, prefix): (named, prefix)
        for where, named in owners
        for prefix in _prefixes(named, anchor)
    }
    for named in [named for named, _ in several.values()] or [named for _, named in owners]:
        _plain(named, path)
    if not several:
        names = [name for _, named in owners for name in named]
        hint = ""
        if any(part in name for name in names for part in _HUGGING_FACE):
            hint = ": names of Hugging Face's transformers; save the model with timm's"
        raise ValueError(
            f"Weights {path} lack {anchor}, with any prefix{hint}; they hold {listed(names, 3)}"
        )
    if key is None and len(several) > 1:
        raise ValueError(
            f"Weights {path} hold several networks: {', '.join(map(_shown, several))}; choose one "
            "(--weights-key)"
        )
    if key is None:
        key = next(iter(several))
    elif key not in several:
        matching = [k for k in several if f"{k}.".startswith(f"{key}.")]
        if len(matching) != 1:
            raise ValueError(
                f"Weights {path} have no network {key!r} (--weights-key); expected "
                f"{' or '.join(map(_shown, several))}"
            )
        key = matching[0]
    named, prefix = several[key]
    common = _common([name for name in named if not name.startswith(prefix)])
    inside = {n.removeprefix(prefix): t for n, t in named.items() if n.startswith(prefix)}
    outside = {n.removeprefix(common): t for n, t in named.items() if not n.startswith(prefix)}
    chosen = key.partition(".")[0] if _known(found, key) else ""
    aside = [str(n) for n in found if str(n) != chosen] if isinstance(found, Mapping) else []
    loose = isinstance(found, Mapping) and any(isinstance(v, Tensor) for v in found.values())
    if loose:  # the names themselves are the weights'
        aside = [str(n) for n, v in found.items() if not isinstance(v, Tensor)]
    return Weights(tensors=inside, key=key, outside=outside, aside=tuple(aside))


def _known(found: Any, key: str) -> bool:
    return isinstance(found, Mapping) and key.partition(".")[0] in map(str, found)


def _shown(key: str) -> str:
    return key or "'' (the names without prefix)"


def _joined(where: str, prefix: str) -> str:
    return ".".join(part for part in (where, prefix.rstrip(".")) if part)


def _dictionaries(found: Any, where: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dictionaries with tensors, and whole modules, by the names that lead to them."""
    if isinstance(found, Inert):
        if "_modules" in found.held:
            yield where, dict(_module(found))
            return
        found = found.held
    if not isinstance(found, Mapping) or depth > _DEPTH:
        return
    yield where, {str(n): v for n, v in found.items() if isinstance(v, Tensor)}
    for name, value in found.items():
        if isinstance(value, Mapping | Inert):
            yield from _dictionaries(value, _joined(where, str(name)), depth + 1)


def _module(module: Inert, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The state dictionary of a module that was saved whole."""
    for group in ("_parameters", "_buffers"):
        for name, value in module.held.get(group, {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, value in module.held.get("_modules", {}).items():
        if isinstance(value, Inert):
            yield from _module(value, f"{prefix}{name}.")


def _prefixes(named: Mapping[str, Tensor], anchor: str) -> list[str]:
    """What stands in front of the anchor, each time that it is there."""
    return [
        name.removesuffix(anchor) for name in named if name == anchor or name.endswith(f".{anchor}")
    ]


def _common(names: Sequence[str]) -> str:
    """The wrappers that all names begin with."""
    if not names:
        return ""
    shared = ""
    for column in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(column)) > 1 or column[0] not in _WRAPPERS:
            break
        shared += f"{column[0]}."
    return shared


_WRAPPERS = ("module", "model", "_orig_mod", "_forward_module", "network", "net")
"""Names that wrap a network and say nothing of its parts."""


def _plain(named: Mapping[str, Tensor], path: Path | str) -> None:
    """``ValueError`` for tensors that stand for others: adapters, quantised or 8-bit weights."""
    lora = next((n for n in named if "lora_" in n.lower()), None)
    if lora is not None:
        raise ValueError(
            f"Weights {path} hold LoRA matrices ({lora}): merge them into the layers' weights and "
            "save those"
        )
    for name, tensor in named.items():
        eight = tensor.dtype in (torch.int8, torch.uint8) and name.endswith("weight")
        strange = tensor.is_floating_point() and tensor.dtype not in _FLOATS
        if tensor.is_quantized or eight or strange:
            raise ValueError(
                f"Weights {path} are quantised already ({name} is {tensor.dtype}); expected "
                "float32, float16, bfloat16 or float64"
            )
