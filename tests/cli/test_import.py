"""`moevit import`, and what runs an import: tokens and logits instead of images."""

from __future__ import annotations

import json
import pickle
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


class Runs:
    """What a pickle of it would do."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("pwned"),)


FITS = ("--image", size(M3vit.IMAGE), "--heads", str(M3vit.HEADS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m3vit", "none.pth"], "none.pth do not exist"),
        (["m3vit", "w.pth"], "patches are no square"),
        (["m3vit", "w.pth", "--image", "16"], "--image: expected HxW such as 128x256, not '16'"),
        (["m3vit", "bad.pth"], "lacks patch_embed.proj.weight"),
        (["m3vit", "w.pth", "--set", "experts=2"], "'experts=2' is no NAME=VALUE with a name of"),
        (
            ["m3vit", "w.pth", *FITS, "--set", "experts_per_task=9"],
            "experts_per_task must be from 0 to 4, not 9",
        ),
        (["m3vit", "w.pth", *FITS, "--top-k", "9"], "w.pth: Model top_k 9 must be at most"),
        (["m3vit", "w.pth", *FITS, "--mean", "nan", "0", "0"], "pixel_mean must be finite"),
        (["m3vit", "w.pth", *FITS, "--std", "nan", "1", "1"], "pixel_std must be positive"),
        (["m3vit", "."], "Weights . are a folder, expected a file"),
        (["m3vit", "code.pth"], "loading them would run code from the file"),
        (
            ["m3vit", "far.pth", *FITS],
            "far.pth: Experts are in blocks 1, 3; every 2 blocks of 1000",
        ),
        (["edge-moe", "none"], "none does not exist"),
        (["edge-moe", "w.pth"], "w.pth is a file, expected a folder of files *.float32.bin"),
        ([], "Missing command"),
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
    torch.save(m3vit_weights() | {"blocks.999.norm1.bias": torch.zeros(16)}, "far.pth")
    Path("code.pth").write_bytes(pickle.dumps(Runs()))  # of a protocol that torch warns of
    before = sorted(tmp_path.iterdir())
    output = ["-o", "out.safetensors"] if arguments else []
    status, _, err = moevit("import", *arguments, *output)
    assert status == 2
    assert message.replace("norm.bias is (2,), expected (192,)", "norm.bias is (2,)") in err
    assert len(err.strip().splitlines()) <= 2  # one of progress
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_below_a_file(moevit, tmp_path: Path) -> None:
    torch.save(m3vit_weights(), "w.pth")
    status, _, err = moevit("import", "m3vit", "w.pth", *FITS, "-o", "w.pth/out.safetensors")
    assert (status, err) == (2, "moevit: error: w.pth: is a file; expected a folder\n")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_files_beside_the_weights_are_named(moevit, tmp_path: Path) -> None:
    Path("weights").mkdir()
    edge_moe_folder(Path("weights"))
    Path("weights/l0_qkv_weight.int8.bin").write_bytes(b"1234")
    given = ["--image", size(EdgeMoe.IMAGE), "--heads", EdgeMoe.HEADS]
    status, out, err = moevit("import", "edge-moe", "weights", *given, "-o", "e.safetensors")
    assert status == 0, err
    assert "not needed: l0_qkv_weight.int8.bin" in out
