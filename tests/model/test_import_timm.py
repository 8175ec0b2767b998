"""timm models: the same logits as timm's own, and a clear refusal of what is not plain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from moevit.images import load_image
from moevit.model.checkpoint import load, store
from moevit.model.config import PRESETS
from moevit.model.importers.timm import TASK, TOKENS, import_timm
from moevit.model.preprocessing import prepare

# isort: split
import timm
from timm.data import create_transform, resolve_data_config

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def network(name: str, **sizes: Any) -> Any:
    """timm's model with every parameter, norms and scales too, away from its initial value."""
    torch.manual_seed(2)
    model = timm.create_model(name, pretrained=False, **(SMALL | {"num_classes": 7} | sizes))
    model = model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pictures(count: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (count, *size, 3), generator=torch.Generator().manual_seed(1))


def normalised(images: torch.Tensor, about: dict[str, Any]) -> torch.Tensor:
    pixels = (images / 255 - torch.tensor(about["mean"])) / torch.tensor(about["std"])
    return pixels.permute(0, 3, 1, 2)


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
        ("vit_tiny_patch16_224", {"reg_tokens": 3, "init_values": 0.5}),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 14, "img_size": 42, "num_classes": 7}),
        ("vit_so150m_patch16_reg4_gap_256", {}),
        ("vit_tiny_patch16_224", {"proj_bias": False, "qkv_bias": False}),
        ("vit_medium_patch16_reg4_gap_256", {}),  # norm behind the mean
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("vit_base_patch32_clip_224", {}),  # norm in front of the blocks, patches without bias
        ("vit_base_patch32_clip_quickgelu_224", {}),
        ("vit_tiny_patch16_224", {"act_layer": "silu"}),
        ("vit_tiny_patch16_224", {"act_layer": "relu"}),
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
    images = pictures(3, model.config.image)
    with torch.no_grad():
        expected = theirs(normalised(images, theirs.pretrained_cfg))
        got = model(images.to(torch.uint8), TASK)
    assert got.shape == (3, 7)
    assert torch.allclose(got, expected, atol=1e-5, rtol=1e-5)


