"""Data sets in their published layouts: what is read, what is refused, how it is fitted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.datasets import (
    CAMERA,
    WRITERS,
    write_cityscapes,
    write_cityscapes_arrays,
    write_nyud,
    write_pascal_context,
)

from moevit.model.datasets import NAMES, Example, open_dataset
from moevit.model.datasets.base import Augmentation
from moevit.model.datasets.fit import View, fit
from moevit.model.datasets.pascal_context import INDOOR, PARTS
from moevit.model.scenes.render import scene
from moevit.model.tasks import known
from moevit.model.training.losses import RECIPES

CHANNELS = {
    "nyud": {"segmentation": 40, "depth": 1, "normals": 3, "edges": 1},
    "pascal_context": {
        "segmentation": 21,
        "human_parts": 7,
        "saliency": 1,
        "normals": 3,
        "edges": 1,
    },
    "cityscapes": {"segmentation": 19, "depth": 1},
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


@pytest.mark.parametrize("name", NAMES)
def test_tasks_splits_and_sizes(name: str, roots: dict[str, Path]) -> None:
    for split, count in (("train", 6), ("validation", 3)):
        data = open_dataset(name, roots[name], split)
        assert len(data) == count
        assert {task.kind: task.channels for task in data.tasks(4)} == CHANNELS[name]
        example = data.load(0)
        assert example.image.dtype == np.uint8 and example.image.shape[2] == 3
        for kind, truth in example.truths.items():
            assert truth.shape[:2] == example.image.shape[:2], kind
            assert known(kind, truth).any(), kind
            if kind in ("segmentation", "human_parts"):
                assert truth[truth != 255].max() < CHANNELS[name][kind]
            RECIPES[name].weight(kind)  # has one
    assert data.load(0, ["depth"] if name != "pascal_context" else []).truths.keys() <= {"depth"}


def test_nyud_encodings(roots: dict[str, Path]) -> None:
    data = open_dataset("nyud", roots["nyud"], "validation")
    found, sample = data.load(1).truths, scene("validation", 1, 48, 64)
    assert (found["segmentation"][0] == 255).all()
    assert np.array_equal(found["segmentation"][1:], sample.segmentation[1:])
    assert (found["depth"][:, 0] == 0).all()
    assert np.array_equal(found["depth"][:, 1:], sample.depth[:, 1:])
    assert np.allclose(found["normals"], sample.normals, atol=1e-6)
    assert np.array_equal(found["edges"], sample.edges)


def test_pascal_context_encodings(roots: dict[str, Path]) -> None:
    data = open_dataset("pascal_context", roots["pascal_context"], "train")
    sample, found = scene("train", 0, 48, 40), data.load(0).truths
    assert (found["segmentation"][0] == 255).all()
    assert np.array_equal(found["segmentation"][1:], sample.segmentation[1:])
    assert np.array_equal(found["saliency"], sample.saliency)
    parts = np.where(sample.saliency, PARTS["hair"], 0)
    parts[24:][sample.saliency[24:]] = PARTS["llleg"]
    assert np.array_equal(found["human_parts"], parts)
    assert sorted(set(PARTS.values())) == [1, 2, 3, 4, 5, 6] and len(PARTS) == 24
    indoors = sample.segmentation % 3 > 0
    assert np.array_equal(known("normals", found["normals"]), indoors)
    angle = np.einsum("nc,nc->n", found["normals"][indoors], sample.normals[indoors])
    assert angle.min() > 0.9999
    label = sample.segmentation % 3
    assert found["edges"][10, 10] == (
        label[10, 10] != label[11, 10] or label[10, 10] != label[10, 11]
    )
    assert not found["edges"][-1, -1] and found["edges"].any()
    assert (data.load(1).truths["human_parts"] == 255).all(), "a person without parts"
    assert 2 not in INDOOR and 454 in INDOOR


def test_cityscapes_encodings(roots: dict[str, Path]) -> None:
    data = open_dataset("cityscapes", roots["cityscapes"], "train")
    assert [name.split("/")[0] for name in data.ids] == ["aachen"] * 3 + ["bremen"] * 3
    sample, found = scene("train", 2, 32, 64), data.load(1).truths  # aachen's second
    assert np.array_equal(data.load(1).image, sample.image)
    table = np.array([0, 2, 5, 8, 10, 11, 13, 255, 18, 255])
    assert np.array_equal(found["segmentation"], table[sample.segmentation])
    seven = open_dataset("cityscapes", data.root, "train", kinds=["segmentation"], classes=7)
    table = np.array([0, 1, 2, 3, 4, 5, 6, 255, 6, 255])
    assert np.array_equal(seven.load(1).truths["segmentation"], table[sample.segmentation])
    near = 10 * sample.depth[:, 2:] < 79
    assert (found["depth"][:, :2] == 0).all()
    assert np.allclose(found["depth"][:, 2:][near], 10 * sample.depth[:, 2:][near], rtol=2e-3)
    assert CAMERA["extrinsic"]["baseline"] * CAMERA["intrinsic"]["fx"] == pytest.approx(
        473.57, 1e-4
    )


def test_cityscapes_as_arrays(tmp_path: Path) -> None:
    data = open_dataset("cityscapes", write_cityscapes_arrays(tmp_path, train=11), "train")
    assert data.ids == tuple(str(n) for n in range(11)), "in the order of the numbers"
    assert data.channels == {"segmentation": 7, "depth": 1} and data.inverse_depth
    sample, found = scene("train", 10, 32, 64), data.load(10)
    assert np.array_equal(found.image, sample.image)
    labels = np.where(sample.segmentation < 7, sample.segmentation, 255)
    assert np.array_equal(found.truths["segmentation"], labels)
    assert (found.truths["depth"][:, 0] == 0).all()
    assert np.allclose(found.truths["depth"][:, 1:], 0.1 / sample.depth[:, 1:], rtol=1e-5)
    with pytest.raises(ValueError, match="lacks train/label_19"):
        open_dataset("cityscapes", tmp_path, "train", classes=19)


def test_only_what_the_kinds_need(tmp_path: Path) -> None:
    write_nyud(tmp_path)
    shutil.rmtree(tmp_path / "normals")
    data = open_dataset("nyud", tmp_path, "train", kinds=["depth", "segmentation"])
    assert data.kinds == ("depth", "segmentation")
    before = data.fingerprint()
    assert before == open_dataset("nyud", tmp_path, "train", kinds=data.kinds).fingerprint()
    np.save(tmp_path / "depth" / "t0000.npy", np.ones((48, 65)))
    assert before != data.fingerprint()


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("nyud", 13, "NYUD-v2 has 40 classes, not 13"),
        ("pascal_context", 60, "PASCAL-Context has 21 classes, not 60"),
        ("cityscapes", 8, "Cityscapes has 7 or 19 classes, not 8"),
        ("kitti", None, "must be one of nyud, pascal_context, cityscapes, not 'kitti'"),
    ],
)
def test_wrong_names_and_classes(name: str, classes: int | None, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(name, tmp_path, "train", classes=classes)


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder; expected that of NYUD-v2"):
        open_dataset("nyud", tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="not 'test'"):
        open_dataset("nyud", tmp_path, "test")
    write_nyud(tmp_path)
    with pytest.raises(ValueError, match="NYUD-v2 has no 'saliency', only segmentation, depth"):
        open_dataset("nyud", tmp_path, "train", kinds=["saliency"])
    for index in range(5):
        (tmp_path / "depth" / f"t{index:04d}.npy").unlink()
    with pytest.raises(ValueError, match=r"depth/t0000\.npy, .* and 2 more: no such file"):
        open_dataset("nyud", tmp_path, "train")
    shutil.rmtree(tmp_path / "depth")
    shutil.rmtree(tmp_path / "edge")
    with pytest.raises(ValueError, match="lacks depth, edge; expected NYUD-v2 with the folders"):
        open_dataset("nyud", tmp_path, "train")
    (tmp_path / "gt_sets" / "train.txt").write_text("\n")
    with pytest.raises(ValueError, match="has no images for train"):
        open_dataset("nyud", tmp_path, "train", kinds=["segmentation"])
    (tmp_path / "gt_sets" / "train.txt").unlink()
    with pytest.raises(ValueError, match=r"train\.txt: no such file; expected the names"):
        open_dataset("nyud", tmp_path, "train", kinds=["segmentation"])


Break = Callable[[Path], None]


def _array(values: np.ndarray) -> Break:
    return lambda path: np.save(path, values)


def _image(values: np.ndarray) -> Break:
    return lambda path: Image.fromarray(values).save(path)


def _mat(**values: object) -> Break:
    return lambda path: scipy.io.savemat(path, values)


def _short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("name", "file", "damage", "message"),
    [
        ("nyud", "images/t0000.jpg", _short, "not a whole image"),
        ("nyud", "segmentation/t0000.png", _short, "not a whole image"),
        ("nyud", "depth/t0000.npy", _short, "not a whole NumPy file"),
        ("nyud", "depth/t0000.npy", _array(np.array([{}])), "not a whole NumPy file"),
        ("nyud", "depth/t0000.npy", _array(np.full((48, 64), np.nan)), "not finite"),
        ("nyud", "normals/t0000.npy", _array(np.ones((48, 64, 2))), r"\(48, 64, 2\); expected"),
        ("nyud", "edge/t0000.npy", _array(np.ones((40, 64))), "is 40x64; expected .* 48x64"),
        (
            "nyud",
            "segmentation/t0000.png",
            _image(np.full((48, 64), 41, np.uint8)),
            "has label 41; expected 0 to 40",
        ),
        (
            "nyud",
            "segmentation/t0000.png",
            _image(np.ones((48, 64, 3), np.uint8)),
            r"\(48, 64, 3\); expected labels of 40 classes in one channel",
        ),
        (
            "pascal_context",
            "semseg/VOC12/2008_000000.png",
            _image(np.full((48, 40), 30, np.uint8)),
            "has label 30; expected 0 to 20, or 255",
        ),
        (
            "pascal_context",
            "pascal-context/trainval/2008_000000.mat",
            _mat(labels=np.ones((48, 40))),
            "has no variable 'LabelMap'",
        ),
        ("pascal_context", "human_parts/2008_000000.mat", _short, "not a whole MATLAB file"),
        ("pascal_context", "human_parts/2008_000000.mat", _mat(anno=3), "expected anno.objects"),
        (
            "cityscapes",
            "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
            _image(np.full((32, 64), 200, np.uint8)),
            "has values 200 to 200; expected label ids from 0 to 33",
        ),
        (
            "cityscapes",
            "camera/train/aachen/aachen_000000_000019_camera.json",
            lambda path: path.write_text('{"extrinsic": {}}'),
            "expected JSON with extrinsic.baseline",
        ),
    ],
)
def test_broken_files_are_named(
    name: str, file: str, damage: Break, message: str, tmp_path: Path
) -> None:
    data = open_dataset(name, WRITERS[name](tmp_path, train=1, validation=1), "train")
    damage(tmp_path / file)
    with pytest.raises(ValueError, match=message) as error:
        data.load(0)
    assert str(error.value).startswith(str(tmp_path / file))
    assert "\n" not in str(error.value)


def test_unknown_part_is_named(tmp_path: Path) -> None:
    from support.datasets import _person

    data = open_dataset("pascal_context", write_pascal_context(tmp_path, train=1), "train")
    person = _person(np.ones((48, 40), np.bool_), parts=True)
    person[0, 0]["parts"][0, 1]["part_name"] = "wing"
    path = tmp_path / "human_parts" / "2008_000000.mat"
    scipy.io.savemat(path, {"anno": {"objects": person}})
    with pytest.raises(ValueError, match="has part 'wing'; expected one of hair, head"):
        data.load(0)


# Fitting ---------------------------------------------------------------------------------------
def example(size: tuple[int, int] = (24, 32), index: int = 0) -> Example:
    sample = scene("train", index, *size)
    parts = np.where(sample.saliency, 3, 0).astype(np.uint8)
    return Example(
        sample.image,
        {
            "segmentation": sample.segmentation,
            "human_parts": parts,
            "depth": sample.depth,
            "normals": sample.normals,
            "edges": sample.edges.astype(np.uint8),
            "saliency": sample.saliency.astype(np.uint8),
        },
    )


def test_the_same_size_changes_nothing() -> None:
    before = example()
    after = fit(before, (24, 32))
    assert np.array_equal(after.image, before.image)
    for kind, truth in before.truths.items():
        assert np.array_equal(after.truths[kind], truth), kind


@pytest.mark.parametrize("size", [(16, 32), (32, 16), (40, 40), (8, 24)])
def test_images_are_cut_as_those_to_run_on(size: tuple[int, int], tmp_path: Path) -> None:
    from moevit.images import load_image

    before = example()
    Image.fromarray(before.image).save(tmp_path / "x.png")
    wanted = load_image(tmp_path / "x.png", height=size[0], width=size[1])
    after = fit(before, size)
    assert np.abs(after.image.astype(int) - wanted).max() <= 1
    for kind, truth in after.truths.items():
        assert truth.shape[:2] == size
        assert known(kind, truth).all(), kind


def test_flip_negates_x() -> None:
    before = example()
    after = fit(before, (24, 32), View(flip=True))
    assert np.array_equal(after.image, before.image[:, ::-1])
    mirrored = before.truths["normals"][:, ::-1] * np.array([-1, 1, 1], np.float32)
    assert np.array_equal(after.truths["normals"], mirrored)
    assert np.array_equal(after.truths["depth"], before.truths["depth"][:, ::-1])


def test_zoom_divides_depth() -> None:
    before = example((24, 32))
    view = View(zoom=2, across=1, down=0)
    after = fit(before, (24, 32), view)
    corner = before.truths["depth"][:12, 16:].repeat(2, 0).repeat(2, 1)
    assert np.array_equal(after.truths["depth"], corner / 2)
    inverse = fit(before, (24, 32), view, inverse_depth=True)
    assert np.array_equal(inverse.truths["depth"], corner * 2)


def test_zooming_out_adds_an_unknown_border() -> None:
    before = example()
    after = fit(before, (24, 32), View(zoom=0.5))
    inside = np.zeros((24, 32), np.bool_)
    inside[6:18, 8:24] = True
    for kind, truth in after.truths.items():
        assert np.array_equal(known(kind, truth), inside), kind
    assert (after.image[~inside] == 0).all() and after.image[inside].any()


def test_a_quarter_turn_turns_normals() -> None:
    before = example((24, 24))
    after = fit(before, (24, 24), View(angle=90))
    assert np.array_equal(after.image, np.rot90(before.image))
    turned = np.rot90(before.truths["normals"])
    wanted = np.stack([turned[..., 1], -turned[..., 0], turned[..., 2]], axis=-1)
    assert np.allclose(after.truths["normals"], wanted, atol=1e-6)
    askew = fit(before, (24, 24), View(angle=30))
    for kind, truth in askew.truths.items():
        assert not known(kind, truth)[0, 0], kind


def test_merged_pixels_keep_their_edges() -> None:
    edges = np.zeros((40, 40), np.uint8)
    edges[:, 17] = 1
    before = Example(np.zeros((40, 40, 3), np.uint8), {"edges": edges})
    after = fit(before, (8, 8))
    assert np.array_equal(np.unique(np.nonzero(after.truths["edges"])[1]), [3])
    assert after.truths["edges"].sum() == 8


def test_no_one_has_no_parts() -> None:
    before = example()
    before.truths["human_parts"][:] = 0
    assert (fit(before, (12, 16)).truths["human_parts"] == 255).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    continuous=st.booleans(),
)
def test_every_view_has_the_size(seed: int, height: int, width: int, continuous: bool) -> None:
    how = Augmentation(zooms=(0.75, 1.5), continuous=continuous, angle=20)
    view = View.draw(np.random.default_rng(seed), how)
    assert 0.75 <= view.zoom <= 1.5 and abs(view.angle) <= 20
    after = fit(example((17, 23)), (height, width), view)
    assert after.image.shape == (height, width, 3)
    for kind, truth in after.truths.items():
        assert truth.shape[:2] == (height, width), kind
        length = np.linalg.norm(truth, axis=-1) if kind == "normals" else None
        if length is not None:
            assert np.allclose(length[length > 0], 1, atol=1e-5)


def test_writers_differ(tmp_path: Path) -> None:
    """Opening one data set's folder as another's says what is missing."""
    write_cityscapes(tmp_path)
    with pytest.raises(ValueError, match="lacks gt_sets, images, segmentation, depth, normals"):
        open_dataset("nyud", tmp_path, "train")
