"""Weights of another model to start from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from moevit.model.checkpoint import store
from moevit.model.config import ModelConfig, TaskConfig
from moevit.model.m3vit import M3ViT
from moevit.model.training.settings import TrainConfig
from moevit.model.training.start import start_from
from moevit.model.training.trainer import Trainer


def other(micro: ModelConfig) -> ModelConfig:
    """Two of the tasks, the other way round, and other heads."""
    tasks = (micro.tasks[1], micro.tasks[0])
    return dataclasses.replace(micro, tasks=tasks, decoder="upsampling", decoder_width=5)


def test_what_fits_is_copied(micro: ModelConfig, tmp_path: Path) -> None:
    source = M3ViT(dataclasses.replace(micro, gate_bias=True))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    store(source, tmp_path / "m")
    model = M3ViT(dataclasses.replace(other(micro), gate_bias=True))
    left = start_from(model, tmp_path / "m")
    assert left == tuple(name for name in model.state_dict() if name.startswith("heads."))
    theirs = source.state_dict()
    for name, tensor in model.state_dict().items():
        if ".router." in name:
            assert torch.equal(tensor, theirs[name][[1, 0]]), name
        elif name not in left:
            assert torch.equal(tensor, theirs[name]), name


def test_training_starts_there(micro: ModelConfig, tmp_path: Path) -> None:
    source = M3ViT(micro)
    store(source, tmp_path / "m")
    config = TrainConfig(
        out=tmp_path / "o", model=other(micro), start=tmp_path / "m", ema=0.9, seed=5
    )
    trainer = Trainer(config)
    for model in (trainer.model, trainer.average):
        assert model is not None
        assert torch.equal(model.pos_embed, source.pos_embed)
    assert "start" not in config.describe()


def test_a_task_that_is_not_there(micro: ModelConfig, tmp_path: Path) -> None:
    store(M3ViT(micro), tmp_path / "m")
    tasks = (micro.tasks[0], TaskConfig(name="new", kind="depth", channels=1, stride=2))
    left = start_from(M3ViT(dataclasses.replace(micro, tasks=tasks)), tmp_path / "m")
    assert any(".router." in name for name in left)
    assert not any(".attn." in name for name in left)


def test_refusals(micro: ModelConfig, tmp_path: Path) -> None:
    store(M3ViT(micro), tmp_path / "m")
    with pytest.raises(ValueError, match=f"{tmp_path / 'none'}"):
        start_from(M3ViT(micro), tmp_path / "none")
    tasks = (dataclasses.replace(micro.tasks[0], name="other", channels=7),)
    wide = dataclasses.replace(micro, dim=24, expert_hidden=7, mlp_ratio=1.0, tasks=tasks)
    with pytest.raises(ValueError, match="m has no weight that this model has"):
        start_from(M3ViT(wide), tmp_path / "m")