def test_lists_everything_that_does_not_fit(tmp_path: Path) -> None:
    state = network("deit_tiny_patch16_224").state_dict()
    del state["blocks.1.norm2.bias"]
    state["norm.weight"] = torch.zeros(47)
    state["neck.weight"] = torch.ones(48)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError) as caught:
        import_timm("deit_tiny_patch16_224", weights=tmp_path / "w.pth", **SMALL)
    text = str(caught.value)
    assert "missing blocks.1.norm2.bias (48,)" in text
    assert "norm.weight is (47,), expected (48,)" in text
    assert "unexpected neck.weight (48,)" in text


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "max"}, "head reads 'max' pooling"),
        ("vit_tiny_patch16_224", {"qk_norm": True}, "block 0 has inner norms, of queries"),
        ("vit_tiny_patch16_224", {"act_layer": "mish"}, "block 0 has the activation Mish"),
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


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit_small_patch14_dinov2", {"patch_size": 14, "img_size": 28}),
        ("vit_small_patch14_reg4_dinov2", {}),
        ("vit_base_patch16_siglip_gap_224", {}),
        ("vit_base_patch16_siglip_224", {}),  # its attention pooling stands behind the tokens
        ("vit_base_patch16_radio_v3", {}),  # nor a final norm
        ("vit_so400m_patch16_siglip_gap_256", {}),  # tanh GELU
        ("vit_tiny_patch16_224", {"num_classes": 0}),
    ],
)
def test_same_tokens_without_classifier(name: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    theirs = network(name, **({"num_classes": 0} | sizes))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    imported = import_timm(name, weights=tmp_path / "w.pth", **(SMALL | sizes))
    images = pictures(2, imported.model.config.image)
    with torch.no_grad():
        expected = theirs.forward_features(normalised(images, theirs.pretrained_cfg))
        got = imported.model(images.to(torch.uint8), TOKENS)
    assert torch.allclose(got, expected, atol=1e-4, rtol=1e-5)
    assert any(
        note.startswith("no classifier: the result is the tokens") for note in imported.notes
    )


def test_shapes_come_before_the_name(tmp_path: Path) -> None:
    """Whatever a file says of its network beside the name that it is given."""
    name, heads = "vit_tiny_patch16_224", {"num_heads": 3}
    for sizes, text in (
        ({"img_size": 48}, "img_size 48x48"),
        ({"depth": 1}, "depth 1"),
        ({"patch_size": 4}, "patch_size 4"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "class_token False"),
        ({"reg_tokens": 2, "no_embed_class": True}, "no_embed_class True"),
    ):
        theirs = network(name, **sizes)
        torch.save(theirs.state_dict(), tmp_path / "w.pth")
        given = {"embed_dim": 48, "patch_size": 8, "depth": 2} | heads
        given = {key: value for key, value in given.items() if key not in sizes}
        if "img_size" not in sizes:
            given["img_size"] = 32
        imported = import_timm(name, weights=tmp_path / "w.pth", **given)
        assert text in " ".join(imported.notes)
        images = pictures(2, imported.model.config.image)
        with torch.no_grad():
            expected = theirs(normalised(images, theirs.pretrained_cfg))
            assert torch.allclose(imported.model(images.to(torch.uint8), TASK), expected, atol=1e-5)
    torch.save(network(name, img_size=(32, 64)).state_dict(), tmp_path / "w.pth")
    given = {"embed_dim": 48, "patch_size": 8, "depth": 2} | heads
    with pytest.raises(ValueError, match="no square: say the image's size"):
        import_timm(name, weights=tmp_path / "w.pth", **given)
    wide = import_timm(name, weights=tmp_path / "w.pth", image=(32, 64), **given)
    assert wide.model.config.image == (32, 64)
    with pytest.raises(ValueError, match="has 48 channels, vit_tiny_patch16_224 192: say how many"):
        import_timm(name, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("size", [(300, 400), (401, 299), (64, 64), (20, 31), (33, 500)])
@pytest.mark.parametrize("crop", ["center", "squash", "border"])
@pytest.mark.parametrize(("image", "pct"), [((32, 32), 0.9), ((24, 40), 0.875), ((32, 32), 1.0)])
def test_pictures_as_timm_prepares_them(
    size: tuple[int, int], crop: str, image: tuple[int, int], pct: float
) -> None:
    config = replace(PRESETS["nano"], image=image, crop_mode=crop, crop_pct=pct)
    config = replace(config, interpolation="bicubic", pixel_mean=(0.2, 0.5, 0.7))
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    values = np.stack([rows * 7 % 256, columns * 3 % 256, (rows * columns) % 256], -1)
    picture = Image.fromarray(values.astype(np.uint8))
    theirs = create_transform(
        (3, *image),
        crop_pct=pct,
        crop_mode=crop,
        interpolation="bicubic",
        mean=config.pixel_mean,
        normalize=False,
    )
    expected = theirs(picture).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(prepare(picture, config), expected)


def test_logits_of_a_file(tmp_path: Path) -> None:
    """A picture's file through timm's own evaluation, and through ours."""
    name = "deit_tiny_patch16_224"
    theirs = network(name)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    imported = import_timm(name, weights=tmp_path / "w.pth", **SMALL)
    config = imported.model.config
    assert (config.crop_mode, config.crop_pct, config.interpolation) == ("center", 0.9, "bicubic")
    rows, columns = np.mgrid[0:90, 0:130]
    picture = np.stack([rows * 2, columns, (rows * columns) % 256], -1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    about = {**theirs.pretrained_cfg, "input_size": (3, 32, 32)}
    transform = create_transform(**resolve_data_config(pretrained_cfg=about))
    pixels = load_image(tmp_path / "a.png", height=32, width=32, config=config)
    with torch.no_grad(), Image.open(tmp_path / "a.png") as opened:
        expected = theirs(transform(opened)[None])
        got = imported.model(torch.from_numpy(pixels)[None], TASK)
    assert torch.allclose(got, expected, atol=1e-4)
    told = import_timm(
        name, weights=tmp_path / "w.pth", crop_pct=1.0, pixel_mean=(0, 0, 0), **SMALL
    )
    assert told.model.config.crop_pct == 1
    assert "but for mean, crop_pct" in told.notes[-1]
