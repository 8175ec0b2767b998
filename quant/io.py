"""A quantised network as one safetensors file: integers as tensors, the rest as JSON metadata.

Tensors are named by their path, such as ``blocks.1.mlp.experts.0.fc1.weight``. The metadata entry
``moevit.network`` holds the version and the same tree without the tensors. Reading follows the
annotations of the dataclasses, so a field cannot be forgotten here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .check import check_network
from .network import Network

__all__ = ["NETWORK_KEY", "load_network", "save_network"]

NETWORK_KEY = "moevit.network"
_VERSION = 1
_FIXED = {"exp"}  # tables of the accelerator, not of a network
_LATER = {  # fields that files of this version may lack
    ("Head", "class_token"),
    ("Gate", "renormalise"),
    ("Gate", "least"),
    ("Gate", "enough"),
    ("Geometry", "distilled"),
    ("Geometry", "registers"),
    ("Head", "mean"),
    ("Head", "pooled"),
    ("Head", "tokens"),
    ("Linear", "weight_bits"),
    ("HiddenOutput", "function"),
    ("Moe", "starts"),
    ("Network", "norm_scale"),
    ("Network", "entry"),
    ("Moe", "ahead"),
}
_RENAMED = {("Mlp", "hidden"): "gelu"}  # what files of this version may call a field
_KIND = "kind"  # tells the members of a union apart


def save_network(network: Network, path: str | os.PathLike[str]) -> None:
    """Write ``network`` to ``path``; the file appears complete or not at all.

    Raises ``ValueError`` naming the field if the network is inconsistent.
    """
    check_network(network)
    tensors: dict[str, Any] = {}
    tree = {"version": _VERSION, "network": _encode(network, "", tensors)}
    target = Path(path)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        save_file(tensors, partial, metadata={NETWORK_KEY: json.dumps(tree, separators=(",", ":"))})
        os.chmod(partial, 0o644)
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


def load_network(path: str | os.PathLike[str]) -> Network:
    """Read what :func:`save_network` wrote.

    Raises ``FileNotFoundError``, or ``ValueError`` naming the file and the field.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No quantised network at {os.fspath(path)}")
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(NETWORK_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if text is None:
            raise ValueError("it is not a quantised network")
        tree = json.loads(text)
        if not isinstance(tree, dict) or tree.get("version") != _VERSION:
            raise ValueError(f"version {_VERSION} expected")
        network: Network = _decode(Network, tree.get("network"), "", tensors)
        if tensors:
            raise ValueError(f"unknown tensor {min(tensors)}")
        check_network(network)
    except (SafetensorError, json.JSONDecodeError, ValueError) as error:
        raise ValueError(f"Cannot read {os.fspath(path)}: {error}") from None
    return network


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _fields(kind: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(kind) if f.name not in _FIXED]


def _encode(value: Any, path: str, tensors: dict[str, Any]) -> Any:
    """``value`` as JSON; arrays go to ``tensors`` and leave nothing behind."""
    if isinstance(value, np.ndarray):
        tensors[path] = np.ascontiguousarray(value)
        return None
    if dataclasses.is_dataclass(value):
        tree = {_KIND: type(value).__name__}
        for name in _fields(value):
            tree[name] = _encode(getattr(value, name), _join(path, name), tensors)
        return tree
    if isinstance(value, Mapping):
        return {key: _encode(v, _join(path, key), tensors) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(v, _join(path, i), tensors) for i, v in enumerate(value)]
    return value


def _decode(kind: Any, tree: Any, path: str, tensors: dict[str, Any]) -> Any:
    """The value of type ``kind`` at ``path``; takes its arrays out of ``tensors``."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return tree
    if kind is np.ndarray or origin is np.ndarray:
        if path not in tensors:
            raise ValueError(f"tensor {path} is missing")
        return tensors.pop(path)
    if origin in (Union, types.UnionType):
        return _decode(_member(args, tree, path), tree, path, tensors)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, tree, path, tensors)
    if origin is dict:
        entries = _typed(dict, tree, path)
        return {k: _decode(args[1], v, _join(path, k), tensors) for k, v in entries.items()}
    if origin is tuple:
        items = _typed(list, tree, path)
        return tuple(_decode(args[0], v, _join(path, i), tensors) for i, v in enumerate(items))
    return kind(tree) if kind is float and type(tree) is int else _typed(kind, tree, path)


def _decode_fields(kind: Any, tree: Any, path: str, tensors: dict[str, Any]) -> Any:
    entries = dict(_typed(dict, tree, path))
    entries.pop(_KIND, None)
    hints = get_type_hints(kind)
    values = {}
    for name in _fields(kind):
        earlier = _RENAMED.get((kind.__name__, name))
        if name not in entries and earlier in entries:
            entries[name] = entries.pop(earlier)
        if name not in entries and (kind.__name__, name) in _LATER:
            continue  # its default is what older files mean
        if name not in entries:
            raise ValueError(f"field {_join(path, name)} is missing")
        values[name] = _decode(hints[name], entries.pop(name), _join(path, name), tensors)
    if entries:
        raise ValueError(f"unknown field {_join(path, min(entries))}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path or 'network'}: {error}") from None


def _member(kinds: tuple[Any, ...], tree: Any, path: str) -> Any:
    """Which of a union's types ``tree`` stands for."""
    if tree is None and type(None) in kinds:
        return type(None)
    name = tree.get(_KIND) if isinstance(tree, dict) else None
    for kind in kinds:
        if getattr(kind, "__name__", "") == name:
            return kind
    expected = " or ".join(k.__name__ for k in kinds)
    raise ValueError(f"field {path} must be {expected}, not {name or f'{tree!r:.80}'}")


def _typed(kind: Any, tree: Any, path: str) -> Any:
    if type(tree) is not kind:
        raise ValueError(f"field {path or 'network'} must be {kind.__name__}, not {tree!r:.80}")
    return tree
