"""The PyTorch model and its float parameters in NumPy compute the same."""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from moevit.model.config import SCENE_TASKS, ModelConfig
from moevit.model.export.float_network import to_float_network
from moevit.model.m3vit import M3ViT
from moevit.quant.operators.activations import ACTIVATIONS

CONFIG = ModelConfig(
    name="test",
    image=(16, 24),
    patch=8,
    dim=24,
    depth=4,
    heads=2,
    mlp_ratio=2.0,
    experts=4,
    top_k=2,
    expert_hidden=20,
    tasks=SCENE_TASKS,
    pixel_mean=(0.4, 0.5, 0.6),
    pixel_std=(0.2, 0.25, 0.3),
)


CONDITIONED = {"gate": "conditioned", "gate_task_dim": 5, "gate_task_hidden": 7}
ROUTING: list[dict[str, Any]] = [
    {"class_token": False},
    {"gate": "one", "prune_threshold": 0.3, "top_k": 4},
    {"gate_bias": True, "experts_per_task": 3, "renormalise": True},
    {"top_p": 0.6, "top_k": 3, "prune_threshold": 0.1},
    {**CONDITIONED, "gate_input_ahead": True, "moe_every": 1},
    {**CONDITIONED, "gate_bias": True, "experts_per_task": 2, "expert_starts": (2, 0, 1, 1, 0)},
    {"gate_input_ahead": True, "prune_threshold": 0.99, "renormalise": True, "moe_every": 3},
]


FUNCTIONS = [
    {"activation": dense, "expert_activation": expert}
    for dense, expert in pairwise(["gelu", *reversed(ACTIVATIONS)])
]


@pytest.mark.parametrize("changes", [{}, *ROUTING, *FUNCTIONS])
def test_same_function(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = M3ViT(dataclasses.replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    net = to_float_network(model)
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    outputs = net.run(images)
    assert list(outputs) == [task.name for task in SCENE_TASKS]
    for task in CONFIG.tasks:
        with torch.no_grad():
            expected = model(torch.from_numpy(images), task.name)  # (B, C, H', W')
        side = CONFIG.subpixels(task.name)
        tokens = torch.nn.functional.pixel_unshuffle(expected, side).flatten(2).transpose(1, 2)
        assert np.allclose(outputs[task.name], tokens.numpy(), atol=1e-4)
