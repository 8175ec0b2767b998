"""A data set from its folder to the accelerator: train, eval, quantize, compile, run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.datasets import WRITERS, write_cityscapes, write_cityscapes_arrays, write_nyud

from moevit.model.checkpoint import load
from moevit.model.config import PRESETS, ModelConfig
from moevit.sources import ImageSource, image_source


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A size of 16 x 32 pixels, beside the shipped ones."""
    config = dataclasses.replace(
        PRESETS["nano"],
        name="micro",
        image=(16, 32),
        dim=16,
        depth=2,
        heads=2,
        mlp_ratio=2.0,
        experts=3,
        expert_hidden=16,
    )
    monkeypatch.setitem(PRESETS, "micro", config)
    return config


TRAIN = ["--size", "micro", "--steps", 3, "--batch", 1, "--warmup", 1, "--threads", 1]


@pytest.mark.parametrize("name", list(WRITERS))
def test_from_the_folder_to_the_device(name: str, moevit, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path / "data")
    given = ["--data", name, "--root", root]
    status, out, err = moevit("train", *given, *TRAIN, "--log-every", 1, "-o", "m.safetensors")
    assert status == 0, err
    assert "m.safetensors: trained for 3 steps" in out
    assert "step 1/3: loss " in err and "left" in err and "step 3/3: validation: " in err
    status, out, err = moevit("eval", "--model", "m.safetensors", "--json", *given)
    assert status == 0, err
    exact = json.loads(out)
    assert exact["images"] == 3 and exact["data"] == name and exact["delta_m"] == 0
    status, out, err = moevit(
        "eval", "--model", "m.safetensors", "--json", *given, "--backend", "golden"
    )
    assert status == 0, err
    golden = json.loads(out)
    assert golden["tasks"].keys() == exact["tasks"].keys()
    for task, metrics in golden["tasks"].items():
        assert metrics.keys() == exact["tasks"][task].keys()
        assert np.isfinite(list(metrics.values())).all()
    image = next(root.rglob("*.jpg"), None) or next((root / "leftImg8bit").rglob("*.png"))
    status, out, err = moevit(
        *("run", image, "--model", "m.safetensors", "--preset", "micro", "--json"),
        *("--backend", "interpreter", *given),
    )
    assert status == 0, err
    results = json.loads(out)["results"]
    assert [r["task"] for r in results] == list(exact["tasks"])
    assert all(r["bit_exact"] for r in results)
    assert (tmp_path / "out").is_dir()


def test_training_prints_json_lines(moevit, tmp_path: Path) -> None:
    write_nyud(tmp_path / "data")
    given = ["--data", "nyud", "--root", "data", "--task", "depth,normals"]
    status, out, err = moevit(
        "train", *given, *TRAIN, "--json", "--log-every", 2, "--image-size", "32x32"
    )
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line.get("step") for line in lines] == [2, 3, 3, None]
    assert set(lines[-1]["tasks"]) == {"depth", "normals"}
    assert set(lines[0]) > {"depth", "normals", "total", "rate", "gradient", "seconds"}


def test_ctrl_c_says_how_to_go_on(moevit, tmp_path: Path, monkeypatch) -> None:
    from moevit.model.training.trainer import Trainer

    write_nyud(tmp_path / "data")
    arguments = ["train", "--data", "nyud", "--root", "data", *TRAIN]
    advance = Trainer.advance
    monkeypatch.setattr(
        Trainer, "advance", lambda self, batch, *, stop: advance(self, batch, stop=True)
    )
    status, out, err = moevit(*arguments)
    assert (status, out) == (130, "")
    assert "model.safetensors: stopped after step 1 of 3, all saved; the same command" in err
    assert "--resume goes on" in err
    monkeypatch.setattr(Trainer, "advance", advance)
    status, out, err = moevit(*arguments, "--resume")
    assert status == 0 and "trained for 3 steps" in out


def test_seven_or_nineteen_classes(moevit, tmp_path: Path) -> None:
    """Both sets of labels of Cityscapes' packages; of MTAN's arrays the one that is there."""
    root = write_cityscapes(tmp_path / "data")
    given = ["--data", "cityscapes", "--root", root]
    for classes in (7, 19):
        name = f"{classes}.safetensors"
        arguments = ["train", *given, *TRAIN, "--classes", classes, "--validation", 0, "-o", name]
        status, _, err = moevit(*arguments)
        assert status == 0, err
        assert load(tmp_path / name).config.task("segmentation").channels == classes
        status, out, err = moevit("eval", "--model", name, "--json", *given, "--backend", "golden")
        assert status == 0, err
        assert json.loads(out)["images"] == 3
    arrays = write_cityscapes_arrays(tmp_path / "arrays")
    status, _, err = moevit(
        *("train", "--data", "cityscapes", "--root", arrays, *TRAIN),
        *("--classes", 19, "-o", "arrays.safetensors"),
    )
    assert status == 2 and "lacks train/label_19; expected Cityscapes with" in err
    assert not (tmp_path / "arrays.safetensors").exists()


