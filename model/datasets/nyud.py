"""NYUD-v2 (Silberman et al. 2012) as prepared for multi-task learning.

The layout of ``NYUD_MT.tgz`` (Maninis et al. 2019, ASTMT; Vandenhende et al. 2021), which M3ViT
reads::

    gt_sets/train.txt, gt_sets/val.txt   795 and 654 names, one a line
    images/NAME.jpg                      480 x 640
    segmentation/NAME.png                0 not labelled, 1 to 40 the classes of Gupta et al. 2013
    depth/NAME.npy                       float (H, W), metres, 0 where not measured
    normals/NAME.npy                     float (H, W, 3), unit vectors, 0 where not known
    edge/NAME.npy                        (H, W), 1 on a boundary

The same with pictures, as ATRC (Bruggemann et al. 2021) packs it and InvPT, TaskPrompter and others
read it: ``images/NAME.png``, ``edge/NAME.png`` (255 on a boundary), ``normals/NAME.png``
(components from -1 to 1 as 0 to 255).

Arrays of 288 x 384 pixels as MTAN (Liu et al. 2019) prepared them; SPLIT is train or val::

    SPLIT/image/N.npy     float (H, W, 3), 0 to 1
    SPLIT/label/N.npy     -1 unknown, 0 to 12
    SPLIT/depth/N.npy     (H, W, 1), metres
    SPLIT/normal/N.npy    (H, W, 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tasks import UNKNOWN
from .base import Augmentation, Dataset, only_classes
from .files import (
    decode_normals,
    fit_size,
    read_array,
    read_image,
    read_labels,
    read_list,
    read_unit_image,
    vectors,
)

__all__ = ["Nyud"]

_FILES = {
    "image": ("images", (".jpg", ".png", ".JPG", ".jpeg", ".JPEG", ".PNG")),
    "segmentation": ("segmentation", (".png",)),
    "depth": ("depth", (".npy",)),
    "normals": ("normals", (".npy", ".png")),
    "edges": ("edge", (".npy", ".png")),
}
_ARRAYS = {"image": "image", "segmentation": "label", "depth": "depth", "normals": "normal"}
_CLASSES = {False: 40, True: 13}
_FARTHEST = 20.0  # metres: no room's median is beyond


def _number(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1, name)


class Nyud(Dataset):
    """NYUD-v2: 40 classes, depth, normals, edges; in MTAN's arrays 13 classes and no edges."""

    NAME = "nyud"
    TITLE = "NYUD-v2"
    AUGMENTATION = Augmentation(zooms=(1.0, 1.2, 1.5))
    MARKS = ("gt_sets", "train/image", "val/image")

    def _choose(self, classes: int | None) -> dict[str, int]:
        self._part = {"train": "train", "validation": "val"}[self.split]
        self._arrays = (self.root / self._part / "image").is_dir()
        count = _CLASSES[self._arrays]
        only_classes(self.TITLE, classes, (count,))
        channels = {"segmentation": count, "depth": 1, "normals": 3, "edges": 1}
        if self._arrays:
            del channels["edges"]
        return channels

    def _folders(self) -> list[str]:
        if self._arrays:
            return [f"{self._part}/{_ARRAYS[kind]}" for kind in ("image", *self.kinds)]
        return ["gt_sets", "images", *(_FILES[kind][0] for kind in self.kinds)]

    def _list(self) -> Sequence[str]:
        if self._arrays:
            paths = (self.root / self._part / "image").glob("[!.]*.npy")
            return sorted(
                (p.stem for p in paths), key=lambda n: (int(n) if n.isdecimal() else -1, n)
            )
        names = read_list(self.root / "gt_sets" / f"{self._part}.txt")
        ends = _FILES["image"][1]
        return [Path(n).stem if Path(n).suffix in ends else n for n in names]

    def _path(self, name: str, kind: str) -> Path:
        if self._arrays:
            return self.root / self._part / _ARRAYS[kind] / f"{name}.npy"
        folder, ends = _FILES[kind]
        paths = [self.root / folder / f"{name}{end}" for end in ends]
        return next((path for path in paths if path.is_file()), paths[0])

    def _files(self, name: str) -> list[Path]:
        return [self._path(name, kind) for kind in ("image", *self.kinds)]

    def _image(self, name: str) -> NDArray[np.uint8]:
        path = self._path(name, "image")
        return read_unit_image(path) if self._arrays else read_image(path)

    def _truth(self, name: str, kind: str, size: tuple[int, ...]) -> NDArray[Any]:
        path = self._path(name, kind)
        if kind == "segmentation":
            return fit_size(self._labels(path), size, path)
        if kind == "depth":
            return fit_size(self._depth(path), size, path)
        if kind == "normals":
            return fit_size(vectors(self._normals(path), path), size, path)
        if path.suffix == ".png":
            edges = read_labels(path, "edges") / 255.0
        else:
            edges = read_array(path, "edges", ndim=2)
        return fit_size((edges > 0.5).astype(np.uint8), size, path)

    def _labels(self, path: Path) -> NDArray[np.uint8]:
        classes = _CLASSES[self._arrays]
        if self._arrays:
            labels = read_array(path, "labels from -1", ndim=2)
            if ((labels < -1) | (labels >= classes) | (labels != np.rint(labels))).any():
                found = f"{labels.min()} to {labels.max()}"
                raise ValueError(f"{path}: has labels {found}; expected -1 to {classes - 1}")
            return np.asarray(np.where(labels < 0, UNKNOWN, labels), np.uint8)
        labels = read_labels(path, "labels of 40 classes", above=UNKNOWN)
        if ((labels > classes) & (labels != UNKNOWN)).any():
            worst = labels[labels != UNKNOWN].max()
            raise ValueError(f"{path}: has label {worst}; expected 0 to {classes}, or 255")
        unknown = (labels == 0) | (labels == UNKNOWN)
        return np.asarray(np.where(unknown, UNKNOWN, labels - 1), np.uint8)

    def _depth(self, path: Path) -> NDArray[np.float32]:
        depth = read_array(path, "depth in metres", ndim=2).astype(np.float32)
        depth *= np.float32(self.units.depth_scale)
        measured = depth[depth > 0]
        if len(measured) and (middle := float(np.median(measured))) > _FARTHEST:
            raise ValueError(
                f"{path}: has a median depth of {middle:.4g} metres; expected that of a room "
                f"(of millimetres, --depth-scale 0.001)"
            )
        return np.maximum(depth, 0)

    def _normals(self, path: Path) -> NDArray[np.float32]:
        if path.suffix == ".png":  # of bytes by its format
            return decode_normals(read_image(path), "byte")
        values = read_array(path, "normals", ndim=3)
        how = self.units.normals_range
        if how == "signed" and values.shape[2] == 3 and values.min() >= 0 and values.max() > 0:
            names = "byte" if values.max() > 2 else "unit"
            raise ValueError(
                f"{path}: has no component below 0, up to {values.max():.4g}; expected unit "
                f"vectors (if -1 to 1 are stored so, --normals-range {names})"
            )
        return decode_normals(values, how)
