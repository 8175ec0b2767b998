"""Cityscapes (Cordts et al. 2016), in either of two layouts; which one is seen by the folders.

The site's own (``leftImg8bit_trainvaltest``, ``gtFine``, ``disparity`` and ``camera`` packages;
SPLIT is ``train`` or ``val``)::

    leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png      1024 x 2048
    gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png       ids 0 to 33; 19 of them count, or 7 groups
    disparity/SPLIT/CITY/NAME_disparity.png          16 bits: 0 unknown, else 256 x pixels + 1
    camera/SPLIT/CITY/NAME_camera.json               baseline in metres, focal length in pixels

Depth is baseline x focal length / disparity in metres; what is beyond 80 m (the usual limit of
evaluation) is not known.

Arrays of 128 x 256 pixels, as MTAN (Liu et al. 2019) prepared them and M3ViT reads them::

    SPLIT/image/N.npy     float (H, W, 3), 0 to 1
    SPLIT/label_7/N.npy   -1 unknown, 0 to 6 (or label_19, 0 to 18)
    SPLIT/depth/N.npy     (H, W) or (H, W, 1): inverse depth, 0 unknown

Their ``depth`` is, by its range, the disparity's file value / 65536; M3ViT's RMSE is of that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tasks import UNKNOWN
from .base import Augmentation, Dataset, only_classes
from .files import fit_size, read_array, read_image, read_labels, read_unit_image

__all__ = ["Cityscapes"]

FARTHEST = 80.0
"""Metres beyond which depth from disparity is not used."""

# Of the label ids 0 to 33 (cityscapesScripts, helpers/labels.py): those of the 19 classes that
# count, in order, and the first and last id of each group: flat, construction, object, nature, sky,
# human, vehicle.
_COUNTED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_GROUPS = ((7, 10), (11, 16), (17, 20), (21, 22), (23, 23), (24, 25), (26, 33))
_IDS = 34


def _table(classes: int) -> NDArray[np.uint8]:
    """Class of each label id, 255 for what does not count."""
    table = np.full(_IDS, UNKNOWN, np.uint8)
    if classes == len(_COUNTED):
        table[list(_COUNTED)] = np.arange(classes)
    else:
        for group, (first, last) in enumerate(_GROUPS):
            table[first : last + 1] = group
    return table


class Cityscapes(Dataset):
    """Cityscapes: segmentation of 19 classes (7 in MTAN's arrays, unless asked), and depth."""

    NAME = "cityscapes"
    TITLE = "Cityscapes"
    AUGMENTATION = Augmentation(zooms=(1.0, 1.2, 1.5))
    MARKS = ("leftImg8bit", "gtFine", "train/image", "val/image")

    def _choose(self, classes: int | None) -> dict[str, int]:
        only_classes(self.TITLE, classes, (len(_GROUPS), len(_COUNTED)))
        self._part = {"train": "train", "validation": "val"}[self.split]
        self._arrays = (self.root / self._part / "image").is_dir()
        self.inverse_depth = self._arrays
        usual = len(_GROUPS) if self._arrays else len(_COUNTED)
        return {"segmentation": classes or usual, "depth": 1}

    def _folders(self) -> list[str]:
        if self._arrays:
            folders = {"segmentation": [f"label_{self.channels.get('segmentation')}"]}
            folders["depth"] = ["depth"]
            names = ["image", *(name for kind in self.kinds for name in folders[kind])]
            return [f"{self._part}/{name}" for name in names]
        folders = {"segmentation": ["gtFine"], "depth": ["disparity", "camera"]}
        names = ["leftImg8bit", *(name for kind in self.kinds for name in folders[kind])]
        return [f"{name}/{self._part}" for name in names]

    def _list(self) -> Sequence[str]:
        if self._arrays:
            folder = self.root / self._part / "image"
            names = [path.stem for path in folder.glob("*.npy")]
            return sorted(names, key=lambda n: (int(n) if n.isdecimal() else -1, n))
        folder = self.root / "leftImg8bit" / self._part
        end = "_leftImg8bit.png"
        paths = sorted(folder.glob(f"*/*{end}"))
        return [f"{path.parent.name}/{path.name.removesuffix(end)}" for path in paths]

    def _path(self, name: str, what: str) -> Path:
        if self._arrays:
            return self.root / self._part / what / f"{name}.npy"
        ends = {"gtFine": "gtFine_labelIds.png", "camera": "camera.json"}
        return self.root / what / self._part / f"{name}_{ends.get(what, f'{what}.png')}"

    def _files(self, name: str) -> list[Path]:
        if self._arrays:
            label = f"label_{self.channels.get('segmentation')}"
            wanted = {"segmentation": [label], "depth": ["depth"]}
            folders = ["image"]
        else:
            wanted = {"segmentation": ["gtFine"], "depth": ["disparity", "camera"]}
            folders = ["leftImg8bit"]
        folders += [folder for kind in self.kinds for folder in wanted[kind]]
        return [self._path(name, folder) for folder in folders]

    def _image(self, name: str) -> NDArray[np.uint8]:
        if not self._arrays:
            return read_image(self._path(name, "leftImg8bit"))
        path = self._path(name, "image")
        return read_unit_image(path)

    def _truth(self, name: str, kind: str, size: tuple[int, ...]) -> NDArray[Any]:
        if kind == "segmentation":
            path, labels = self._labels(name)
            return fit_size(labels, size, path)
        path, depth = self._depth(name)
        return fit_size(depth, size, path)

    def _labels(self, name: str) -> tuple[Path, NDArray[np.uint8]]:
        classes = self.channels["segmentation"]
        if not self._arrays:
            path = self._path(name, "gtFine")
            ids = read_labels(path, "label ids", above=_IDS - 1)
            return path, _table(classes)[ids]
        path = self._path(name, f"label_{classes}")
        labels = read_array(path, f"labels of {classes} classes", ndim=2).astype(np.int64)
        labels = np.where((labels == -1) | (labels == UNKNOWN), UNKNOWN, labels)
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != UNKNOWN)]
        if wrong.size:
            raise ValueError(f"{path}: has label {wrong[0]}; expected -1 to {classes - 1}")
        return path, labels.astype(np.uint8)

    def _depth(self, name: str) -> tuple[Path, NDArray[np.float32]]:
        if self._arrays:
            path = self._path(name, "depth")
            values = read_array(path, "inverse depth", ndim=2).astype(np.float32)
            return path, np.maximum(values, 0)
        path = self._path(name, "disparity")
        stored = read_labels(path, "disparity in 16 bits", above=0xFFFF)
        disparity = (stored - 1) / 256.0
        product = self._camera(self._path(name, "camera"))
        near = disparity * FARTHEST >= product
        return path, np.where(near, product / np.maximum(disparity, 1e-9), 0).astype(np.float32)

    def _camera(self, path: Path) -> float:
        """Metres x pixels: baseline times focal length."""
        try:
            camera = json.loads(path.read_text(encoding="utf-8-sig"))
            product = float(camera["extrinsic"]["baseline"]) * float(camera["intrinsic"]["fx"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: expected JSON with extrinsic.baseline and intrinsic.fx "
                f"({type(error).__name__}: {error})"
            ) from None
        if not product > 0:
            raise ValueError(f"{path}: baseline times fx is {product}; expected a positive number")
        return product
