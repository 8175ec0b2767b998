"""Data sets of the multi-task literature, read from the folders in which they are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import TaskConfig
from .base import RANGES, SPLITS, Dataset, Example, Units
from .cityscapes import Cityscapes
from .imagefolder import ImageFolder
from .nyud import Nyud
from .pascal_context import PascalContext

__all__ = [
    "NAMES",
    "RANGES",
    "SPLITS",
    "Dataset",
    "Example",
    "Units",
    "open_dataset",
    "open_for",
    "tasks_of",
]

_KINDS: dict[str, type[Dataset]] = {
    "nyud": Nyud,
    "pascal_context": PascalContext,
    "cityscapes": Cityscapes,
    "imagefolder": ImageFolder,
}

NAMES = tuple(_KINDS)
"""Names that :func:`open_dataset` knows."""


def open_for(
    name: str, root: Path, split: str, tasks: Sequence[TaskConfig], units: Units | None = None
) -> Dataset:
    """The data set with the truths of a model's ``tasks``, and as many classes as theirs.

    Raises ``ValueError`` as :func:`open_dataset`, and for tasks whose channels are not the data's.
    """
    kinds = list(dict.fromkeys(task.kind for task in tasks))
    classes = [task.channels for task in tasks if task.kind == "segmentation"]
    data = open_dataset(
        name, root, split, kinds=kinds, classes=classes[0] if classes else None, units=units
    )
    for task in tasks:
        if task.channels != data.channels[task.kind]:
            raise ValueError(
                f"{data.TITLE} has {data.channels[task.kind]} channels of {task.kind}, not "
                f"{task.channels} as task {task.name}"
            )
    return data


def tasks_of(
    name: str, root: Path, stride: int, classes: int | None = None
) -> tuple[TaskConfig, ...]:
    """All tasks that a data set has truths of, without looking at its files; see
    :meth:`Dataset.tasks`. ``classes`` as in :func:`open_dataset`. Raises ``ValueError`` for an
    unknown name, a number of classes that the data set does not have, or no folder."""
    return _named(name).all_tasks(Path(root), stride, classes)


def _named(name: str) -> type[Dataset]:
    if name not in _KINDS:
        raise ValueError(f"Data set must be one of {', '.join(NAMES)}, not {name!r}")
    return _KINDS[name]


def open_dataset(
    name: str,
    root: Path,
    split: str,
    *,
    kinds: Sequence[str] | None = None,
    classes: int | None = None,
    units: Units | None = None,
) -> Dataset:
    """The data set ``name`` below ``root``, with the truths of ``kinds`` (all that it has if None).

    ``classes`` of the segmentation, where the data set has several sets of labels (Cityscapes: 7 or
    19). Raises ``ValueError`` for an unknown name, split, kind or number of classes, and naming
    what is missing where folders or files are.
    """
    return _named(name)(Path(root), split, kinds=kinds, classes=classes, units=units)
