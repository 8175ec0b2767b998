"""PASCAL-Context (Mottaghi et al. 2014; Chen et al. 2014) as prepared for multi-task learning.

The layout of ``PASCAL_MT.tgz`` (Maninis et al. 2019, ASTMT), which M3ViT reads::

    ImageSets/Context/train.txt, val.txt   4,998 and 5,105 names
    JPEGImages/NAME.jpg
    semseg/VOC12/NAME.png                  or semseg/pascal-context/NAME.png: 0 to 20, 255 unknown
    pascal-context/trainval/NAME.mat       LabelMap, 459 labels: where it changes is an edge
    human_parts/NAME.mat                   anno.objects(n).{class_ind, mask, parts(m).{part_name,
                                           mask}}; people are class 15
    normals_distill/NAME.png               255 x (n + 1) / 2
    sal_distill/NAME.png                   salient above 127

Edges are the pixels whose right or lower neighbour has another label: one pixel wide, where M3ViT
thins the label map's Laplacian. Normals, which were made by a network trained indoors, count only
on labels that occur indoors. Parts of people are grouped in six. An image without people has no
known parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tasks import UNKNOWN
from .base import Augmentation, Dataset, only_classes
from .files import fit_size, read_image, read_labels, read_list, read_mat, vectors

__all__ = ["INDOOR", "PARTS", "PascalContext"]

_CLASSES = 21
_PERSON = 15

_GROUPS = (
    ("head", "hair head lear rear lebrow rebrow leye reye mouth nose"),
    ("torso", "neck torso"),
    ("upper arm", "luarm ruarm"),
    ("lower arm", "lhand rhand llarm rlarm"),
    ("upper leg", "luleg ruleg"),
    ("lower leg", "lfoot rfoot llleg rlleg"),
)

PARTS = {part: 1 + n for n, (_, names) in enumerate(_GROUPS) for part in names.split()}
"""Label of each annotated part of a person; 0 is the rest of the image."""

# fmt: off
INDOOR = frozenset((
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50,
    51, 53, 55, 56, 59, 61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104,
    105, 107, 111, 113, 115, 122, 124, 135, 141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172,
    174, 181, 183, 184, 191, 193, 195, 197, 199, 202, 213, 215, 216, 219, 220, 223, 225, 228, 230,
    232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261, 263, 269, 272, 273, 275, 281,
    283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314, 315, 319, 323,
    329, 330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383,
    384, 397, 401, 403, 405, 407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432,
    440, 441, 442, 443, 444, 446, 454, 457,
))
# fmt: on
"""Labels of PASCAL-Context whose names NYUD-v2 has too, and the television's."""


def _listed(value: Any) -> list[Any]:
    """One structure or an array of them, as scipy gives either."""
    return list(np.atleast_1d(value)) if np.size(value) else []


