"""Checkpoints: what goes in comes out, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moevit.model.checkpoint import load, load_shipped, read_training, shipped_path, store
from moevit.model.m3vit import M3ViT


def tensors_of(model: M3ViT) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def metadata_of(model: M3ViT) -> dict[str, str]:
    return {"moevit": "1", "config": model.config.to_json()}


def test_round_trip(model: M3ViT, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    store(model, path, {"seed": 7})
    again = load(path)
    assert again.config == model.config
    assert not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert read_training(path) == {"seed": 7}
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.safetensors does not exist"):
        load(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 300, -10])
def test_truncated_file(model: M3ViT, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "short.safetensors"
    store(model, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"short\.safetensors is not a whole safetensors") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    path.write_text("this is a text of more than eight bytes")
    with pytest.raises(ValueError, match=r"text\.safetensors is not a whole safetensors file"):
        load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has no 'moevit' metadata: not a moevit checkpoint"):
        load(path)


def test_another_format(model: M3ViT, tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    save_file(tensors_of(model), path, {**metadata_of(model), "moevit": "2"})
    with pytest.raises(ValueError, match="has format '2', this version reads '1'"):
        load(path)


def test_bad_configuration(model: M3ViT, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    config = json.loads(model.config.to_json())
    config["heads"] = 3
    save_file(tensors_of(model), path, {**metadata_of(model), "config": json.dumps(config)})
    with pytest.raises(ValueError, match=r"odd\.safetensors: Model dim 16 .* heads 3"):
        load(path)


def test_tensors_that_do_not_fit_are_listed(model: M3ViT, tmp_path: Path) -> None:
    path = tmp_path / "misfit.safetensors"
    tensors = tensors_of(model)
    del tensors["norm.weight"]
    tensors["extra"] = torch.zeros(2)
    tensors["norm.bias"] = torch.zeros(5)
    tensors["pos_embed"][0, 0, 0] = float("nan")
    tensors["cls_token"] = tensors["cls_token"].int()
    save_file(tensors, path, metadata_of(model))
    with pytest.raises(ValueError, match="does not fit its configuration") as error:
        load(path)
    for part in (
        "norm.weight is missing",
        "extra is unexpected",
        "norm.bias is (5,), expected (16,)",
        "pos_embed has values that are not finite",
        "cls_token is torch.int32, expected floating point",
    ):
        assert part in str(error.value)


def test_failed_write_leaves_the_old_file(
    model: M3ViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    store(model, path, {"seed": 1})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        store(model, path, {"seed": 2})
    assert read_training(path) == {"seed": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_shipped_checkpoint_is_nano_and_small() -> None:
    path = shipped_path()
    assert path.stat().st_size <= 8 * 2**20
    assert load_shipped().config.name == "nano"
    with pytest.raises(ValueError, match="'tiny' has no shipped checkpoint"):
        shipped_path("tiny")
    with pytest.raises(ValueError, match="not 'huge'"):
        shipped_path("huge")
