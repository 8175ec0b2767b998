"""NYUD-v2 (Silberman et al. 2012) as prepared for multi-task learning.

The layout of ``NYUD_MT.tgz`` (Maninis et al. 2019, ASTMT; Vandenhende et al. 2021), which M3ViT
reads::

    gt_sets/train.txt, gt_sets/val.txt   795 and 654 names, one a line
    images/NAME.jpg                      480 x 640
    segmentation/NAME.png                0 not labelled, 1 to 40 the classes of Gupta et al. 2013
    depth/NAME.npy                       float (H, W), metres, 0 where not measured
    normals/NAME.npy                     float (H, W, 3), unit vectors, 0 where not known
    edge/NAME.npy                        (H, W), 1 on a boundary
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tasks import UNKNOWN
from .base import Augmentation, Dataset, only_classes
from .files import fit_size, read_array, read_image, read_labels, read_list, vectors

__all__ = ["Nyud"]

_FILES = {
    "segmentation": ("segmentation", ".png"),
    "depth": ("depth", ".npy"),
    "normals": ("normals", ".npy"),
    "edges": ("edge", ".npy"),
}
_CLASSES = 40


class Nyud(Dataset):
    """NYUD-v2: 40 classes, depth, normals, edges."""

    NAME = "nyud"
    TITLE = "NYUD-v2"
    AUGMENTATION = Augmentation(zooms=(1.0, 1.2, 1.5))

    def _choose(self, classes: int | None) -> dict[str, int]:
        only_classes(self.TITLE, classes, (_CLASSES,))
        return {"segmentation": _CLASSES, "depth": 1, "normals": 3, "edges": 1}

    def _folders(self) -> list[str]:
        return ["gt_sets", "images", *(_FILES[kind][0] for kind in self.kinds)]

    def _list(self) -> Sequence[str]:
        name = {"train": "train.txt", "validation": "val.txt"}[self.split]
        return read_list(self.root / "gt_sets" / name)

    def _path(self, name: str, kind: str) -> Path:
        folder, suffix = _FILES[kind]
        return self.root / folder / f"{name}{suffix}"

    def _files(self, name: str) -> list[Path]:
        truths = [self._path(name, kind) for kind in self.kinds]
        return [self.root / "images" / f"{name}.jpg", *truths]

    def _image(self, name: str) -> NDArray[np.uint8]:
        return read_image(self.root / "images" / f"{name}.jpg")

    def _truth(self, name: str, kind: str, size: tuple[int, ...]) -> NDArray[Any]:
        path = self._path(name, kind)
        if kind == "segmentation":
            labels = read_labels(path, "labels of 40 classes", above=UNKNOWN)
            if ((labels > _CLASSES) & (labels != UNKNOWN)).any():
                worst = labels[labels != UNKNOWN].max()
                raise ValueError(f"{path}: has label {worst}; expected 0 to {_CLASSES}, or 255")
            values = np.where((labels == 0) | (labels == UNKNOWN), UNKNOWN, labels - 1)
            return fit_size(values.astype(np.uint8), size, path)
        if kind == "depth":
            depth = read_array(path, "depth in metres", ndim=2).astype(np.float32)
            return fit_size(np.maximum(depth, 0), size, path)
        if kind == "normals":
            return fit_size(vectors(read_array(path, "normals", ndim=3), path), size, path)
        edges = read_array(path, "edges", ndim=2)
        return fit_size((edges > 0.5).astype(np.uint8), size, path)
