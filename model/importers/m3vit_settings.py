"""What M3ViT's checkpoints do not say: from its own configuration file, from options, or assumed.

Its training script reads a YAML file (``backbone_kwargs``, ``head_kwargs``, ``task_dictionary``,
``train_db_name``) and options on the command line, whose names are understood at the file's top
level as well. An option given here comes before the file, the file before what is assumed; what was
assumed is collected, to be said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Settings", "accumulated_starts"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_T = TypeVar("_T")
_PREFIX = "include_"
_PLAIN_PIXELS = ("cityscapes",)
"""Data sets whose pixels M3ViT leaves in 0..1, without mean or deviation."""
_FIXED: dict[str, Any] = {
    "upsampling_method": "bilinear",
    "distilled": False,
    "in_chans": 3,
}
"""Values of the file that say what we compute; any other is refused."""


class Settings:
    """A configuration file of M3ViT, and a list of what had to be assumed.

    Parameters
    ----------
    path:
        The YAML file; None for nothing known.
    """

    def __init__(self, path: Path | str | None) -> None:
        self.source = None if path is None else str(path)
        self.assumed: list[str] = []
        found = {} if path is None else _read(Path(path))
        self._backbone, self._head = _part(found, "backbone_kwargs"), _part(found, "head_kwargs")
        self._top, self.tasks = found, _tasks(found)
        self.data = str(found.get("train_db_name", ""))
        for name, expected in _FIXED.items():
            value = self._value(name)
            if value is not None and str(value).lower() != str(expected).lower():
                raise ValueError(f"{self.source}: {name} is {value!r}, expected {expected!r}")

    def pick(
        self,
        given: _T | None,
        names: Sequence[str],
        convert: Callable[[Any], _T],
        assumed: _T,
        text: str = "",
    ) -> _T:
        """The option's value, that of the first of ``names`` in the file, or ``assumed``.

        ``text`` says what is assumed, for people; nothing is said if it is empty.
        """
        if given is not None:
            return given
        for name in names:
            value = self._value(name)
            if value is None:
                continue
            try:
                return convert(value)
            except (TypeError, ValueError):
                raise ValueError(f"{self.source}: {name} cannot be {value!r}") from None
        if text:
            self.assumed.append(text)
        return assumed

    def agree(self, name: str, found: int, what: str) -> None:
        """``ValueError`` if the file says another size than the checkpoint has."""
        value = self._value(name)
        if value is not None and value != found:
            raise ValueError(f"{self.source}: {name} is {value!r}, but the checkpoint has {what}")

    def pixels(
        self,
        mean: tuple[float, float, float] | None,
        std: tuple[float, float, float] | None,
    ) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and deviation of the pixels: of the data set that the file names, or ImageNet's."""
        plain = self.data.lower() in _PLAIN_PIXELS
        if (mean is None or std is None) and not self.data:
            self.assumed.append(
                "ImageNet's mean and deviation of the pixels (for Cityscapes M3ViT has none: "
                "--mean 0 0 0 --std 1 1 1)"
            )
        return (
            mean or ((0.0, 0.0, 0.0) if plain else IMAGENET_MEAN),
            std or ((1.0, 1.0, 1.0) if plain else IMAGENET_STD),
        )

    @property
    def notes(self) -> list[str]:
        """Everything that was assumed, as one line."""
        if not self.assumed:
            return []
        return [f"assumed, as the file does not say: {'; '.join(self.assumed)}"]

    def _value(self, name: str) -> Any:
        for part in (self._top, self._backbone, self._head):
            if name in part:
                return part[name]
        return None


def accumulated_starts(tasks: int, experts: int, window: int) -> tuple[int, ...]:
    """First expert of each task as M3ViT counts: each is as far behind the one before as that
    one's place would be from the first."""
    starts, start = [], 0
    for task in range(tasks):
        start += int(task * (experts - window) / max(tasks - 1, 1))
        starts.append(start)
    return tuple(starts)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a configuration file of M3ViT (YAML)")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a YAML file: {reason}") from None
    if not isinstance(found, Mapping) or not {"backbone_kwargs", "head_kwargs"} & set(found):
        raise ValueError(
            f"{path}: not a configuration file of M3ViT; expected backbone_kwargs or head_kwargs"
        )
    return found


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = found.get(name) or {}
    if not isinstance(part, Mapping):
        raise ValueError(f"{name} must be names and values, not {part!r}")
    return part


def _tasks(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tasks that are included, in the file's order, which is not the gates'."""
    names = _part(found, "task_dictionary")
    return tuple(
        str(name).removeprefix(_PREFIX)
        for name, value in names.items()
        if str(name).startswith(_PREFIX) and value is True
    )
