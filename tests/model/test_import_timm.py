"""timm models: the same logits as timm's own, and a clear refusal of what is not plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moevit.model.checkpoint import load, store
from moevit.model.importers.timm import TASK, import_timm

# isort: split
import timm

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def network(name: str, **sizes: Any) -> Any:
    """timm's model with every parameter, norms and scales too, away from its initial value."""
    torch.manual_seed(2)
    model = timm.create_model(name, pretrained=False, num_classes=7, **(SMALL | sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("deit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"qkv_bias": False}),
        ("deit3_small_patch16_224", {}),  # layer scale, no position for the class token
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit_small_distilled_patch16_224", {"qkv_bias": False}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "fc_norm": False}),
        ("vit_medium_patch16_gap_240", {}),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_same_logits(name: str, sizes: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    theirs = network(name, **sizes)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": theirs.state_dict()}, path)
    else:
        save_file(theirs.state_dict(), path)
    imported = import_timm(name, weights=path, **(SMALL | sizes))
    store(imported.model, tmp_path / "out.safetensors", imported.source)
    model = load(tmp_path / "out.safetensors")
    assert model.config.task(TASK).channels == 7
    images = torch.randint(0, 256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(1))
    about = theirs.pretrained_cfg
    pixels = (images / 255 - torch.tensor(about["mean"])) / torch.tensor(about["std"])
    with torch.no_grad():
        expected = theirs(pixels.permute(0, 3, 1, 2))
        got = model(images.to(torch.uint8), TASK)
    assert got.shape == (3, 7)
    assert torch.allclose(got, expected, atol=1e-5, rtol=1e-5)


def test_lists_everything_that_does_not_fit(tmp_path: Path) -> None:
    state = network("deit_tiny_patch16_224").state_dict()
    del state["blocks.1.norm2.bias"]
    state["pos_embed"] = torch.zeros(1, 9, 48)
    state["fc_norm.weight"] = torch.ones(48)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError) as caught:
        import_timm("deit_tiny_patch16_224", weights=tmp_path / "w.pth", **SMALL)
    text = str(caught.value)
    assert "missing blocks.1.norm2.bias (48,)" in text
    assert "pos_embed is (1, 9, 48), expected (1, 17, 48)" in text
    assert "unexpected fc_norm.weight (48,)" in text


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("vit_tiny_patch16_224", {"reg_tokens": 2}, "2 register tokens, expected none"),
        (
            "vit_tiny_patch16_224",
            {"global_pool": "avg"},
            r"LayerNorm behind its pooling \(fc_norm\), expected the norm in front",
        ),
        ("vit_tiny_patch16_224", {"global_pool": "max"}, "head reads 'max' pooling"),
        ("vit_medium_patch16_reg4_gap_256", {}, "4 register tokens, expected none"),
        ("vit_tiny_patch16_224", {"pre_norm": True}, "patch embedding has no bias"),
        ("vit_tiny_patch16_224", {"qk_norm": True}, "block 0 has inner norms"),
    ],
)
def test_refuses_what_is_not_plain(
    name: str, sizes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    torch.save(network(name, **sizes).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"{name} is not supported: .*{message}"):
        import_timm(name, weights=tmp_path / "w.pth", **(SMALL | sizes))


@pytest.mark.parametrize("name", ["resnet18", "vit_of_nobody", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match="is no model"):
        import_timm(name)
