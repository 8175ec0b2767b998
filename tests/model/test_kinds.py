"""Every kind of task, from a truth to a picture, by what its object says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moevit.cli.panel import Row, draw
from moevit.model.config import SCENE_KINDS, scene_task
from moevit.model.evaluation.metrics import PRIMARY, scorer
from moevit.model.kinds import TASK_KINDS, TaskKind, task_kind
from moevit.model.scenes.render import scene
from moevit.model.tasks import decode, known, predict
from moevit.model.training.losses import RECIPES, task_loss

SAMPLE = scene("train", 3, 16, 32)


@pytest.fixture(params=[TASK_KINDS[name] for name in SCENE_KINDS], ids=SCENE_KINDS)
def kind(request: pytest.FixtureRequest) -> TaskKind:
    return request.param


def channels(kind: TaskKind) -> int:
    return scene_task(kind.name, 2).channels


def truth(kind: TaskKind) -> np.ndarray:
    return getattr(SAMPLE, kind.name)[None]


def test_a_raw_output_means_what_a_truth_is(kind: TaskKind) -> None:
    raw = np.random.default_rng(0).normal(size=(1, channels(kind), 8, 16)).astype(np.float32)
    found = predict(kind.name, raw, (16, 32))
    assert found.shape == truth(kind).shape and np.isfinite(found).all()
    assert known(kind.name, truth(kind)).any()


def test_scores_know_the_best(kind: TaskKind) -> None:
    """A truth scores better against itself than another output does."""
    best, other = scorer(kind.name, channels(kind)), scorer(kind.name, channels(kind))
    labels = kind.channels is None
    best.update(truth(kind) if labels else truth(kind).astype(np.float32), truth(kind))
    wrong = np.random.default_rng(0).normal(size=(1, channels(kind), 16, 32)).astype(np.float32)
    other.update(decode(kind.name, wrong), truth(kind))
    metric = PRIMARY[kind.name]
    gain = best.result()[metric] - other.result()[metric]
    assert gain * (-1 if kind.lower_is_better else 1) > 0


def test_training_finds_a_constant(kind: TaskKind) -> None:
    """A few steps on a constant output bring the loss down, and about to the best one's."""
    tensor, recipe = torch.from_numpy(truth(kind)), RECIPES["scenes"]
    value = torch.full((channels(kind),), 0.1, requires_grad=True)
    optimiser = torch.optim.Adam([value], lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        raw = value[None, :, None, None].expand(1, -1, 16, 32)
        loss = task_loss(kind.name, raw, tensor, recipe)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    flat = truth(kind).reshape(-1, *truth(kind).shape[3:]).astype(np.float32)
    best = kind.constant(flat, channels(kind))
    assert best.shape == value.shape
    raw = torch.from_numpy(best)[None, :, None, None].expand(1, -1, 16, 32)
    assert float(task_loss(kind.name, raw, tensor, recipe)) < losses[0]
    features = np.random.default_rng(0).normal(size=(len(flat), 6)).astype(np.float32)
    assert kind.probe(features, flat, channels(kind)).shape == (6, channels(kind))


def test_what_the_cache_keeps_and_mirrors(kind: TaskKind) -> None:
    kept = kind.keep(truth(kind))
    assert kept.dtype == kind.kept[0] and kept.shape[3:] == kind.kept[1]
    again = kind.kept_truth(kept)
    assert np.abs(again.astype(np.float64) - truth(kind)).max() < 0.01
    twice = kind.mirrored(kind.mirrored(again))
    assert np.array_equal(twice, again)


def test_it_can_be_shown(kind: TaskKind) -> None:
    pixels = truth(kind)[0]
    name, unit, form = kind.shown
    assert f"{name} {form.format(0.5)}{unit}"
    draw(SAMPLE.image, [Row(task="x", kind=kind.name, columns=[("truth", pixels)])], title="t")


def test_names() -> None:
    assert all(name == kind.name for name, kind in TASK_KINDS.items())
    with pytest.raises(
        ValueError, match=r"Task kind must be one of segmentation, .*, not 'colour'"
    ):
        task_kind("colour")
