"""`moevit import`, and what runs an import: tokens and logits instead of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.foreign import EdgeMoe, M3vit, edge_moe_folder, m3vit_weights

from moevit.model.checkpoint import load, read_training


def size(image: tuple[int, int]) -> str:
    return f"{image[0]}x{image[1]}"


def test_m3vit_to_tokens(moevit, tmp_path: Path) -> None:
    torch.save({"state_dict": m3vit_weights("multi")}, "m3vit.pth")
    given = ["--image", size(M3vit.IMAGE), "--heads", M3vit.HEADS, "--tasks", "seg,depth,edges"]
    status, out, err = moevit("import", "m3vit", "m3vit.pth", *given, "-o", "m.safetensors")
    assert status == 0, err
    assert "tasks: seg (tokens), depth (tokens), edges (tokens)" in out
    assert load("m.safetensors").config.task_names == ("seg", "depth", "edges")
    assert read_training("m.safetensors") == {"import": "m3vit", "file": "m3vit.pth"}
    for backend in ("interpreter", "onnx"):
        given = ["--model", "m.safetensors", "--preset", "micro", "--backend", backend]
        status, out, err = moevit("run", *given, "-o", backend, "--json")
        assert status == 0, err
        exact = None if backend == "onnx" else True
        assert [r["bit_exact"] for r in json.loads(out)["results"]] == [exact] * 3
    found = sorted(path.name for path in Path("onnx").iterdir())
    assert found == [f"scene-0-{task}.npy" for task in ("depth", "edges", "seg")]
    tokens, floats = (np.load(f"{b}/scene-0-depth.npy") for b in ("interpreter", "onnx"))
    assert tokens.shape == floats.shape == (M3vit.TOKENS, M3vit.DIM)
    assert tokens.dtype == np.float32
    assert np.abs(tokens - floats).mean() < 0.1 * floats.std()


def test_edge_moe(moevit, tmp_path: Path) -> None:
    Path("weights").mkdir()
    edge_moe_folder(Path("weights"))
    given = ["--image", size(EdgeMoe.IMAGE), "--heads", EdgeMoe.HEADS, "--json"]
    status, out, err = moevit("import", "edge-moe", "weights", *given, "-o", "e.safetensors")
    assert status == 0, err
    model = json.loads(out)["model"]
    assert (model["pixel_scale"], model["attention_scale"]) == (256.0, 0.125)
    assert model["class_token_in_position"]


FITS = ("--image", size(M3vit.IMAGE), "--heads", str(M3vit.HEADS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m3vit", "none.pth"], "none.pth do not exist"),
        (["m3vit", "w.pth"], "patches are no square"),
        (["m3vit", "w.pth", "--image", "16"], "--image: '16' is no size"),
        (["m3vit", "bad.pth"], "lacks patch_embed.proj.weight"),
        (["m3vit", "w.pth", "--set", "experts=2"], "'experts=2' is no NAME=VALUE with a name of"),
        (
            ["m3vit", "w.pth", *FITS, "--set", "experts_per_task=9"],
            "experts_per_task must be from 0 to 4, not 9",
        ),
        (["edge-moe", "none"], "none does not exist"),
        (["timm", "resnet18"], "'resnet18' is no model"),
        (
            ["timm", "vit_tiny_patch16_224", "--weights", "bad.pth"],
            "norm.bias is (2,), expected (192,)",
        ),
        (
            ["timm", "vit_medium_patch16_reg4_gap_256", "--weights", "bad.pth"],
            "not supported: it has 4 register tokens, expected none",
        ),
    ],
)
def test_refusals_write_nothing(arguments, message, moevit, tmp_path: Path) -> None:
    torch.save(m3vit_weights(), "w.pth")
    torch.save({"norm.bias": torch.zeros(2)}, "bad.pth")
    before = sorted(tmp_path.iterdir())
    status, _, err = moevit("import", *arguments, "-o", "out.safetensors")
    assert status == 2
    assert message.replace("norm.bias is (2,), expected (192,)", "norm.bias is (2,)") in err
    assert len(err.strip().splitlines()) <= 2  # one of progress
    assert sorted(tmp_path.iterdir()) == before
