"""M3ViT's checkpoints as its script leaves them: ranks, settings, windows, what is left aside."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.foreign import M3vit, Weights, m3vit_decoders, m3vit_weights

from moevit.model.importers.m3vit import import_m3vit
from moevit.model.importers.m3vit_settings import accumulated_starts

D, HEADS, EXPERTS = M3vit.DIM, M3vit.HEADS, M3vit.EXPERTS
FITS: dict[str, Any] = {"image": M3vit.IMAGE, "heads": HEADS}
CONFIG = """
setup: multi_task
train_db_name: CityScapes
backbone_kwargs:
   img_size: [16,24]
   patch_size: 8
   num_heads: 4
   qkv_bias: True,
   moe_top_k: 1
head_kwargs:
   align_corners: False
task_dictionary:
   include_semseg: True
   include_depth: True
   edge_w: 0.95
"""


def save(w: Any, folder: Path, name: str = "m.pth") -> Path:
    torch.save(w, folder / name)
    return folder / name


def ranks(w: Weights, folder: Path, shares: int = 2) -> Path:
    """A file a rank: experts shared out, the rest in the first."""
    folder.mkdir()
    size = EXPERTS // shares
    for rank in range(shares):
        part = {
            f"module.backbone.{n}": t[rank * size :][:size] if ".experts." in n else t
            for n, t in w.items()
            if rank == 0 or ".experts." in n
        }
        save({"state_dict": part, "epoch": 3}, folder, f"{rank}.pth")
    return folder


def tokens(path: Path, task: int = 0, **options: Any) -> torch.Tensor:
    model = import_m3vit(path, **{**FITS, **options}).model
    images = torch.randint(0, 256, (2, *M3vit.IMAGE, 3), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out: torch.Tensor = model(images.to(torch.uint8), model.config.task_names[task])
    return out


def test_ranks_together_are_the_whole(tmp_path: Path) -> None:
    w = m3vit_weights()
    folder = ranks(w, tmp_path / "best_model.pth.tar")
    assert torch.equal(tokens(folder), tokens(save(w, tmp_path)))
    with pytest.raises(ValueError, match=r"0\.pth has 2 of the 4 experts .*name the folder of all"):
        import_m3vit(folder / "0.pth", **FITS)
    (folder / "1.pth").rename(folder / "2.pth")
    with pytest.raises(ValueError, match=r"lack 1\.pth: a share of the experts each"):
        import_m3vit(folder, **FITS)
    (folder / "2.pth").unlink()
    with pytest.raises(ValueError, match=r"2 of the 4 experts .*; 2\.\. are in files that are not"):
        import_m3vit(folder, **FITS)
    save({"state_dict": {"x": torch.zeros(2)}}, folder, "1.pth")
    with pytest.raises(ValueError, match=r"1\.pth have no experts"):
        import_m3vit(folder, **FITS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"are a folder, expected files 0\.pth, 1\.pth"):
        import_m3vit(tmp_path / "empty", **FITS)


@pytest.mark.parametrize("leading", [(), (1,)])
def test_experts_one_by_one(leading: tuple[int, ...], tmp_path: Path) -> None:
    """FastMoE's list of experts, and its linear gate."""
    w = m3vit_weights("one")
    out: Weights = {}
    for name, tensor in w.items():
        if ".experts." not in name:
            out[name] = tensor
            continue
        front, _, layer = name.partition("experts.")
        for e, own in enumerate(tensor):
            out[f"{front}experts.{e}.{layer}"] = own.reshape(*leading, *own.shape)
    assert torch.equal(tokens(save(out, tmp_path)), tokens(save(w, tmp_path)))
    for name in [n for n in out if n.endswith("w_gate")]:
        out[name.replace("w_gate", "gate.weight")] = out.pop(name).T
        out[name.replace("w_gate", "gate.bias")] = torch.zeros(EXPERTS)
    expected = tokens(save(w, tmp_path), renormalise=True)  # its scores are of the chosen
    assert torch.allclose(tokens(save(out, tmp_path)), expected, atol=1e-6)
    del out["blocks.1.mlp.experts.2.htoh4.bias"]
    with pytest.raises(ValueError, match=r"htoh4\.bias lacks some .*\[0, 1, 3\]"):
        import_m3vit(save(out, tmp_path), **FITS)


