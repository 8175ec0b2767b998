"""M3ViT checkpoints: the function of a forward pass written from the paper, and refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.foreign import M3vit, Weights, m3vit_weights

from moevit.model.checkpoint import load, store
from moevit.model.importers.m3vit import IMAGENET_MEAN, IMAGENET_STD, import_m3vit

D, PATCH, EXPERTS, HIDDEN = M3vit.DIM, M3vit.PATCH, M3vit.EXPERTS, M3vit.HIDDEN
HEADS, K, DEPTH, IMAGE, TOKENS = (
    M3vit.HEADS,
    M3vit.TOP_K,
    M3vit.DEPTH,
    M3vit.IMAGE,
    M3vit.TOKENS,
)


def norm(x: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain + bias


def reference(
    w: Weights, image: torch.Tensor, task: int, gate: str, options: dict[str, Any]
) -> torch.Tensor:
    """Tokens ``(N, D)`` of an image ``(H, W, 3)``, one token and one expert at a time."""
    start = options.get("expert_starts", (0, 0, 0))[task]
    window = slice(start, start + options.get("experts_per_task", EXPERTS))
    pixels = (image / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    rows = [w["cls_token"][0, 0]]
    for y in range(0, IMAGE[0], PATCH):
        for x in range(0, IMAGE[1], PATCH):
            patch = pixels[y : y + PATCH, x : x + PATCH].permute(2, 0, 1)
            kernel = w["patch_embed.proj.weight"]
            rows.append((kernel * patch).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    tokens = torch.stack(rows) + w["pos_embed"][0]
    condition = torch.zeros(0)
    if gate == "conditioned":
        r = {k.removeprefix("gate_task_represent."): v for k, v in w.items()}
        x = F.gelu(r["fc1.weight"][:, task] + r["fc1.bias"])
        condition = norm(r["fc2.weight"] @ x + r["fc2.bias"], r["norm.weight"], r["norm.bias"])
    for i in range(DEPTH):
        b = {k.removeprefix(f"blocks.{i}."): v for k, v in w.items()}
        before, y = tokens, norm(tokens, b["norm1.weight"], b["norm1.bias"])
        q, k, v = (y @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]).split(D, dim=1)
        size = D // HEADS
        heads = [
            (q[:, s] @ k[:, s].T / size**0.5).softmax(-1) @ v[:, s]
            for s in (slice(h * size, (h + 1) * size) for h in range(HEADS))
        ]
        tokens = tokens + torch.cat(heads, 1) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        y = norm(tokens, b["norm2.weight"], b["norm2.bias"])
        if i % 2 == 0:
            hidden = F.gelu(y @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
            tokens = tokens + hidden @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
            continue
        matrix = b[f"mlp.gate.{task}.w_gate" if gate == "multi" else "mlp.gate.w_gate"]
        updates = []
        for token, seen in zip(y, before if options.get("gate_input_ahead") else y, strict=True):
            scores = (torch.cat([seen, condition]) @ matrix[:, window]).softmax(0)
            best = scores.argsort(descending=True)[:K]
            if options.get("renormalise"):
                scores = scores / scores[best].sum()
            total = torch.zeros(D)
            for place in best.tolist():
                e, score = start + place, scores[place]
                if score <= options.get("prune_threshold", 0):
                    continue
                up, down = b["mlp.experts.htoh4.weight"][e], b["mlp.experts.h4toh.weight"][e]
                hidden = F.gelu(up @ token + b["mlp.experts.htoh4.bias"][e])
                total += score * (down @ hidden + b["mlp.experts.h4toh.bias"][e])
            updates.append(total)
        tokens = tokens + torch.stack(updates)
    return tokens


def save(w: Any, folder: Path, name: str = "m3vit.pth") -> Path:
    torch.save(w, folder / name)
    return folder / name


WINDOWS = {"experts_per_task": 3, "expert_starts": (1, 0, 1)}


@pytest.mark.parametrize(
    ("gate", "wrap", "options"),
    [
        ("multi", lambda w: w, {}),
        ("one", lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}, "epoch": 3}, {}),
        (
            "conditioned",
            lambda w: {"state_dict": {f"module.backbone.{k}": v for k, v in w.items()}},
            {},
        ),
        ("multi", lambda w: w, {"gate_input_ahead": True}),
        ("conditioned", lambda w: w, WINDOWS),
        (
            "one",
            lambda w: w,
            {
                "experts_per_task": 2,
                "expert_starts": (1, 0, 2),
                "renormalise": True,
                "prune_threshold": 0.4,
            },
        ),
        ("conditioned", lambda w: w, {"gate_input_ahead": True, "prune_threshold": 0.3}),
    ],
)
def test_same_function(gate: str, wrap: Any, options: dict[str, Any], tmp_path: Path) -> None:
    w = m3vit_weights(gate)
    path = save(wrap(w), tmp_path)
    names = ["a", "b", "c"] if "expert_starts" in options else []
    imported = import_m3vit(path, image=IMAGE, heads=HEADS, top_k=K, tasks=names, **options)
    store(imported.model, tmp_path / "out.safetensors", imported.source)
    model = load(tmp_path / "out.safetensors")
    config = model.config
    assert not config.final_norm and config.gate == gate
    assert (config.gate_task_dim, config.gate_task_hidden) == ((5, 6) if gate[0] == "c" else (0, 0))
    assert len(config.tasks) == (1 if gate == "one" and not names else 3)
    images = torch.randint(0, 256, (2, *IMAGE, 3), generator=torch.Generator().manual_seed(1))
    results = []
    for index, task in enumerate(config.task_names):
        with torch.no_grad():
            got = model(images.to(torch.uint8), task)
        expected = torch.stack([reference(w, image, index, gate, options) for image in images])
        assert got.shape == (2, TOKENS, D)
        assert torch.allclose(got, expected, atol=3e-5, rtol=1e-5)
        results.append(got)
    for other in results[1:]:
        assert not torch.allclose(results[0], other, atol=1e-3)  # tasks do differ


def test_names_of_tasks(tmp_path: Path) -> None:
    path = save(m3vit_weights("one"), tmp_path)
    model = import_m3vit(path, image=IMAGE, heads=HEADS, tasks=["depth"]).model
    assert model.config.task_names == ("depth",)
    path = save(m3vit_weights("multi"), tmp_path)
    with pytest.raises(ValueError, match="gates for 3 tasks, but 1 names"):
        import_m3vit(path, image=IMAGE, heads=HEADS, tasks=["depth"])


def test_lists_everything_that_does_not_fit(tmp_path: Path) -> None:
    w = m3vit_weights()
    del w["blocks.2.attn.proj.bias"], w["blocks.3.mlp.gate.1.w_gate"]
    w["blocks.1.mlp.experts.h4toh.weight"] = torch.zeros(EXPERTS, HIDDEN, D)
    w["blocks.0.norm1.weight"] = torch.full((D,), torch.nan)
    w["neck.weight"] = torch.ones(D)
    with pytest.raises(ValueError) as caught:
        import_m3vit(save(w, tmp_path), image=IMAGE, heads=HEADS)
    text = str(caught.value)
    assert "missing blocks.2.attn.proj.bias (16,), blocks.3.mlp.gate.1.w_gate (16, 4)" in text
    assert "blocks.1.mlp.experts.h4toh.weight is (4, 12, 16), expected (4, 16, 12)" in text
    assert "blocks.0.norm1.weight has values that are not finite" in text
    assert "unexpected neck.weight (16,)" in text
    assert "\n" not in text


class Trap:
    """What a malicious checkpoint would carry."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1/0",)


def test_runs_no_code(tmp_path: Path) -> None:
    path = save({"state_dict": Trap()}, tmp_path)
    with pytest.raises(ValueError, match=r"not a file of plain tensors.*would run code") as caught:
        import_m3vit(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "do not exist"),
        (b"", "not a whole PyTorch file"),
        (b"not a checkpoint at all", "not a "),
        ({"epoch": 3}, "have no tensors; it holds epoch"),
        ({"a.b": torch.zeros(1)}, "lack patch_embed.proj.weight, with any prefix; they hold a.b"),
        ([1, 2], "have no tensors, but a list"),
    ],
)
def test_bad_files(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        import_m3vit(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "6 patches are no square"),
        ({"image": (16, 16)}, "has 4 patches of 8 pixels, the position embedding 6"),
        ({"image": (16, 23)}, "must be a multiple of the patch"),
        ({"image": IMAGE}, "Width 16 is not a multiple of 64"),
        ({"image": IMAGE, "heads": 3}, "must divide the width 16, not 3"),
        ({"image": IMAGE, "heads": 2, "top_k": 5}, "top_k 5 must be at most experts 4"),
    ],
)
def test_sizes_that_the_file_does_not_say(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        import_m3vit(save(m3vit_weights(), tmp_path), **options)
