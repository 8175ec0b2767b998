"""`moevit import`, and what runs an import: tokens and logits instead of images."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.foreign import EdgeMoe, M3vit, edge_moe_folder, m3vit_weights

from moevit.model import _timm  # noqa: F401  (first, so that timm can be imported)
from moevit.model.checkpoint import load, read_training

# isort: split
import timm
from timm.data import create_transform, resolve_data_config


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
        if backend == "interpreter":
            assert "m.safetensors is imported and is calibrated on rendered scenes" in err
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
        (["m3vit", "bad.pth"], "lack patch_embed.proj.weight, with any prefix"),
        (["m3vit", "two.pth", *FITS], "several networks: a, b; choose one (--weights-key)"),
        (["m3vit", "w.pth", *FITS, "--config", "w.pth"], "w.pth: not a YAML file"),
        (
            ["m3vit", "w.pth", *FITS, "--set", "experts_per_task=2"],
            "they need one gate for all tasks",
        ),
        (["m3vit", "w.pth", *FITS, "--expert-starts", "x"], "expected whole numbers separated"),
        (["m3vit", "w.pth", "--set", "experts=2"], "'experts=2' is no NAME=VALUE with a name of"),
        (
            ["m3vit", "one.pth", *FITS, "--set", "experts_per_task=9"],
            "experts_per_task must be from 0 to 4, not 9",
        ),
        (["m3vit", "w.pth", *FITS, "--top-k", "9"], "w.pth: Model top_k 9 must be at most"),
        (["m3vit", "w.pth", *FITS, "--mean", "nan", "0", "0"], "pixel_mean must be finite"),
        (["m3vit", "w.pth", *FITS, "--std", "nan", "1", "1"], "pixel_std must be positive"),
        (["m3vit", "."], "Weights . are a folder, expected files 0.pth, 1.pth"),
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
            "lack patch_embed.proj.weight, with any prefix; they hold norm.bias",
        ),
        (["timm", "vit_small_patch16_dinov3", "--weights", "w.pth"], "has rotary positions (Eva)"),
        (
            ["timm", "vit_tiny_patch16_224", "--weights", "w.pth", "--model-kwargs", "depth"],
            "--model-kwargs: 'depth' is no NAME=VALUE",
        ),
        (
            ["timm", "vit_tiny_patch16_224", "--weights", "t.pth", "--crop-mode", "wide"],
            "crops 'wide'; expected one of lanczos, bicubic, bilinear, nearest, hamming, box and of"
            " cover, center, squash, border",
        ),
        (
            ["timm", "vit_tiny_patch16_224", "--weights", "w.pth", "--model-kwargs", "deep=2"],
            "timm cannot build 'vit_tiny_patch16_224'",
        ),
    ],
)
def test_refusals_write_nothing(arguments, message, moevit, tmp_path: Path) -> None:
    torch.save(m3vit_weights(), "w.pth")
    torch.save(m3vit_weights("one"), "one.pth")
    torch.save({"a": m3vit_weights(), "b": m3vit_weights()}, "two.pth")
    torch.save({"norm.bias": torch.zeros(2)}, "bad.pth")
    tiny = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    torch.save(tiny.state_dict(), "t.pth")
    torch.save(m3vit_weights() | {"blocks.999.norm1.bias": torch.zeros(16)}, "far.pth")
    Path("code.pth").write_bytes(pickle.dumps(Runs()))  # of a protocol that torch warns of
    before = sorted(tmp_path.iterdir())
    output = ["-o", "out.safetensors"] if arguments else []
    status, _, err = moevit("import", *arguments, *output)
    assert status == 2
    assert message in err
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


CONFIG = """
train_db_name: CityScapes
backbone_kwargs: {img_size: [16, 24], num_heads: 2, moe_top_k: 1}
head_kwargs: {align_corners: False}
"""


def test_what_was_assumed_is_printed(moevit, tmp_path: Path) -> None:
    torch.save({"state_dict": m3vit_weights("one"), "epoch": 3}, "w.pth")
    status, out, err = moevit("import", "m3vit", "w.pth", *FITS)
    assert status == 0, err
    assert "note: left aside: epoch" in out
    assert "note: assumed, as the file does not say: 2 experts a token; " in out
    Path("c.yml").write_text(CONFIG)
    given = ["--config", "c.yml", "--set", "experts_per_task=2", "--expert-starts", "1,2"]
    given += ["--tasks", "a,b", "--json"]
    status, out, err = moevit("import", "m3vit", "w.pth", *given)
    assert status == 0, err
    model = json.loads(out)["model"]
    assert (model["top_k"], model["expert_starts"]) == (1, [1, 2])
    assert (model["pixel_mean"], model["pixel_std"]) == ([0.0] * 3, [1.0] * 3)


def test_timm_runs_as_timm_sees_pictures(moevit, tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes).eval()
    torch.save({"ema": theirs.state_dict(), "raw": theirs.state_dict()}, "w.pth")
    given = ["--model-kwargs", "num_heads=3", "--model-kwargs", "embed_dim=48"]
    given += ["--image", "32x32", "--crop-pct", "0.5", "--weights-key", "ema", "--json"]
    given += ["--crop-mode", "squash"]
    status, out, err = moevit(
        "import",
        "timm",
        "vit_tiny_patch16_224",
        "--weights",
        "w.pth",
        *given,
        "-o",
        "m.safetensors",
    )
    assert status == 0, err
    found = json.loads(out)["model"]
    assert (found["depth"], found["patch"], found["crop_pct"]) == (1, 8, 0.5)
    assert found["crop_mode"] == "squash"
    rows, columns = np.mgrid[0:100, 0:160]
    picture = np.stack([rows * 2, columns, (rows * columns) % 256], -1).astype(np.uint8)
    Image.fromarray(picture).save("a.png")
    given = ["--model", "m.safetensors", "--preset", "micro", "--backend", "torch"]
    status, out, err = moevit("run", "a.png", *given, "-o", "out", "--json")
    assert status == 0, err
    about = {**theirs.pretrained_cfg, "input_size": (3, 32, 32), "crop_pct": 0.5}
    about["crop_mode"] = "squash"
    transform = create_transform(**resolve_data_config(pretrained_cfg=about))
    with torch.no_grad(), Image.open("a.png") as opened:
        expected = theirs(transform(opened)[None])[0].numpy()
    got = np.load(next(Path("out").glob("*.npy")))
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-4)
