"""Training: schedule, batches, exact resumption, and that it learns."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moevit.model.checkpoint import load, read_training
from moevit.model.config import ModelConfig
from moevit.model.scenes.render import scene
from moevit.model.training.batches import Ahead, Batches, Scenes
from moevit.model.training.data import Cache
from moevit.model.training.losses import task_loss
from moevit.model.training.train import TrainConfig, Trainer, learning_rate, train


@pytest.fixture
def config(micro: ModelConfig, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        out=tmp_path / "micro.safetensors",
        model=micro,
        steps=4,
        batch=2,
        scenes=24,
        warmup=2,
        log_every=1,
        save_every=2,
        validate_every=4,
        validation=2,
        device="cpu",
    )


def batches_of(config: TrainConfig) -> Batches:
    cache = Cache.open("train", config.scenes, *config.model.image, workers=1)
    return Batches(Scenes(cache), config.model, config.batch, config.seed)


def test_rate_rises_stays_and_falls(config: TrainConfig) -> None:
    config = dataclasses.replace(config, steps=110, warmup=10, decay=0.4, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:71] == pytest.approx([1.0] * 62)
    assert rates[90] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[70:]))
    assert rates[-1] < 0.01
    cosine = dataclasses.replace(config, decay=1.0)
    assert learning_rate(cosine, 60) == pytest.approx(0.5)


def test_an_epoch_shows_each_scene_once(config: TrainConfig) -> None:
    batches = batches_of(config)
    assert batches.size == 10
    first = np.concatenate([batches._indices(step) for step in (0, 1)])
    assert len(set(first)) == 20
    second = np.concatenate([batches._indices(step) for step in (2, 3)])
    assert len(set(second)) == 20
    assert not np.array_equal(first, second)


def test_workers_share_a_batch(config: TrainConfig) -> None:
    """Each has its part of the batch that one worker would have alone."""
    batches = batches_of(config)
    whole = batches[5]
    parts = [dataclasses.replace(batches, rank=rank, workers=2)[5] for rank in (0, 1)]
    assert [part.counts for part in parts] == [(1,) * 5] * 2
    for rank, (part, piece) in enumerate(zip(parts, whole.parts(2), strict=True)):
        assert torch.equal(part.images, piece.images)
        assert torch.equal(part.images, whole.images[rank::2])
        for name, truth in part.truths.items():
            assert torch.equal(truth, piece.truths[name])
            assert torch.equal(truth, whole.truths[name][rank : rank + 1])


def test_batches_drawn_ahead_are_the_same(config: TrainConfig) -> None:
    batches = batches_of(config)
    with Ahead(batches, 2) as ahead:
        for step in range(3, 8):
            assert torch.equal(ahead[step].images, batches[step].images)


def test_batches_hold_the_scenes_truths(config: TrainConfig, micro: ModelConfig) -> None:
    """Undo the flip by trying both, and find the scene that the drawn index names."""
    batches = batches_of(config)
    batch = batches[3]
    indices = batches._indices(3)
    for number, task in enumerate(micro.tasks):
        for place in range(2):
            sample = scene("train", int(indices[2 * number + place]), *micro.image)
            truth = getattr(sample, task.kind).astype(np.float32)
            drawn = batch.truths[task.name][place].float().numpy()
            turned = truth[:, ::-1].copy()
            if task.kind == "normals":
                turned[..., 0] *= -1
            assert any(np.allclose(drawn, way, atol=5e-3) for way in (truth, turned))


def test_loss_of_perfect_outputs_is_small() -> None:
    size = (1, 4, 4)
    labels = torch.arange(16).view(size) % 3
    logits = 50 * torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert task_loss("segmentation", logits, labels) < 1e-6
    depth = torch.rand(size) + 1
    assert task_loss("depth", depth.log()[:, None], depth) < 1e-6
    normals = torch.nn.functional.normalize(torch.randn(1, 4, 4, 3), dim=-1)
    assert task_loss("normals", 3 * normals.permute(0, 3, 1, 2), normals) < 1e-6
    edges = torch.rand(size) > 0.5
    assert task_loss("edges", 50 * (2 * edges.float() - 1)[:, None], edges) < 1e-6
    with pytest.raises(ValueError, match="not 'flow'"):
        task_loss("flow", depth[:, None], depth)


@pytest.mark.parametrize(
    "model",
    [
        {},
        {
            "gate": "conditioned",
            "gate_task_dim": 4,
            "gate_input_ahead": True,
            "experts_per_task": 3,
            "renormalise": True,
            "prune_threshold": 0.3,
        },
        {"gate": "one", "decoder": "upsampling", "decoder_width": 6},
    ],
)
def test_resuming_changes_nothing(config: TrainConfig, model: dict[str, object]) -> None:
    changed = dataclasses.replace(config.model, **model)  # type: ignore[arg-type]
    config = dataclasses.replace(config, model=changed)
    batches = batches_of(config)
    straight = Trainer(config)
    for step in range(4):
        straight.advance(batches[step])

    before = Trainer(config)
    for step in range(2):
        before.advance(batches[step])
    before.save()
    torch.manual_seed(12345)
    after = Trainer(config)
    after.restore()
    assert after.step == 2
    for step in range(2, 4):
        after.advance(batches[step])
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], tensor), name
    assert straight.optimiser.state_dict()["state"].keys() == (
        after.optimiser.state_dict()["state"].keys()
    )


def test_a_plateau_may_be_extended(config: TrainConfig) -> None:
    config = dataclasses.replace(config, steps=100, decay=0.5, warmup=0)
    trainer = Trainer(config)
    trainer.step = 50
    trainer.save()
    Trainer(dataclasses.replace(config, steps=400)).restore()
    trainer.step = 51  # the fall has begun
    trainer.save()
    with pytest.raises(ValueError, match="has steps 100, not 400"):
        Trainer(dataclasses.replace(config, steps=400)).restore()


def test_train_writes_a_checkpoint_and_a_log(config: TrainConfig) -> None:
    results = train(config)
    assert set(results) == set(config.model.task_names)
    assert load(config.out).config == config.model
    assert read_training(config.out)["step"] == 4
    records = [json.loads(line) for line in config.log_path.read_text().splitlines()]
    assert [r["step"] for r in records if "total" in r] == [1, 2, 3, 4]
    assert records[-1]["validation"]["depth"]["rmse"] > 0
    assert train(dataclasses.replace(config, resume=True)) == {}  # nothing left to do


@pytest.mark.parametrize("gate", [{}, {"top_p": 0.5, "top_k": 3}], ids=["top-k", "top-p"])
def test_training_fits_a_few_scenes(config: TrainConfig, gate: dict[str, Any]) -> None:
    size = dataclasses.replace(config.model, **gate)
    config = dataclasses.replace(config, model=size, steps=60, learning_rate=5e-3)
    batches, trainer = batches_of(config), Trainer(config)
    totals = [trainer.advance(batches[step])["total"] for step in range(60)]
    assert np.mean(totals[-10:]) < 0.75 * np.mean(totals[:5])


@pytest.mark.slow
def test_two_workers_train_one_model(config: TrainConfig) -> None:
    config = dataclasses.replace(config, workers=2, threads=1)
    assert set(train(config)) == set(config.model.task_names)
    first = load(config.out).state_dict()
    train(config)
    for name, tensor in load(config.out).state_dict().items():
        assert torch.equal(first[name], tensor), name


def test_broken_states_are_named(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"no training state .*micro\.state to resume from"):
        Trainer(config).restore()
    Trainer(config).save()
    with pytest.raises(ValueError, match="has seed 0, not 1"):
        Trainer(dataclasses.replace(config, seed=1)).restore()
    other = dataclasses.replace(config.model, depth=1)
    with pytest.raises(ValueError, match="of another model"):
        Trainer(dataclasses.replace(config, model=other)).restore()
    config.state_path.write_bytes(config.state_path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"micro\.state is not readable"):
        Trainer(config).restore()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be positive, not 0"),
        ({"seed": -1}, "seed must not be negative, not -1"),
        ({"clip": 0.0}, "clip must be positive, not 0.0"),
        ({"decay": 0.0}, "decay must be above 0 and at most 1, not 0.0"),
        ({"workers": 3}, "batch 2 must divide by workers 3"),
        ({"accumulate": 4}, "batch 2 must divide by workers 1 times accumulate 4"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, not 1.0"),
        ({"amp": "int8"}, "amp must be one of none, bf16, fp16, not 'int8'"),
        ({"data": "kitti"}, "one of scenes, nyud, pascal_context, cityscapes, imagefolder"),
        ({"data": "nyud"}, "data nyud needs a root, its folder, not None"),
        ({"root": Path("x")}, "data scenes needs no root, not x"),
    ],
)
def test_bad_settings_are_refused(
    config: TrainConfig, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_bad_device_and_too_few_scenes(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="must be auto, cpu or cuda, not 'abacus'"):
        Trainer(dataclasses.replace(config, device="abacus"))
    with pytest.raises(ValueError, match=r"batch of 10 images .* needs at least as many, not 4"):
        train(dataclasses.replace(config, scenes=4))


def test_the_page_has_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    table = page[page.index("## Options") : page.index("**Accumulating**")]
    for field in dataclasses.fields(TrainConfig):
        if field.name not in ("out", "model"):
            assert f"`--{field.name.replace('_', '-')}`" in table, field.name