def test_what_is_left_aside_is_named(tmp_path: Path) -> None:
    w = m3vit_weights("one")
    expected = tokens(save(w, tmp_path), renormalise=True)
    w["blocks.1.mlp.gate.w_noise"] = torch.ones(D, EXPERTS)
    w["blocks.1.mlp.gate.w_gate_aux"] = torch.ones(D, EXPERTS)
    w["blocks.1.mlp.gate.head.weight"] = torch.ones(40, EXPERTS)
    held = {
        "state_dict": w,
        "epoch": np.float64(3),
        "optimizer": {"param_groups": [{"lr": np.int64(2)}]},
        "args": argparse.Namespace(lr=0.1),
    }
    path = save(held, tmp_path)
    imported = import_m3vit(path, **FITS)
    named = "w_noise, w_gate_aux, gate's head (regu_sem), epoch, optimizer, args"
    assert f"left aside: {named}" in imported.notes
    assert imported.model.config.renormalise  # a gate that has noise weighs the chosen alone
    assert torch.equal(tokens(path), expected)


def test_assumptions_are_said(tmp_path: Path) -> None:
    path = save(m3vit_weights("one"), tmp_path)
    note = import_m3vit(path, **FITS).notes[-1]
    for words in ("2 experts a token", "scores over all experts", "ImageNet's mean"):
        assert words in note
    told = import_m3vit(path, **FITS, top_k=2, renormalise=False, gate_input_ahead=False)
    assert "mean" in told.notes[-1] and "experts" not in told.notes[-1]


def test_own_configuration_file(tmp_path: Path) -> None:
    path, config = save(m3vit_weights(tasks=2), tmp_path), tmp_path / "nyud.yml"
    config.write_text(CONFIG)
    imported = import_m3vit(path, config=config, gate_input_ahead=False, renormalise=False)
    found = imported.model.config
    assert (found.heads, found.image, found.top_k) == (4, (16, 24), 1)
    assert (found.pixel_mean, found.pixel_std) == ((0.0,) * 3, (1.0,) * 3)
    assert not any(note.startswith("assumed") for note in imported.notes)
    assert import_m3vit(path, config=config, heads=2).model.config.heads == 2
    for text, message in (
        (CONFIG.replace("patch_size: 8", "patch_size: 16"), "patch_size is 16, but .* has 8"),
        (CONFIG.replace("moe_top_k: 1", "moe_top_k: many"), "moe_top_k cannot be 'many'"),
        ("a: [", "not a YAML file"),
        ("lr: 0.1", "expected backbone_kwargs or head_kwargs"),
    ):
        config.write_text(text)
        with pytest.raises(ValueError, match=f"nyud.yml: .*{message}"):
            import_m3vit(path, config=config)


def test_small_models_have_twelve_heads(tmp_path: Path) -> None:
    """All of M3ViT's configurations of 384 channels have heads of 32."""
    assert import_m3vit(save(_dense(384), tmp_path)).model.config.heads == 12
    assert import_m3vit(save(_dense(192), tmp_path)).model.config.heads == 3


def _dense(dim: int) -> Weights:
    w: Weights = {
        "patch_embed.proj.weight": torch.zeros(dim, 3, 8, 8),
        "patch_embed.proj.bias": torch.zeros(dim),
        "cls_token": torch.zeros(1, 1, dim),
        "pos_embed": torch.zeros(1, 5, dim),
    }
    for norm in ("norm1", "norm2"):
        w |= {f"blocks.0.{norm}.{p}": torch.ones(dim) for p in ("weight", "bias")}
    for name, shape in {
        "attn.qkv": (3 * dim, dim),
        "attn.proj": (dim, dim),
        "mlp.fc1": (2 * dim, dim),
        "mlp.fc2": (dim, 2 * dim),
    }.items():
        w[f"blocks.0.{name}.weight"], w[f"blocks.0.{name}.bias"] = (
            torch.zeros(shape),
            torch.zeros(shape[0]),
        )
    return w


def test_windows_as_m3vit_counts_them(tmp_path: Path) -> None:
    """Their starts add up; the last begins where fewer experts are left than a window has."""
    assert accumulated_starts(3, 8, 6) == (0, 1, 3)
    assert accumulated_starts(2, 16, 4) == (0, 12)
    names = ["a", "b", "c"]
    path = save(m3vit_weights("one"), tmp_path)
    given = {"tasks": names, "experts_per_task": 2, "top_k": 1}
    assert accumulated_starts(3, 4, 2) == (0, 1, 3)
    imported = import_m3vit(path, **FITS, **given)
    assert imported.model.config.starts == (0, 1, 2)
    assert "windows of 2 experts from 0, 1, 3 on, kept from 0, 1, 2 on" in "".join(imported.notes)
    # the third task has expert 3 alone: as a window of one of our own
    one = {"tasks": ["c"], "experts_per_task": 1, "expert_starts": (3,), "top_k": 1}
    assert torch.allclose(tokens(path, 2, **given), tokens(path, **one), atol=1e-6)
    with pytest.raises(ValueError, match="from 4 on are 0 of 4, fewer than the 1 a token"):
        import_m3vit(path, **FITS, **{**given, "expert_starts": (0, 1, 4)})
    with pytest.raises(ValueError, match="need one gate for all tasks"):
        import_m3vit(save(m3vit_weights("multi"), tmp_path), **FITS, experts_per_task=2)