def test_calibration_on_your_own_images(moevit, checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(5):
        pixels = rng.integers(0, 256, (20 + n, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    (folder / "notes.txt").write_text("not an image")
    given = ["--model", checkpoint, "--json"]
    status, out, err = moevit("quantize", *given, "--calibration", folder, "-o", "a.safetensors")
    assert status == 0, err
    assert json.loads(out)["images"] == 5
    files = [word for n in range(5) for word in ("--calibration", folder / f"{n}.png")]
    status, out, err = moevit("quantize", *given, *files, "-o", "b.safetensors")
    assert status == 0, err
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    status, _, err = moevit("quantize", *given, "-o", "c.safetensors")
    assert status == 0, err
    assert Path("a.safetensors").read_bytes() != Path("c.safetensors").read_bytes()
    micro = ["--preset", "micro", "--calibration", folder]
    status, out, err = moevit("compile", *given, *micro, "-o", "a.program")
    assert status == 0, err
    status, out, err = moevit("run", *given, *micro, "--backend", "interpreter", folder / "1.png")
    assert status == 0, err
    assert all(r["bit_exact"] for r in json.loads(out)["results"])
    status, out, err = moevit(
        *("quantize", *given, "--calibration", folder / "1.png", "-o", "d.safetensors"),
        *("--report", "r", "--scenes", 2),
    )
    assert status == 0, err
    found = json.loads(Path("r/report.json").read_text())
    assert found["images"] == 1 and not found["scored"]  # that picture, which has no truth
    status, _, err = moevit("compile", "--model", "a.safetensors", *micro)
    assert status == 2 and "--calibration: a.safetensors is quantised already" in err


def test_pictures_unlike_the_calibration_get_a_note(moevit, checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png")
    Image.fromarray(noise // 32 + 100).save("dull.png")
    given = ["--model", checkpoint, "--preset", "micro", "--backend", "golden", "--task", "depth"]
    status, _, err = moevit("run", *given, "--calibration", "dull.png", "noise.png")
    assert status == 0 and err.count("\n") == 1
    assert "noise.png is unlike what" in err and "at the ends of the ranges" in err
    assert moevit("run", *given, "--calibration", "noise.png", "noise.png")[::2] == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "nyud"], "--root: data nyud needs its folder"),
        (["train", "--data", "nyud", "--root", "no"], "no: no such folder; expected that of"),
        (["train", "--data", "kitti", "--root", "."], "must be one of nyud, pascal_context"),
        (["train", "--root", "."], "data scenes needs no root, not ."),
        (["train", "--data", "nyud", "--root", "."], ".: lacks gt_sets, images, segmentation"),
        (
            ["train", "--data", "cityscapes", "--root", ".", "--task", "normals"],
            "--task: unknown task 'normals'; expected segmentation, depth, all",
        ),
        (["train", "--classes", 7], "--classes: needs --data"),
        (
            ["train", "--data", "cityscapes", "--root", ".", "--classes", 8],
            "Cityscapes has 7 or 19 classes, not 8",
        ),
        (
            ["train", "--data", "nyud", "--root", ".", "--classes", 7],
            "NYUD-v2 has 40 classes, not 7",
        ),
        (["eval", "--data", "nyud"], "--root: data nyud needs its folder"),
        (["eval", "--root", "."], "--root: . needs --data"),
        (["eval", "--data", "kitti", "--root", "."], "--data: unknown data set 'kitti'"),
        (["quantize", "--calibration", "x.png"], "x.png: no such file"),
        (["compile", "--calibration", "."], ".: has no images; expected files ending in .png"),
        (
            ["compile", "--image-size", "128x256", "--data", "nyud", "--root", "."],
            "--image-size: cannot be given together with --data",
        ),
        (
            ["run", "--data", "nyud", "--root", ".", "--calibration", "."],
            "--calibration: cannot be given together with --data",
        ),
    ],
)
def test_mistakes_are_named(arguments, message: str, moevit, tmp_path: Path) -> None:
    status, out, err = moevit(*arguments)
    assert (status, out) == (2, "") and message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.state"))


def test_scenes_do_not_score_what_they_do_not_know(moevit, checkpoint, tmp_path: Path) -> None:
    root = write_nyud(tmp_path / "data")
    given = ["--data", "nyud", "--root", root, *TRAIN, "--validation", 0]
    assert moevit("train", *given, "-o", "m.safetensors")[0] == 0
    status, _, err = moevit("eval", "--model", "m.safetensors")
    assert status == 2
    assert "rendered scenes have no truth for task segmentation, segmentation of 40" in err
    status, _, err = moevit("eval", "--model", checkpoint, "--data", "nyud", "--root", root)
    assert status == 2 and "NYUD-v2 has 40 classes, not 10" in err
    note = (
        "note: m.safetensors was trained on nyud and is calibrated on rendered scenes; --data nyud"
    )
    status, _, err = moevit(
        *("run", "--model", "m.safetensors", "--preset", "micro", "--backend", "golden")
    )
    assert status == 0 and note in err
    status, _, err = moevit("quantize", "--model", "m.safetensors", "-o", "q.safetensors")
    assert status == 0 and note in err
    status, _, err = moevit(
        "quantize", "--model", "m.safetensors", *given[:4], "-o", "q.safetensors"
    )
    assert (status, err) == (0, "")


def test_the_key_follows_the_files(tmp_path: Path) -> None:
    root = write_nyud(tmp_path / "data")
    source = image_source("nyud", root)
    assert source.key() == image_source("nyud", root).key()
    other = shutil.copytree(root, tmp_path / "other")
    assert source.key() != image_source("nyud", other).key()
    assert image_source().key() == "" and image_source().is_default
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    first = image_source(files=[tmp_path / "a.png"]).key()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    assert first != image_source(files=[tmp_path / "a.png"]).key()


def test_calibration_images_are_spread(tmp_path: Path, micro: ModelConfig) -> None:
    for n in range(10):
        Image.new("RGB", (32, 16), (n, n, n)).save(tmp_path / f"{n}.png")
    source = image_source(files=[tmp_path])
    assert source.calibration(micro, 4)[:, 0, 0, 0].tolist() == [0, 2, 5, 7]
    assert len(source.calibration(micro, 64)) == 10
    assert ImageSource().describe(3) == "3 rendered scenes"
    with pytest.raises(ValueError, match="at least one image, not 0"):
        source.calibration(micro, 0)
