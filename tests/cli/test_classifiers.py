"""Classifiers scored on a folder of classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.micro import MICRO

from moevit.images import load_image
from moevit.model.checkpoint import store
from moevit.model.config import TaskConfig
from moevit.model.datasets import open_dataset
from moevit.model.evaluation.metrics import scorer
from moevit.model.m3vit import M3ViT
from moevit.quant.notes import Note

CLASSES = 12


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    task = TaskConfig(name="what", kind="classification", channels=CLASSES, stride=MICRO.patch)
    config = dataclasses.replace(MICRO, tasks=(task,), class_token=True)
    path = tmp_path_factory.mktemp("classifier") / "c.safetensors"
    store(M3ViT(config).eval(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        place = root / "val" / f"n{number:03d}"
        place.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            coarse = rng.integers(0, 256, (3, 6, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 32)).save(place / name)
        (place / "._a.png").write_bytes(b"\0\5\x16\7")
    return root


@pytest.mark.parametrize("backend", ["torch", "golden", "interpreter"])
def test_top_1_and_top_5(moevit, classifier, folder, backend) -> None:
    given = ("--model", classifier, "--preset", "micro", "--backend", backend)
    data = ("--data", "imagefolder", "--root", folder)
    status, out, err = moevit("eval", "--json", "--images", 24, *given, *data)
    assert status == 0, err
    assert "has no folder train; val is used" in err or backend == "torch"
    found = json.loads(out)
    assert found["images"] == 2 * CLASSES
    if backend == "torch":
        from moevit.model.checkpoint import load

        model, right = load(classifier).eval(), [0, 0]
        for number in range(CLASSES):
            for name in ("a.png", "b.png"):
                path = folder / "val" / f"n{number:03d}" / name
                height, width = MICRO.image
                pixels = load_image(path, height=height, width=width)
                with torch.inference_mode():
                    logits = model(torch.from_numpy(pixels[None]), "what")[0]
                best = logits.argsort(descending=True)[:5].tolist()
                right = [right[0] + (best[0] == number), right[1] + (number in best)]
        total = 2 * CLASSES
        assert found["tasks"]["what"] == {"top1": right[0] / total, "top5": right[1] / total}
        assert 0 < right[1] < total


def test_scenes_have_no_classes(moevit, classifier) -> None:
    status, _, err = moevit("eval", "--model", classifier, "--preset", "micro")
    assert status == 2
    assert "no truth for task what, classification; expected --data imagefolder --root DIR" in err


def test_another_number_of_classes(moevit, classifier, tmp_path) -> None:
    Image.new("RGB", (8, 8)).save((tmp_path / "cat").mkdir() or tmp_path / "cat" / "a.png")
    given = ("--data", "imagefolder", "--root", tmp_path)
    status, _, err = moevit("eval", "--model", classifier, *given)
    assert status == 2 and "has 1 channels of classification, not 12 as task what" in err
    status, _, err = moevit("train", *given, "-o", "x.safetensors")
    assert status == 2 and "imagefolder: is for calibrating and scoring" in err


def test_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        (tmp_path / "val" / str(number)).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / str(number) / "a.png")
    data = open_dataset("imagefolder", tmp_path, "validation")
    assert data.ids == ("0/a.png", "10/a.png", "2/a.png")
    assert [int(data.load(n).truths["classification"]) for n in range(3)] == [0, 2, 1]
    with pytest.warns(Note, match="has no folder train; val is used"):
        assert open_dataset("imagefolder", tmp_path, "train").ids == data.ids


def test_part_of_the_classes(tmp_path: Path) -> None:
    """Two folders of twelve classes have the numbers that the list gives them."""
    for name in ("n07", "n02"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name / "a.png")
    listed = [f"n{n:02d} class {n}, as one says" for n in range(CLASSES)]
    (tmp_path / "classes.txt").write_text("\n".join(listed))
    data = open_dataset("imagefolder", tmp_path, "validation")
    assert data.channels == {"classification": CLASSES}
    assert data.ids == ("n02/a.png", "n07/a.png")
    assert [int(data.load(n).truths["classification"]) for n in range(2)] == [2, 7]
    (tmp_path / "classes.txt").write_text("n02\nn03")
    with pytest.raises(ValueError, match=r"classes\.txt: lacks n07, which is a folder"):
        open_dataset("imagefolder", tmp_path, "validation")
    (tmp_path / "classes.txt").write_text("n02\nn07\nn02")
    with pytest.raises(ValueError, match=r"classes\.txt: has n02 twice"):
        open_dataset("imagefolder", tmp_path, "validation")


def test_pictures_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for name in ("a.png", "b c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name)
    with pytest.raises(ValueError, match=r"has no folders; expected .* a list .*val\.txt"):
        open_dataset("imagefolder", tmp_path, "validation")
    (tmp_path / "val.txt").write_text("a.png 3\nb c.png 0\n")
    data = open_dataset("imagefolder", tmp_path, "validation")
    assert data.channels == {"classification": 4} and len(data) == 2
    assert [int(data.load(n).truths["classification"]) for n in range(2)] == [3, 0]
    (tmp_path / "val.txt").write_text("a.png 3\nb.png\n")
    with pytest.raises(ValueError, match=r'line 2 is "b\.png"; expected "NAME NUMBER"'):
        open_dataset("imagefolder", tmp_path, "validation")


def test_ties_are_argmax_s() -> None:
    tally = scorer("classification", 7)
    logits = np.zeros((4, 7), np.float32)
    tally.update(logits, np.array([0, 4, 5, 6]))
    assert tally.result() == {"top1": 0.25, "top5": 0.5}