def test_a_head_of_one_task(tmp_path: Path) -> None:
    w = {f"backbone.{n}": t for n, t in m3vit_weights("one", patch=16).items()}
    heads = m3vit_decoders({"depth": 1})
    w |= {n.replace("decoders.depth.", "decoder."): t for n, t in heads.items()}
    path = save({f"module.{n}": t for n, t in w.items()}, tmp_path)
    given = {"image": (32, 48), "heads": HEADS}
    with pytest.raises(ValueError, match=r"decoder\.\*\) and does not say which"):
        import_m3vit(path, **given)
    model = import_m3vit(path, **given, tasks=["depth"]).model
    assert [(t.name, t.kind, t.stride) for t in model.config.tasks] == [("depth", "depth", 1)]
    corners = import_m3vit(path, **given, tasks=["depth"], align_corners=True).model
    assert corners.config.align_corners
    image = torch.full((1, 32, 48, 3), 99, dtype=torch.uint8)
    with torch.no_grad():
        assert (model(image, "depth") - corners(image, "depth")).abs().max() > 1e-3


@pytest.mark.parametrize("side", [1, 3])
def test_the_plain_decoder(side: int, tmp_path: Path) -> None:
    """Two convolutions, at the patches' resolution; enlarging is left to whoever uses it."""
    generator = torch.Generator().manual_seed(4)
    w = m3vit_weights("one", patch=8)
    p = "decoders.semseg."
    backbone = save(dict(w), tmp_path)
    head: Weights = {
        "norm.weight": torch.rand(D, generator=generator),
        "norm.bias": torch.rand(D, generator=generator),
        "conv_0.weight": torch.randn(6, D, side, side, generator=generator),
        "conv_0.bias": torch.randn(6, generator=generator),
        "conv_1.weight": torch.randn(5, 6, 1, 1, generator=generator),
        "conv_1.bias": torch.randn(5, generator=generator),
    }
    for part in ("weight", "bias", "running_mean", "running_var"):
        head[f"syncbn_fc_0.{part}"] = torch.rand(6, generator=generator) + 0.5
    x = F.layer_norm(tokens(backbone)[:, 1:], (D,), head["norm.weight"], head["norm.bias"], 1e-6)
    x = x.transpose(1, 2).reshape(2, D, 2, 3)
    x = F.conv2d(x, head["conv_0.weight"], head["conv_0.bias"], padding=side // 2)
    n = {part: head[f"syncbn_fc_0.{part}"] for part in ("running_mean", "running_var")}
    x = F.batch_norm(x, **n, weight=head["syncbn_fc_0.weight"], bias=head["syncbn_fc_0.bias"])
    expected = F.conv2d(x.relu(), head["conv_1.weight"], head["conv_1.bias"])
    path = save(w | {p + name: tensor for name, tensor in head.items()}, tmp_path)
    imported = import_m3vit(path, **FITS)
    assert imported.model.config.tasks[0].stride == 8
    assert any("enlarging it bilinearly by 8" in note for note in imported.notes)
    assert torch.allclose(tokens(path), expected, atol=1e-4)


def test_a_backbone_of_imagenet_is_a_classifier(tmp_path: Path) -> None:
    w = m3vit_weights("one")
    w |= {"norm.weight": torch.rand(D), "norm.bias": torch.rand(D)}
    w |= {"head.weight": torch.rand(7, D), "head.bias": torch.rand(7)}
    path = save({"state_dict": {f"module.{n}": t for n, t in w.items()}}, tmp_path)
    alone = tokens(path, backbone_only=True)
    assert "left aside: norm, head" in import_m3vit(path, **FITS, backbone_only=True).notes
    x = F.layer_norm(alone[:, 0], (D,), w["norm.weight"], w["norm.bias"], 1e-6)
    expected = x @ w["head.weight"].T + w["head.bias"]
    assert torch.allclose(tokens(path), expected, atol=1e-5)
