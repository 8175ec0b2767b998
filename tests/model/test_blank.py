"""Networks without weights have the sizes of those with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from moevit.model.blank import blank_network
from moevit.model.config import ModelConfig, TaskConfig
from moevit.model.export.float_network import to_float_network
from moevit.model.m3vit import M3ViT
from moevit.quant.io import save_network
from moevit.quant.network import Network
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.options import Options
from moevit.quant.ptq.quantize import quantise

SMALL = ModelConfig(
    name="small",
    image=(16, 24),
    patch=8,
    dim=16,
    depth=2,
    heads=2,
    mlp_ratio=2.0,
    experts=4,
    top_k=2,
    expert_hidden=12,
    tasks=(
        TaskConfig(name="depth", kind="depth", channels=1, stride=4),
        TaskConfig(name="what", kind="classification", channels=5, stride=8),
    ),
)

TOKENS = TaskConfig(name="depth", kind="tokens", channels=16, stride=8)


def shapes(network: Network, path: Path) -> dict[str, tuple[int, ...]]:
    """Of every tensor in the network's file."""
    save_network(network, path)
    with safe_open(path, framework="np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mean_pool": True, "class_token": False},
        {"distilled": True, "moe_every": 1},
        {"experts_per_task": 3, "gate_input_ahead": True, "top_k": 3},
        {"tasks": (TOKENS,), "final_norm": False},
        {"pre_norm": True, "registers": 3, "gate_input_ahead": True},
        {"pool_norm": True, "mean_pool": True, "final_norm": False, "tasks": SMALL.tasks[1:]},
        {"decoder": "upsampling", "decoder_width": 7},
        {"decoder": "upsampling", "tasks": SMALL.tasks[:1], "final_norm": False},
    ],
)
def test_the_shapes_are_those_of_a_model(changes: dict, tmp_path: Path) -> None:
    config = replace(SMALL, **changes)
    torch.manual_seed(0)
    float_network = to_float_network(M3ViT(config).eval())
    images = np.random.default_rng(0).integers(0, 256, (2, *config.image, 3)).astype(np.uint8)
    bits = Options(expert_bits=4)
    real = quantise(float_network, calibrate(float_network, images), bits)
    blank = blank_network(config, expert_bits=4)
    assert shapes(blank, tmp_path / "blank") == shapes(real, tmp_path / "real")
    assert blank.geometry == real.geometry
    assert blank.tasks == real.tasks
    for a, b in zip(blank.blocks, real.blocks, strict=True):
        assert type(a.mlp) is type(b.mlp)
        if hasattr(a.mlp, "gate"):
            assert a.mlp.gate == b.mlp.gate
            assert a.mlp.starts == b.mlp.starts
            assert a.mlp.experts[0].fc1.weight_bits == 4
            per_task = [sum(usage) for usage in a.mlp.usage.values()]
            assert per_task == [config.tokens * config.top_k] * len(per_task)
