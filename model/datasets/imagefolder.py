"""Pictures sorted into a folder for each class, as ImageNet (Deng et al. 2009) is unpacked.

Either of::

    SPLIT/CLASS/NAME.jpg   SPLIT is train, and val, validation or test
    CLASS/NAME.jpg         one folder for both splits

Classes are numbered in the order of their folders' names, as torchvision and timm do; folders whose
names are all numbers in the order of the numbers. Pictures are not turned as EXIF says, since those
who publish scores do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moevit.quant.notes import note

from ..config import TaskConfig
from ..pictures import SUFFIXES
from .base import Augmentation, Dataset
from .files import read_image

__all__ = ["ImageFolder"]

_SPLITS = {"train": ("train",), "validation": ("val", "validation", "test")}


class ImageFolder(Dataset):
    """Classification: the class of each picture is the folder that it lies in."""

    NAME = "imagefolder"
    TITLE = "a folder of classes"
    AUGMENTATION = Augmentation()

    def _look(self, root: Path, split: str) -> None:
        super()._look(root, split)
        names = [name for name in _SPLITS[split] if (root / name).is_dir()]
        others = [n for names in _SPLITS.values() for n in names if (root / n).is_dir()]
        if names:
            self._folder = root / names[0]
        elif others:
            self._folder = root / others[0]
            note(f"{root}: has no folder {' or '.join(_SPLITS[split])}; {others[0]} is used")
        else:
            self._folder = root
        self._classes = _classes(self._folder)
        if not self._classes:
            raise ValueError(f"{self._folder}: has no folders; expected one for each class")

    @classmethod
    def all_tasks(
        cls, root: Path, stride: int, classes: int | None = None
    ) -> tuple[TaskConfig, ...]:
        """Raises ``ValueError``: it is for calibrating and scoring."""
        raise ValueError(f"{cls.NAME}: is for calibrating and scoring; no model is trained on it")

    def _choose(self, classes: int | None) -> dict[str, int]:
        return {"classification": len(self._classes)}

    def _folders(self) -> list[str]:
        return []

    def _list(self) -> Sequence[str]:
        """Spread over the classes, so that the first of them are a sample of all."""
        found = [
            (number, str(path.relative_to(self._folder)))
            for name in self._classes
            for number, path in enumerate(_pictures(self._folder / name))
        ]
        return [name for _, name in sorted(found)]

    def _files(self, name: str) -> list[Path]:
        return [self._folder / name]

    def _image(self, name: str) -> NDArray[np.uint8]:
        return read_image(self._folder / name)

    def _truth(self, name: str, kind: str, size: tuple[int, ...]) -> NDArray[Any]:
        return np.array(self._classes.index(Path(name).parts[0]), np.int64)


def _classes(folder: Path) -> list[str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if all(name.isdecimal() for name in names):
        return sorted(names, key=int)
    return names


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
