"""A network and a training set small enough for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from moevit.model.config import ModelConfig, TaskConfig
from moevit.model.m3vit import M3ViT


@pytest.fixture(scope="session")
def micro() -> ModelConfig:
    """Two blocks, 9 tokens of 16 channels, four experts, all kinds of task."""
    channels = {"segmentation": 10, "depth": 1, "normals": 3, "edges": 1, "saliency": 1}
    return ModelConfig(
        name="micro",
        image=(16, 32),
        patch=8,
        dim=16,
        depth=2,
        heads=2,
        mlp_ratio=2.0,
        experts=4,
        top_k=2,
        expert_hidden=8,
        tasks=tuple(
            TaskConfig(name=kind, kind=kind, channels=count, stride=4)
            for kind, count in channels.items()
        ),
    )


@pytest.fixture
def model(micro: ModelConfig) -> M3ViT:
    torch.manual_seed(0)
    return M3ViT(micro).eval()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps what tests render out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOEVIT_CACHE", str(folder))
        yield folder
