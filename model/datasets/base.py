"""What all data sets do: list their images, check that the files are there, and load one."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..config import TaskConfig

__all__ = ["SPLITS", "Augmentation", "Dataset", "Example"]

SPLITS = ("train", "validation")
"""Names of the splits, the same for all data sets."""

_SHOWN = 3  # missing files in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How training varies images, besides turning every second one left to right.

    ``zooms``: factors to choose from, or the least and the greatest if ``continuous``; ``angle``:
    greatest rotation in degrees.
    """

    zooms: tuple[float, ...] = (1.0,)
    continuous: bool = False
    angle: float = 0.0


@dataclass(frozen=True, slots=True)
class Example:
    """An image ``(H, W, 3)`` uint8 and its truths by kind, of the same size.

    Labels, edges and saliency uint8 with 255 where not known; depth float32, 0 where not known;
    normals ``(H, W, 3)`` float32 unit vectors (x right, y down), zero where not known. The class
    of a whole image (``classification``) int64 without axes.
    """

    image: NDArray[np.uint8]
    truths: dict[str, NDArray[Any]]


class Dataset(ABC):
    """Images of a split with their truths.

    A subclass says where files are and how they are read; see :func:`open_dataset` for parameters
    and errors.
    """

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    AUGMENTATION: ClassVar[Augmentation]

    inverse_depth = False
    """Whether ``depth`` is its reciprocal: what is nearer is larger."""

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        kinds: Sequence[str] | None = None,
        classes: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"Split must be one of {', '.join(SPLITS)}, not {split!r}")
        self._look(root, split)
        self.channels: Mapping[str, int] = self._choose(classes)
        known = ", ".join(self.channels)
        for kind in kinds or ():
            if kind not in self.channels:
                raise ValueError(f"{self.TITLE} has no {kind!r}, only {known}")
        if kinds is not None:
            self.channels = {kind: self.channels[kind] for kind in kinds}
        folders = self._folders()
        lacking = [name for name in folders if not (root / name).is_dir()]
        if lacking:
            raise ValueError(
                f"{root}: lacks {', '.join(lacking)}; expected {self.TITLE} with the folders "
                f"{', '.join(folders)}"
            )
        self.ids: tuple[str, ...] = tuple(self._list())
        if not self.ids:
            raise ValueError(f"{root}: {self.TITLE} has no images for {split}")
        self._check_files()

    def _look(self, root: Path, split: str) -> None:
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder; expected that of {self.TITLE}")
        self.root, self.split = root, split

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def all_tasks(
        cls, root: Path, stride: int, classes: int | None = None
    ) -> tuple[TaskConfig, ...]:
        """:meth:`tasks` of all kinds that the data set in ``root`` could have, files or not."""
        data = object.__new__(cls)
        data._look(root, SPLITS[0])
        data.channels = data._choose(classes)
        return data.tasks(stride)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of task whose truth is loaded."""
        return tuple(self.channels)

    def tasks(self, stride: int) -> tuple[TaskConfig, ...]:
        """Tasks for a model of this data, one a kind, named by it, with heads of ``stride``."""
        return tuple(
            TaskConfig(name=kind, kind=kind, channels=count, stride=stride)
            for kind, count in self.channels.items()
        )

    def load(self, index: int, kinds: Collection[str] | None = None) -> Example:
        """Image ``index`` as it lies on disk, with the truths of ``kinds`` (all if None).

        Raises ``ValueError`` naming the file that is broken, what was found and what was expected.
        """
        name = self.ids[index]
        image = self._image(name)
        wanted = self.kinds if kinds is None else kinds
        return Example(image, {k: self._truth(name, k, image.shape[:2]) for k in wanted})

    def fingerprint(self) -> str:
        """Digits that change with the list of files, their sizes and their times."""
        digest = hashlib.sha256(repr((self.NAME, self.split, dict(self.channels))).encode())
        for name in self.ids:
            for path in self._files(name):
                status = path.stat()
                digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:32]

    def image_path(self, index: int) -> Path:
        """The file of image ``index``."""
        return self._files(self.ids[index])[0]

    def _check_files(self) -> None:
        missing = [p for name in self.ids for p in self._files(name) if not p.is_file()]
        if missing:
            shown = ", ".join(str(path) for path in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise ValueError(
                f"{shown}{more}: no such file; expected for the {self.split} split of {self.TITLE}"
            )

    @abstractmethod
    def _choose(self, classes: int | None) -> dict[str, int]:
        """Channels of each kind, with ``classes`` for the segmentation if not None."""

    @abstractmethod
    def _folders(self) -> list[str]:
        """Folders below the root that the chosen kinds need."""

    @abstractmethod
    def _list(self) -> Sequence[str]:
        """Names of the split's images, in order."""

    @abstractmethod
    def _files(self, name: str) -> list[Path]:
        """All files of an image that the chosen kinds need, the image itself first."""

    @abstractmethod
    def _image(self, name: str) -> NDArray[np.uint8]:
        """The image ``(H, W, 3)``."""

    @abstractmethod
    def _truth(self, name: str, kind: str, size: tuple[int, ...]) -> NDArray[Any]:
        """A truth, brought to ``size``."""


def only_classes(title: str, classes: int | None, allowed: Collection[int]) -> None:
    """Refuse a number of classes that is not allowed."""
    if classes is not None and classes not in allowed:
        choice = " or ".join(str(count) for count in allowed)
        raise ValueError(f"{title} has {choice} classes, not {classes}")
