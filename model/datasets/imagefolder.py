"""Pictures sorted into a folder for each class, as ImageNet (Deng et al. 2009) is unpacked.

Either of::

    SPLIT/CLASS/NAME.jpg   SPLIT is train, and val, validation or test
    CLASS/NAME.jpg         one folder for both splits
    SPLIT/NAME.jpg         and beside the folder a list SPLIT.txt of lines "NAME.jpg NUMBER", as
                           ImageNet's validation is unpacked (Caffe's val.txt)

Classes are numbered in the order of their folders' names, as torchvision and timm do; folders whose
names are all numbers in the order of the numbers. A file ``classes.txt`` beside them, a class's
folder on each line and whatever else behind it (ImageNet's ``synset_words.txt`` under another
name), numbers them instead: so a part of the classes keeps the numbers of all. Pictures are not
turned as EXIF says, since those who publish scores do not.
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
from .files import read_image, read_list

__all__ = ["ImageFolder"]

_SPLITS = {"train": ("train",), "validation": ("val", "validation", "test")}
_CLASSES = "classes.txt"


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
        folders = _folders(self._folder)
        self._flat: dict[str, int] | None = None
        if not folders and self._folder != root:
            self._flat = _numbers(root / f"{self._folder.name}.txt", self._folder)
        elif not folders:
            raise ValueError(f"{self._folder}: has no folders; expected one for each class")
        self._classes = _named(root / _CLASSES, folders)

    @classmethod
    def all_tasks(
        cls, root: Path, stride: int, classes: int | None = None
    ) -> tuple[TaskConfig, ...]:
        """Raises ``ValueError``: it is for calibrating and scoring."""
        raise ValueError(f"{cls.NAME}: is for calibrating and scoring; no model is trained on it")

    def _choose(self, classes: int | None) -> dict[str, int]:
        if self._flat is not None and not self._classes:
            return {"classification": classes or 1 + max(self._flat.values())}
        return {"classification": len(self._classes)}

    def _folders(self) -> list[str]:
        return []

    def _list(self) -> Sequence[str]:
        """Spread over the classes, so that the first of them are a sample of all."""
        if self._flat is not None:
            return list(self._flat)
        found = [
            (number, str(path.relative_to(self._folder)))
            for name in _folders(self._folder)
            for number, path in enumerate(_pictures(self._folder / name))
        ]
        return [name for _, name in sorted(found)]

    def _files(self, name: str) -> list[Path]:
        return [self._folder / name]

    def _image(self, name: str) -> NDArray[np.uint8]:
        return read_image(self._folder / name)

    def _truth(self, name: str, kind: str, size: tuple[int, ...]) -> NDArray[Any]:
        if self._flat is not None:
            return np.array(self._flat[name], np.int64)
        return np.array(self._classes.index(Path(name).parts[0]), np.int64)


def _named(path: Path, folders: list[str]) -> list[str]:
    """The classes of a list, which has all ``folders``; these alone where there is no list."""
    if not path.is_file():
        return folders
    classes = [line.split()[0] for line in read_list(path)]
    if len(set(classes)) < len(classes):
        twice = next(name for n, name in enumerate(classes) if name in classes[:n])
        raise ValueError(f"{path}: has {twice} twice; expected each class once")
    if unknown := [name for name in folders if name not in classes]:
        raise ValueError(f"{path}: lacks {unknown[0]}, which is a folder; expected all classes")
    return classes


def _numbers(path: Path, folder: Path) -> dict[str, int]:
    """Pictures of one folder and the numbers of their classes."""
    if not path.is_file():
        raise ValueError(
            f"{folder}: has no folders; expected one for each class, or a list {path} of lines "
            '"NAME NUMBER"'
        )
    found = {}
    for number, line in enumerate(read_list(path), 1):
        words = line.rsplit(maxsplit=1)
        if len(words) != 2 or not words[1].isdecimal():
            raise ValueError(f'{path}: line {number} is "{line[:40]}"; expected "NAME NUMBER"')
        found[words[0]] = int(words[1])
    if not found:
        raise ValueError(f'{path}: is empty; expected lines "NAME NUMBER"')
    return found


def _folders(folder: Path) -> list[str]:
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
