"""Scoring of backends, the baselines, and the record of the shipped checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moevit.model.checkpoint import load_shipped, read_training, shipped_path
from moevit.model.config import ModelConfig
from moevit.model.evaluation.baselines import Constant, LinearProbe, Pixels
from moevit.model.evaluation.evaluate import evaluate, float_backend
from moevit.model.evaluation.figures import command
from moevit.model.evaluation.metrics import LOWER_IS_BETTER, PRIMARY
from moevit.model.m3vit import M3ViT
from moevit.model.training.data import Cache, samples
from moevit.model.training.train import TrainConfig


@pytest.fixture(scope="module")
def pixels(micro: ModelConfig) -> Pixels:
    return Pixels.draw(Cache.open("train", 40, *micro.image, workers=1), each=50)


def test_a_perfect_backend_scores_perfectly(micro: ModelConfig) -> None:
    """Gives away the truth at full resolution in the units of each kind."""
    truths = list(samples("validation", 3, *micro.image))

    def backend(images: np.ndarray, task: str) -> np.ndarray:
        raws = []
        for image in images:
            sample = next(s for s in truths if np.array_equal(s.image, image))
            truth = getattr(sample, task)
            if task == "segmentation":
                raws.append(np.eye(10)[truth].transpose(2, 0, 1))
            elif task == "depth":
                raws.append(np.log(truth)[None])
            elif task == "normals":
                raws.append(truth.transpose(2, 0, 1))
            else:
                raws.append(np.where(truth, 9.0, -9.0)[None])
        return np.stack(raws).astype(np.float32)

    seen: list[int] = []
    results = evaluate(backend, micro, count=3, batch=2, on_progress=seen.append)
    assert seen == [2, 3]
    assert results["segmentation"]["miou"] == 1
    assert results["depth"]["rmse"] == pytest.approx(0, abs=1e-4)
    assert results["normals"]["mean_angle"] == pytest.approx(0, abs=0.1)
    assert results["edges"]["f"] == 1
    assert results["saliency"]["max_f"] == 1


def test_evaluation_of_some_tasks(model: M3ViT, micro: ModelConfig) -> None:
    results = evaluate(float_backend(model), micro, tasks=["edges"], count=2)
    assert list(results) == ["edges"]
    with pytest.raises(ValueError, match="not 'pose'"):
        evaluate(float_backend(model), micro, tasks=["pose"], count=2)
    with pytest.raises(ValueError, match="must be positive, not 0 and 25"):
        evaluate(float_backend(model), micro, count=0)
    with pytest.raises(ValueError, match=r"must give \(2, 1\) maps for task edges"):
        evaluate(lambda images, task: np.zeros((2, 3, 4, 4)), micro, tasks=["edges"], count=2)


def test_the_constant_is_the_same_everywhere(micro: ModelConfig, pixels: Pixels) -> None:
    backend = Constant(micro, pixels)
    images = np.zeros((2, *micro.image, 3), np.uint8)
    for task in micro.tasks:
        raw = backend(images, task.name)
        assert raw.shape == (2, task.channels, *micro.image)
        assert (raw == raw[:1, :, :1, :1]).all()
    depth = np.exp(backend(images, "depth")[0, 0, 0, 0])
    assert depth == pytest.approx(pixels.truths["depth"].mean(), rel=1e-5)


def test_the_probe_finds_a_linear_relation(micro: ModelConfig, pixels: Pixels) -> None:
    weights = np.array([0.1, -0.3, 0.2, 0.5, 1.0, 4.0], np.float32)
    label = (pixels.features[:, 4] > 0.3).astype(np.float32)
    truths = {**pixels.truths, "depth": pixels.features @ weights, "segmentation": label}
    probe = LinearProbe(micro, Pixels(pixels.features, truths))
    image = np.random.default_rng(0).integers(0, 256, (1, *micro.image, 3), dtype=np.uint8)
    depth = np.exp(probe(image, "depth")[0, 0])
    assert depth[0, 0] == pytest.approx(
        float(weights @ [*(image[0, 0, 0] / 127.5 - 1), -1, -1, 1]), rel=1e-4
    )
    labels = probe(image, "segmentation").argmax(1)[0]
    assert (labels[:10] == 0).all()
    assert (labels[-5:] == 1).all()


def test_cache_is_rendered_once_and_whole(
    micro: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path))
    first = Cache.open("train", 5, *micro.image, workers=1)
    assert len(first) == 5
    (folder,) = (tmp_path / "scenes").iterdir()
    monkeypatch.setattr(Cache, "_render", None)  # a second rendering would fail
    again = Cache.open("train", 5, *micro.image)
    for name in first.fields:
        assert np.array_equal(first.fields[name], again.fields[name])
    assert folder.name.startswith("train-5-16x32-")
    with pytest.raises(ValueError, match="at least one scene, not 0"):
        Cache.open("train", 0, *micro.image)


def test_interrupted_rendering_leaves_nothing(
    micro: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path))

    def stop(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("moevit.model.training.data._render_range", stop)
    with pytest.raises(KeyboardInterrupt):
        Cache.open("train", 5, *micro.image, workers=1)
    assert list((tmp_path / "scenes").iterdir()) == []


def test_command_repeats_the_training(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path / "x", amp="bf16", seed=3)
    words = command(config.describe())
    assert words.startswith("moevit train --size nano --output nano.safetensors")
    assert "--amp bf16" in words and "--data scenes" in words
    assert "--root" not in words
    assert "--seed 3" in words
    assert "--resume" not in words


@pytest.fixture(scope="module")
def shipped() -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = json.loads(
        shipped_path().with_suffix(".json").read_text()
    )
    return found


def test_shipped_model_beats_the_baselines(shipped: dict[str, dict[str, dict[str, float]]]) -> None:
    for task, metrics in shipped["float"].items():
        name = PRIMARY[task]
        for rival in ("constant", "linear_probe"):
            theirs = shipped[rival][task][name]
            if name in LOWER_IS_BETTER:
                assert metrics[name] < 0.8 * theirs, (task, rival)
            else:
                assert metrics[name] > 1.4 * theirs, (task, rival)


def test_shipped_record_is_of_the_shipped_checkpoint(
    shipped: dict[str, dict[str, dict[str, float]]],
) -> None:
    training = read_training(shipped_path())
    for name, value in training.items():
        assert shipped["training"][name] == value


@pytest.mark.slow
def test_shipped_model_scores_as_recorded(shipped: dict[str, dict[str, dict[str, float]]]) -> None:
    model = load_shipped()
    results = evaluate(float_backend(model), model.config, count=60)
    for task, metrics in results.items():
        name = PRIMARY[task]
        assert metrics[name] == pytest.approx(shipped["float"][task][name], rel=0.2), task
