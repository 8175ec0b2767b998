"""Which accelerator: a preset, a JSON file, or a configuration made in Python.

A file holds what :meth:`AcceleratorConfig.to_dict` gives. With `"base": "zcu104"` it holds only
what differs from that preset; the file that `moevit verilog` writes beside the Verilog will do::

    {"base": "zcu104", "name": "narrow", "array": {"inputs": 32, "outputs": 8}}
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moevit.hw.config import (
    PRESETS,
    AcceleratorConfig,
    ArrayConfig,
    LimitConfig,
    MemoryConfig,
    preset,
)
from moevit.quant.errors import UserError

from .files import readable

__all__ = ["DEFAULT_PRESET", "PresetLike", "configuration", "read_configuration"]

DEFAULT_PRESET = "default"

PresetLike = str | os.PathLike[str] | AcceleratorConfig
"""The name of a preset, a JSON file, or a configuration."""

_SECTIONS: dict[str, type[Any]] = {
    "array": ArrayConfig,
    "memory": MemoryConfig,
    "limits": LimitConfig,
}


def configuration(given: PresetLike = DEFAULT_PRESET) -> AcceleratorConfig:
    """The accelerator that `given` names.

    Raises
    ------
    UserError
        For an unknown preset, and as :func:`read_configuration`.
    """
    if isinstance(given, AcceleratorConfig):
        return given
    name = os.fspath(given)
    if isinstance(given, str) and (name in PRESETS or not name.endswith(".json")):
        try:
            return preset(name)
        except ValueError as error:
            raise UserError(str(error)) from None
    return read_configuration(Path(name))


def read_configuration(path: Path) -> AcceleratorConfig:
    """The configuration in a JSON file; without a `name` it is called as the file.

    Raises
    ------
    UserError
        Naming the file and the field that is missing, unknown or out of range.
    """
    readable(path, "a configuration (JSON)")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    try:
        return _parsed(data, path.stem)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _parsed(data: Any, name: str) -> AcceleratorConfig:
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, not {type(data).__name__}")
    if isinstance(data.get("config"), dict):  # what `moevit verilog` writes
        config = _parsed(data["config"], name)
        wanted = f"{config.hash:#018x}"
        if data.get("hash", wanted) != wanted:
            raise ValueError(
                f"hash: is {data['hash']}, expected {wanted}: another version of moevit wrote it"
            )
        return config
    values = dict(data)
    base = values.pop("base", None)
    if base is not None and base not in PRESETS:
        raise ValueError(f"base: unknown preset {base!r}; expected one of {', '.join(PRESETS)}")
    filled = {} if base is None else PRESETS[base].to_dict()
    filled["name"] = name
    _check("", values, [f.name for f in dataclasses.fields(AcceleratorConfig)])
    for key, value in values.items():
        if key in _SECTIONS:
            if not isinstance(value, dict):
                raise ValueError(f"{key}: expected an object, not {value!r}")
            _check(f"{key}.", value, [f.name for f in dataclasses.fields(_SECTIONS[key])])
            value = {**filled.get(key, {}), **value}
        filled[key] = value
    _complete("", filled, AcceleratorConfig)
    for key, kind in _SECTIONS.items():
        _complete(f"{key}.", filled[key], kind)
    _named(filled)
    return AcceleratorConfig.from_dict(filled)


def _named(values: Mapping[str, Any]) -> None:
    name, clock = values["name"], values.get("clock_mhz", 1.0)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name: expected a text, not {name!r}")
    if isinstance(clock, bool) or not isinstance(clock, (int, float)) or not 0 < clock < 1e5:
        raise ValueError(f"clock_mhz: expected a number above 0, not {clock!r}")


def _check(prefix: str, values: Mapping[str, Any], known: list[str]) -> None:
    for name in values:
        if name not in known:
            raise ValueError(f"{prefix}{name}: unknown; expected {', '.join(known)}")


def _complete(prefix: str, values: Mapping[str, Any], kind: type[Any]) -> None:
    for field in dataclasses.fields(kind):
        needed = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if needed and field.name not in values:
            raise ValueError(f'{prefix}{field.name}: missing; give it, or a "base"')
