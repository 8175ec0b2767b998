"""Losses against their definitions, pixels that are not known, and parts of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moevit.model.config import KINDS
from moevit.model.kinds import TASK_KINDS
from moevit.model.training.losses import RECIPES, Recipe, counts, task_loss

ALL = Recipe(name="all", weights=dict.fromkeys(KINDS, 1.0))
CHANNELS = {kind.name: kind.channels or 4 for kind in TASK_KINDS.values()}
VECTORS = [name for name, channels in CHANNELS.items() if channels in (2, 3)]
UNKNOWN = dict.fromkeys(["depth", *VECTORS], 0)


def example(kind: str, seed: int, batch: int = 4) -> tuple[Tensor, Tensor]:
    """Raw outputs at half size, and a truth of which a third is not known."""
    rng = np.random.default_rng(seed)
    raw = torch.from_numpy(rng.normal(size=(batch, CHANNELS[kind], 3, 5))).float()
    size = (batch, 6, 10)
    if kind in ("segmentation", "human_parts"):
        truth = torch.from_numpy(rng.integers(0, 4, size).astype(np.uint8))
    elif kind == "depth":
        truth = torch.from_numpy(rng.uniform(0.5, 9, size)).float()
    elif kind in VECTORS:
        vectors = rng.normal(size=(*size, CHANNELS[kind]))
        truth = F.normalize(torch.from_numpy(vectors).float(), dim=-1)
    else:
        truth = torch.from_numpy((rng.random(size) < 0.2).astype(np.uint8))
    truth[torch.from_numpy(rng.random(size) < 0.3)] = UNKNOWN.get(kind, 255)
    return raw, truth


@pytest.mark.parametrize("kind", KINDS)
def test_m3vits_losses_by_their_definitions(kind: str) -> None:
    raw, truth = example(kind, 1)
    large = F.interpolate(raw, size=(6, 10), mode="bilinear", align_corners=False)
    expected, known = 0.0, 0
    positive = int((truth == 1).sum())
    for b, y, x in np.ndindex(4, 6, 10):
        out, want = large[b, :, y, x].double(), truth[b, y, x]
        if kind == "normals":
            if want.abs().sum() == 0:
                continue
            expected += (out / out.norm() - want).abs().mean().item()
        elif kind == "orientation":
            if want.abs().sum() == 0:
                continue
            expected += 1 - (out / out.norm() @ want.double()).item()
        elif kind == "depth":
            if want == 0:
                continue
            expected += abs(out.exp().item() - want.item())
        elif want == 255:
            continue
        elif kind in ("edges", "saliency"):
            share = 0.95 if kind == "edges" else 1 - positive / int((truth != 255).sum())
            chance = torch.sigmoid(out[0]).item()
            expected -= share * np.log(chance) if want == 1 else (1 - share) * np.log(1 - chance)
        else:
            expected -= torch.log_softmax(out, 0)[int(want)].item()
        known += 1
    assert task_loss(kind, raw, truth, ALL).item() == pytest.approx(expected / known, rel=1e-5)


@pytest.mark.parametrize("recipe", [ALL, RECIPES["scenes"]], ids=lambda r: r.name)
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 3))
def test_parts_add_up_to_the_batch(kind: str, recipe: Recipe, seed: int, cut: int) -> None:
    raw, truth = example(kind, seed)
    total = counts(kind, truth)
    whole = task_loss(kind, raw, truth, recipe)
    parts = [
        task_loss(kind, raw[part], truth[part], recipe, total)
        for part in (slice(None, cut), slice(cut, None))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("recipe", [ALL, RECIPES["scenes"]], ids=lambda r: r.name)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_known_has_no_gradient(kind: str, recipe: Recipe) -> None:
    raw, truth = example(kind, 2)
    raw = F.interpolate(raw, size=(6, 10))  # full size: a pixel's output is its own
    raw.requires_grad_(True)
    task_loss(kind, raw, truth, recipe).backward()
    assert raw.grad is not None and torch.isfinite(raw.grad).all()
    flat = truth.abs().sum(-1) if kind in VECTORS else truth
    hidden = flat == UNKNOWN.get(kind, 255)
    touched = raw.grad.abs().sum(1) > 0
    assert not (touched & hidden).any()
    assert touched.any()
    raw.grad = None
    truth[:] = UNKNOWN.get(kind, 255)
    loss = task_loss(kind, raw, truth, recipe)
    loss.backward()
    assert loss == 0 and raw.grad is not None and (raw.grad == 0).all()


def test_m3vits_weights() -> None:
    """configs/*/vit*/*.yml of M3ViT."""
    assert dict(RECIPES["nyud"].weights) == {
        "segmentation": 1,
        "depth": 1,
        "normals": 10,
        "edges": 50,
    }
    assert RECIPES["pascal_context"].weight("human_parts") == 2
    assert RECIPES["pascal_context"].weight("saliency") == 5
    assert dict(RECIPES["cityscapes"].weights) == {"segmentation": 1, "depth": 1}
    with pytest.raises(ValueError, match="Recipe cityscapes has no weight for 'normals'"):
        RECIPES["cityscapes"].weight("normals")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"flow": 1.0}}, "not 'flow'"),
        ({"weights": {"depth": -1.0}}, "weight of depth must not be negative, not -1.0"),
        ({"edge_weight": 1.0}, "edge_weight must be between 0 and 1, not 1.0"),
    ],
)
def test_bad_recipes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{"name": "x", "weights": {}, **change})  # type: ignore[arg-type]
