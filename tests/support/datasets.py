"""Small data sets in the layouts of the published ones, with rendered scenes in them.

Each writer makes the folders below ``root`` and returns it. Truths are written in the encodings of
the originals; the scenes that they show are those of :mod:`moevit.model.scenes.render`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from moevit.model.scenes.render import Sample, scene

#: Our split, its name in most layouts.
SPLITS = {"train": "train", "validation": "val"}


def _scenes(count: dict[str, int], size: tuple[int, int]) -> Iterator[tuple[str, int, Sample]]:
    for split, number in count.items():
        for index in range(number):
            yield split, index, scene(split, index, *size)


def _save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".jpg":
        Image.fromarray(values).save(path, quality=95)
    else:
        Image.fromarray(values).save(path)


def _lists(folder: Path, names: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, these in names.items():
        (folder / f"{SPLITS[split]}.txt").write_text("".join(f"{name}\n" for name in these))


def write_nyud(
    root: Path, *, train: int = 6, validation: int = 3, size: tuple[int, int] = (48, 64)
) -> Path:
    """``NYUD_MT``: labels from 1 (0 in the first row), metres, unit vectors."""
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, index, sample in _scenes({"train": train, "validation": validation}, size):
        name = f"{split[0]}{index:04d}"
        names[split].append(name)
        labels = sample.segmentation + np.uint8(1)
        labels[0] = 0
        depth = sample.depth.copy()
        depth[:, 0] = 0
        _save(root / "images" / f"{name}.jpg", sample.image)
        _save(root / "segmentation" / f"{name}.png", labels)
        _save(root / "depth" / f"{name}.npy", depth)
        _save(root / "normals" / f"{name}.npy", sample.normals)
        _save(root / "edge" / f"{name}.npy", sample.edges.astype(np.float32))
    _lists(root / "gt_sets", names)
    return root


def _person(mask: np.ndarray, *, parts: bool) -> np.ndarray:
    """One object of the PASCAL-Part annotations: the upper half a head, the lower a left leg."""
    upper = mask.copy()
    upper[mask.shape[0] // 2 :] = False
    part = np.dtype([("part_name", object), ("mask", object)])
    found = np.zeros((1, 2 if parts else 0), part)
    if parts:
        found[0, 0] = ("hair", upper.astype(np.uint8))
        found[0, 1] = ("llleg", (mask & ~upper).astype(np.uint8))
    kind = np.dtype([("class", object), ("class_ind", object), ("mask", object), ("parts", object)])
    item = np.zeros((1, 1), kind)
    item[0, 0] = ("person", 15, mask.astype(np.uint8), found)
    return item


def write_pascal_context(
    root: Path, *, train: int = 6, validation: int = 3, size: tuple[int, int] = (48, 40)
) -> Path:
    """``PASCAL_MT``: every second image has a person, every third labels from VOC12."""
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, index, sample in _scenes({"train": train, "validation": validation}, size):
        name = f"2008_{10 * (split == 'validation') + index:06d}"
        names[split].append(name)
        _save(root / "JPEGImages" / f"{name}.jpg", sample.image)
        labels = sample.segmentation.copy()
        labels[0] = 255
        folder = "VOC12" if index % 3 == 0 else "pascal-context"
        _save(root / "semseg" / folder / f"{name}.png", labels)
        # 46 and 454 are a cabinet and a wall; 2 is an aeroplane, whose normals do not count
        context = np.array([2, 46, 454], np.uint16)[sample.segmentation % 3]
        target = root / "pascal-context" / "trainval" / f"{name}.mat"
        target.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(target, {"LabelMap": context})
        target = root / "human_parts" / f"{name}.mat"
        target.parent.mkdir(parents=True, exist_ok=True)
        person = _person(sample.saliency, parts=index % 2 == 0)
        scipy.io.savemat(target, {"anno": {"imname": name, "objects": person}})
        encoded = np.rint(255 * (sample.normals + 1) / 2).astype(np.uint8)
        _save(root / "normals_distill" / f"{name}.png", encoded)
        _save(root / "sal_distill" / f"{name}.png", 255 * sample.saliency.astype(np.uint8))
    _lists(root / "ImageSets" / "Context", names)
    return root


CAMERA = {
    "extrinsic": {"baseline": 0.209313, "pitch": 0.038, "x": 1.7},
    "intrinsic": {"fx": 2262.52, "fy": 2265.3017905988554, "u0": 1096.98, "v0": 513.137},
}
#: Label ids of the scenes' ten classes: of each group one, and two that do not count.
IDS = np.array([7, 11, 17, 21, 23, 24, 26, 0, 33, 4], np.uint8)


def write_cityscapes(
    root: Path, *, train: int = 6, validation: int = 3, size: tuple[int, int] = (32, 64)
) -> Path:
    """The packages of the Cityscapes site, two cities a split."""
    product = CAMERA["extrinsic"]["baseline"] * CAMERA["intrinsic"]["fx"]
    for split, index, sample in _scenes({"train": train, "validation": validation}, size):
        city = ("aachen", "bremen")[index % 2]
        name = f"{city}_{index:06d}_000019"

        def place(package: str, end: str, split: str = split, where: str = name) -> Path:
            folder = root / package / SPLITS[split] / where.split("_")[0]
            return folder / f"{where}_{end}"

        _save(place("leftImg8bit", "leftImg8bit.png"), sample.image)
        _save(place("gtFine", "gtFine_labelIds.png"), IDS[sample.segmentation])
        disparity = np.rint(product / (10 * sample.depth) * 256 + 1).astype(np.uint16)
        disparity[:, 0] = 0  # not measured
        disparity[:, 1] = 2  # two kilometres away
        _save(place("disparity", "disparity.png"), disparity)
        target = place("camera", "camera.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(CAMERA))
    return root


def write_cityscapes_arrays(
    root: Path, *, train: int = 6, validation: int = 3, size: tuple[int, int] = (32, 64)
) -> Path:
    """MTAN's arrays, which M3ViT reads."""
    for split, index, sample in _scenes({"train": train, "validation": validation}, size):
        folder = root / SPLITS[split]
        _save(folder / "image" / f"{index}.npy", sample.image / 255.0)
        labels = np.where(sample.segmentation < 7, sample.segmentation.astype(np.int64), -1)
        _save(folder / "label_7" / f"{index}.npy", labels)
        inverse = (0.1 / sample.depth).astype(np.float64)
        inverse[:, 0] = 0
        _save(folder / "depth" / f"{index}.npy", inverse[..., None])
    return root


WRITERS = {
    "nyud": write_nyud,
    "pascal_context": write_pascal_context,
    "cityscapes": write_cityscapes,
}
