"""Where weights lie in a file, and what files are that hold none."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from moevit.model.importers.containers import ANCHOR, read_weights

W = {ANCHOR: torch.ones(4, 3, 2, 2), "norm.bias": torch.zeros(4)}


def prefixed(prefix: str, weights: dict[str, torch.Tensor] = W) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


def save(value: Any, folder: Path, name: str = "w.pth", **options: Any) -> Path:
    torch.save(value, folder / name, **options)
    return folder / name


class Net(nn.Module):
    """A module saved whole; its class is not loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 4, 2)
        self.act = nn.GELU()
        self.register_buffer("scale", torch.ones(2))


@pytest.mark.parametrize(
    ("held", "key"),
    [
        (W, ""),
        ({"model": W, "epoch": 3}, "model"),
        ({"state_dict": prefixed("module.backbone.")}, "state_dict.module.backbone"),
        ({"teacher": prefixed("encoder.trunk."), "student": {}}, "teacher.encoder.trunk"),
        ({"a": {"b": {"c": prefixed("_orig_mod.")}}}, "a.b.c._orig_mod"),
        ({"args": argparse.Namespace(lr=np.float64(1), model=W)}, "args.model"),
    ],
)
def test_found_by_structure(held: Any, key: str, tmp_path: Path) -> None:
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        found = read_weights(save(held, tmp_path, **options))
        assert found.key == key
        assert set(found.tensors) == set(W) and not found.outside


def test_what_is_beside_it(tmp_path: Path) -> None:
    held = {
        "net": {**prefixed("module.backbone."), "module.decoders.depth.weight": torch.ones(2)},
        "epoch": 3,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
    }
    found = read_weights(save(held, tmp_path))
    assert set(found.outside) == {"decoders.depth.weight"}
    assert found.aside == ("epoch", "optimizer")
    assert found.notes == ["weights of net.module.backbone", "left aside: epoch, optimizer"]


def test_several_are_listed_and_chosen(tmp_path: Path) -> None:
    other = {name: 2 * tensor for name, tensor in W.items()}
    held = {"state_dict": W, "state_dict_ema": prefixed("module.", other)}
    path = save(held, tmp_path)
    with pytest.raises(ValueError, match=r"state_dict, state_dict_ema\.module; choose one"):
        read_weights(path)
    for key in ("state_dict_ema", "state_dict_ema.module"):
        assert read_weights(path, key).tensors[ANCHOR].mean() == 2
    with pytest.raises(ValueError, match=r"no network 'ema'.*expected state_dict or"):
        read_weights(path, "ema")
    path = save({**prefixed("student."), **prefixed("teacher.", other)}, tmp_path)
    with pytest.raises(ValueError, match="several networks: student, teacher"):
        read_weights(path)
    found = read_weights(path, "teacher")
    assert found.tensors[ANCHOR].mean() == 2
    assert set(found.outside) == set(prefixed("student."))


def test_a_module_saved_whole(tmp_path: Path) -> None:
    net = Net()
    found = read_weights(save(net, tmp_path))
    assert set(found.tensors) == {ANCHOR, "patch_embed.proj.bias", "scale"}
    assert torch.equal(found.tensors[ANCHOR], net.patch_embed.proj.weight)


def test_safetensors_by_any_name(tmp_path: Path) -> None:
    save_file(W, tmp_path / "pytorch_model.bin")
    assert set(read_weights(tmp_path / "pytorch_model.bin").tensors) == set(W)


def text(content: str) -> Any:
    return lambda path: path.write_bytes(content.encode())


def tensors(**others: torch.Tensor) -> Any:
    return lambda path: torch.save(W | {n.replace("__", "."): t for n, t in others.items()}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (text("\n<!DOCTYPE html><html>"), "an HTML or XML page, not weights"),
        (text("version https://git-lfs.github.com/spec/v1\noid"), "a pointer of Git LFS"),
        (text('{"weight_map": {}}'), "a JSON file, not weights"),
        (lambda p: np.savez(p.open("wb"), a=np.ones(2)), r"arrays of NumPy"),
        (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(50)), "a compressed archive"),
        (tensors(blocks__0__lora_A__weight=torch.ones(2)), "hold LoRA matrices"),
        (tensors(x__weight=torch.ones(2, dtype=torch.int8)), "quantised already .*torch.int8"),
        (
            tensors(x=torch.ones(2).to(torch.float8_e4m3fn)),
            r"quantised already \(x is torch.float8_e4m3fn\); expected float32",
        ),
        (
            lambda p: torch.save({"vit.embeddings.cls_token": torch.ones(2)}, p),
            "names of Hugging Face's transformers; save the model with timm's",
        ),
    ],
)
def test_what_holds_no_weights(write: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [10, 200, 900])
def test_cut_files(part: int, tmp_path: Path) -> None:
    whole = save(W, tmp_path).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:part])
    with pytest.raises(ValueError, match=r"cut short or damaged|not a file of plain tensors"):
        read_weights(tmp_path / "cut.pth")
