"""Edge-MoE weight folders: its kernel's conventions, and what is missing or left over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.foreign import EdgeMoe, edge_moe_folder

from moevit.model.checkpoint import load, store
from moevit.model.importers.edge_moe import import_edge_moe

D, PATCH, HEADS, K = EdgeMoe.DIM, EdgeMoe.PATCH, EdgeMoe.HEADS, EdgeMoe.TOP_K
DEPTH, IMAGE, TOKENS = EdgeMoe.DEPTH, EdgeMoe.IMAGE, EdgeMoe.TOKENS


def reference(w: dict[str, np.ndarray], image: np.ndarray, task: int) -> np.ndarray:
    """The kernel's steps in float64: row 0 is the class token, pixels are u8 / 256, scale 1/8."""
    x = w["pos_embed"].astype(np.float64)
    columns = IMAGE[1] // PATCH
    for n in range(TOKENS - 1):
        y, z = n // columns * PATCH, n % columns * PATCH
        patch = image[y : y + PATCH, z : z + PATCH].transpose(2, 0, 1) / 256
        x[n + 1] += (w["patch_embed_weight"] * patch).sum((1, 2, 3)) + w["patch_embed_bias"]

    def normed(name: str) -> np.ndarray:
        variance = (x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2
        hat = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
        return hat * w[f"{name}_weight"] + w[f"{name}_bias"]

    def softmax(s: np.ndarray) -> np.ndarray:
        e = np.exp(s - s.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def gelu(a: np.ndarray) -> np.ndarray:
        return F.gelu(torch.from_numpy(a)).numpy()

    for i in range(DEPTH):
        qkv = normed(f"l{i}_norm1") @ w[f"l{i}_qkv_weight"].T + w[f"l{i}_qkv_bias"]
        q, k, v = (t.reshape(TOKENS, HEADS, -1).swapaxes(0, 1) for t in np.split(qkv, 3, axis=1))
        context = (softmax(q @ k.swapaxes(1, 2) / 8) @ v).swapaxes(0, 1).reshape(TOKENS, D)
        x = x + context @ w[f"l{i}_attn_proj_weight"].T + w[f"l{i}_attn_proj_bias"]
        y = normed(f"l{i}_norm2")
        if i % 2 == 0:
            hidden = gelu(y @ w[f"l{i}_fc1_weight"].T + w[f"l{i}_fc1_bias"])
            x = x + hidden @ w[f"l{i}_fc2_weight"].T + w[f"l{i}_fc2_bias"]
            continue
        scores = softmax(y @ w[f"l{i}_w_gate_T_task{task}"].T)
        for n in range(TOKENS):
            for e in np.argsort(-scores[n])[:K]:
                hidden = gelu(w[f"l{i}_htoh4_weight"][e] @ y[n] + w[f"l{i}_htoh4_bias"][e])
                out = w[f"l{i}_h4toh_weight"][e] @ hidden + w[f"l{i}_h4toh_bias"][e]
                x[n] += scores[n, e] * out
    return x


def test_same_function(tmp_path: Path) -> None:
    w = edge_moe_folder(tmp_path)
    imported = import_edge_moe(tmp_path, image=IMAGE, heads=HEADS, top_k=K)
    store(imported.model, tmp_path / "out.safetensors", imported.source)
    model = load(tmp_path / "out.safetensors")
    config = model.config
    assert (config.pixel_scale, config.attention_scale) == (256.0, 0.125)
    assert config.class_token_in_position and not config.final_norm
    assert config.task_names == ("task0", "task1")
    images = np.random.default_rng(1).integers(0, 256, (2, *IMAGE, 3), dtype=np.uint8)
    for index, task in enumerate(config.task_names):
        with torch.no_grad():
            got = model(torch.from_numpy(images), task).numpy()
        expected = np.stack([reference(w, image, index) for image in images])
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


def test_reference_results_are_set_aside_and_named(tmp_path: Path) -> None:
    edge_moe_folder(tmp_path)
    for name in ("image", "l1_x_post_moe"):
        np.zeros(4, "<f4").tofile(tmp_path / f"{name}.float32.bin")
    notes = import_edge_moe(tmp_path, image=IMAGE, heads=HEADS).notes
    assert any("image.float32.bin, l1_x_post_moe.float32.bin" in note for note in notes)


def test_lists_everything_that_does_not_fit(tmp_path: Path) -> None:
    edge_moe_folder(tmp_path)
    (tmp_path / "l1_w_gate_T_task0.float32.bin").unlink()
    (tmp_path / "l0_norm2_bias.float32.bin").unlink()
    np.zeros(D - 1, "<f4").tofile(tmp_path / "l1_norm1_bias.float32.bin")
    np.zeros(3, "<f4").tofile(tmp_path / "l1_extra.float32.bin")
    with pytest.raises(ValueError) as caught:
        import_edge_moe(tmp_path, image=IMAGE, heads=HEADS)
    text = str(caught.value)
    assert "missing l0_norm2_bias (16,), l1_w_gate_T_task0 (48,)" in text
    assert "l1_norm1_bias is (15,), expected (16,)" in text
    assert "unexpected l1_extra (3,)" in text


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        import_edge_moe(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no files \*.float32.bin"):
        import_edge_moe(tmp_path)
    (tmp_path / "pos_embed.float32.bin").write_bytes(b"12345")
    with pytest.raises(ValueError, match="has 5 bytes, expected a positive multiple of 4"):
        import_edge_moe(tmp_path)
    np.zeros(3, "<f4").tofile(tmp_path / "pos_embed.float32.bin")
    with pytest.raises(ValueError, match="lacks patch_embed_bias"):
        import_edge_moe(tmp_path)


@pytest.mark.parametrize(
    ("name", "numbers", "multiple"),
    [
        ("patch_embed_weight", 2, 3 * D),
        ("pos_embed", 2, D),
        ("l1_h4toh_bias", 1, D),
        ("l1_htoh4_bias", 1, 3),
    ],
)
def test_files_that_sizes_are_read_from(
    name: str, numbers: int, multiple: int, tmp_path: Path
) -> None:
    edge_moe_folder(tmp_path)
    np.zeros(numbers, "<f4").tofile(tmp_path / f"{name}.float32.bin")
    expected = f"{name}.float32.bin has {numbers} numbers, expected a multiple of {multiple}"
    with pytest.raises(ValueError, match=expected):
        import_edge_moe(tmp_path, image=IMAGE, heads=HEADS)