class PascalContext(Dataset):
    """PASCAL-Context: 21 classes, parts of people, saliency, normals, edges."""

    NAME = "pascal_context"
    TITLE = "PASCAL-Context"
    MARKS = ("JPEGImages", "ImageSets")
    AUGMENTATION = Augmentation(zooms=(0.75, 1.25), continuous=True, angle=20.0)

    def _choose(self, classes: int | None) -> dict[str, int]:
        only_classes(self.TITLE, classes, (_CLASSES,))
        return {
            "segmentation": _CLASSES,
            "human_parts": 1 + len(_GROUPS),
            "saliency": 1,
            "normals": 3,
            "edges": 1,
        }

    def _folders(self) -> list[str]:
        context = "pascal-context/trainval"
        needed = {
            "segmentation": ["semseg"],
            "human_parts": ["human_parts"],
            "saliency": ["sal_distill"],
            "normals": ["normals_distill", context],
            "edges": [context],
        }
        folders = ["ImageSets/Context", "JPEGImages"]
        folders += [folder for kind in self.kinds for folder in needed[kind]]
        return list(dict.fromkeys(folders))

    def _list(self) -> Sequence[str]:
        name = {"train": "train.txt", "validation": "val.txt"}[self.split]
        return read_list(self.root / "ImageSets" / "Context" / name)

    def _photo(self, name: str) -> Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def _context(self, name: str) -> Path:
        return self.root / "pascal-context" / "trainval" / f"{name}.mat"

    def _semseg(self, name: str) -> Path:
        voc = self.root / "semseg" / "VOC12" / f"{name}.png"
        other = self.root / "semseg" / "pascal-context" / f"{name}.png"
        return other if not voc.is_file() and other.is_file() else voc

    def _files(self, name: str) -> list[Path]:
        needed = {
            "segmentation": [self._semseg(name)],
            "human_parts": [self.root / "human_parts" / f"{name}.mat"],
            "saliency": [self.root / "sal_distill" / f"{name}.png"],
            "normals": [self.root / "normals_distill" / f"{name}.png", self._context(name)],
            "edges": [self._context(name)],
        }
        files = [self._photo(name), *(path for kind in self.kinds for path in needed[kind])]
        return list(dict.fromkeys(files))

    def _image(self, name: str) -> NDArray[np.uint8]:
        return read_image(self._photo(name))

    def _truth(self, name: str, kind: str, size: tuple[int, ...]) -> NDArray[Any]:
        if kind == "segmentation":
            path = self._semseg(name)
            labels = read_labels(path, "labels of 21 classes")
            wrong = labels[(labels >= _CLASSES) & (labels != UNKNOWN)]
            if wrong.size:
                raise ValueError(f"{path}: has label {wrong[0]}; expected 0 to 20, or 255")
            return fit_size(labels.astype(np.uint8), size, path)
        if kind == "saliency":
            path = self.root / "sal_distill" / f"{name}.png"
            return fit_size((read_labels(path, "saliency") > 127).astype(np.uint8), size, path)
        if kind == "human_parts":
            return self._parts(name, size)
        if kind == "normals":
            return self._normals(name, size)
        labels = self._label_map(name, size)
        edges = np.zeros(labels.shape, np.uint8)
        edges[:-1] |= labels[:-1] != labels[1:]
        edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        return edges

    def _label_map(self, name: str, size: tuple[int, ...]) -> NDArray[Any]:
        path = self._context(name)
        labels = np.asarray(read_mat(path, "LabelMap", "the labels of PASCAL-Context, (H, W)"))
        if labels.ndim != 2 or labels.dtype.kind not in "iuf":
            raise ValueError(f"{path}: LabelMap has shape {labels.shape}; expected labels, (H, W)")
        return fit_size(labels, size, path)

    def _normals(self, name: str, size: tuple[int, ...]) -> NDArray[Any]:
        path = self.root / "normals_distill" / f"{name}.png"
        encoded = read_image(path).astype(np.float32)
        normals = fit_size(vectors(encoded * (2 / 255) - 1, path), size, path).copy()
        labels = self._label_map(name, size)
        normals[~np.isin(labels, list(INDOOR))] = 0
        return normals

    def _parts(self, name: str, size: tuple[int, ...]) -> NDArray[np.uint8]:
        path = self.root / "human_parts" / f"{name}.mat"
        what = "anno.objects(n) with class_ind, mask and parts(m) with part_name and mask"
        labels = np.zeros(size, np.uint8)
        people = False
        try:
            for item in _listed(read_mat(path, "anno", what).objects):
                if int(item.class_ind) != _PERSON:
                    continue
                for part in _listed(item.parts):
                    people = True
                    mask = np.asarray(part.mask).astype(bool)
                    if mask.ndim != 2:
                        raise ValueError(f"{path}: a mask has shape {mask.shape}; expected (H, W)")
                    label = PARTS.get(str(part.part_name))
                    if label is None:
                        raise ValueError(
                            f"{path}: has part {str(part.part_name)!r}; expected one of "
                            f"{', '.join(PARTS)}"
                        )
                    labels[fit_size(mask, size, path)] = label
        except AttributeError as error:
            raise ValueError(f"{path}: expected {what} ({error})") from None
        if not people:
            labels[:] = UNKNOWN
        return labels
