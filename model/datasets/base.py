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

from moevit.quant.notes import note

from ..config import TaskConfig

__all__ = ["RANGES", "SPLITS", "Augmentation", "Dataset", "Example", "Units"]

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


RANGES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0), "byte": (0.0, 255.0)}
"""How normals' components from -1 to 1 are stored, by name: the values of -1 and of 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """How truths are stored where the layout does not say.

    ``depth_scale``: metres of a depth of 1; ``normals_range``: a name of :data:`RANGES`.
    """

    depth_scale: float = 1.0
    normals_range: str = "signed"

    def __post_init__(self) -> None:
        if not self.depth_scale > 0:
            raise ValueError(f"--depth-scale: must be positive, not {self.depth_scale}")
        if self.normals_range not in RANGES:
            known = ", ".join(RANGES)
            raise ValueError(f"--normals-range: must be one of {known}, not {self.normals_range!r}")


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

    MARKS: ClassVar[tuple[str, ...]] = ()
    """Folders of which one tells that this is the data set's root; empty if any may be."""

    inverse_depth = False
    """Whether ``depth`` is its reciprocal: what is nearer is larger."""

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        kinds: Sequence[str] | None = None,
        classes: int | None = None,
        units: Units | None = None,
    ) -> None:
        self.units = units or Units()
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
        root = self.root
        lacking = [name for name in folders if not (root / name).is_dir()]
        if lacking:
            near = [path for name in lacking for path in sorted(root.glob(f"*/{name}"))[:1]]
            there = f"; there is {', '.join(str(path) for path in near)}" if near else ""
            raise ValueError(
                f"{root}: lacks {', '.join(lacking)}; expected {self.TITLE} with the folders "
                f"{', '.join(folders)}{there}"
            )
        self.ids: tuple[str, ...] = tuple(self._list())
        if not self.ids:
            raise ValueError(f"{root}: {self.TITLE} has no images for {split}")
        self._check_files()

    def _look(self, root: Path, split: str) -> None:
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder; expected that of {self.TITLE}")
        self.root, self.split = self._found(root), split

    def _found(self, root: Path) -> Path:
        """`root`, or the folder inside it or around it that has the data set's layout."""
        if not self.MARKS or self._marked(root):
            return root
        inside = sorted(path for path in root.iterdir() if path.is_dir() and self._marked(path))
        if len(inside) > 1:
            names = ", ".join(str(path) for path in inside)
            raise ValueError(f"{root}: has {self.TITLE} more than once; expected one of {names}")
        if inside or self._marked(root.resolve().parent):
            found = inside[0] if inside else root.resolve().parent
            note(f"{root}: {self.TITLE} is in {found}, which is used")
            return found
        return root

    @classmethod
    def _marked(cls, root: Path) -> bool:
        return any((root / mark).is_dir() for mark in cls.MARKS)

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
        digest = hashlib.sha256(
            repr((self.NAME, self.split, dict(self.channels), self.units)).encode()
        )
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
