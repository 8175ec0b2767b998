"""M3ViT checkpoints with upsampling heads: the same function, or a refusal that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.foreign import M3vit, Weights, m3vit_decoders, m3vit_weights

from moevit.model.checkpoint import load, store
from moevit.model.importers.m3vit import import_m3vit

D, HEADS = M3vit.DIM, M3vit.HEADS
IMAGE = (32, 48)
TASKS = {"semseg": 5, "normals": 3, "edge": 1}


def save(w: Any, folder: Path, name: str = "m3vit.pth") -> Path:
    torch.save(w, folder / name)
    return folder / name


def whole(**changes: torch.Tensor | None) -> Weights:
    """Backbone and heads; ``changes`` with ``__`` for the dots, None removes."""
    w = {f"backbone.{n}": t for n, t in m3vit_weights(patch=16).items()} | m3vit_decoders(TASKS)
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        w.pop(name, None)
        if tensor is not None:
            w[name] = tensor
    return w


def read(w: Weights, folder: Path, **options: Any) -> Any:
    return import_m3vit(save(w, folder), image=IMAGE, heads=HEADS, **options)


def reference(w: Weights, task: str, tokens: torch.Tensor) -> torch.Tensor:
    """The decoder as it is published, on tokens ``(1, 1 + patches, D)``."""
    p = {n.removeprefix(f"decoders.{task}."): t for n, t in w.items() if f"decoders.{task}." in n}
    x = F.layer_norm(tokens[:, 1:], (D,), p["norm.weight"], p["norm.bias"], eps=1e-6)
    x = x.transpose(1, 2).reshape(1, D, IMAGE[0] // 16, IMAGE[1] // 16)
    for n in range(4):
        x = F.conv2d(x, p[f"conv_{n}.weight"], p[f"conv_{n}.bias"], padding=1)
        bn = {part: p[f"syncbn_fc_{n}.{part}"] for part in ("running_mean", "running_var")}
        x = F.batch_norm(
            x, **bn, weight=p[f"syncbn_fc_{n}.weight"], bias=p[f"syncbn_fc_{n}.bias"], eps=1e-5
        ).relu()
        if n == 3:
            x = F.conv2d(x, p["conv_4.weight"], p["conv_4.bias"])
        size = (2 * x.shape[-2], 2 * x.shape[-1])
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x


def test_same_function(tmp_path: Path) -> None:
    w = whole()
    imported = read({f"module.{n}": t for n, t in w.items()}, tmp_path)
    store(imported.model, tmp_path / "out.safetensors", imported.source)
    model = load(tmp_path / "out.safetensors")
    config = model.config
    assert config.decoder == "upsampling" and config.decoder_width == 6
    assert [(t.name, t.kind, t.channels) for t in config.tasks] == [
        ("semseg", "segmentation", 5),
        ("normals", "normals", 3),
        ("edge", "edges", 1),
    ]
    assert imported.notes[:2] == (
        "2 of 4 experts a token",
        "upsampling heads of width 6: semseg, normals, edge",
    )
    alone = read(w, tmp_path, backbone_only=True)
    assert "left aside: head of semseg, head of normals, head of edge" in alone.notes
    images = torch.randint(0, 256, (1, *IMAGE, 3), generator=torch.Generator().manual_seed(1))
    images = images.to(torch.uint8)
    for number, task in enumerate(TASKS):
        with torch.no_grad():
            tokens = alone.model(images, f"task{number}")
            got = model(images, task)
        assert got.shape == (1, TASKS[task], *IMAGE)
        assert torch.allclose(got, reference(w, task, tokens), atol=1e-4)


def test_order_of_tasks(tmp_path: Path) -> None:
    """A file whose names are sorted, as safetensors sorts them, needs to be told."""
    names = ["normals", "edge", "semseg"]
    model = read(whole(), tmp_path, tasks=names).model
    assert list(model.config.task_names) == names
    with pytest.raises(ValueError, match="heads of the tasks semseg, normals, edge, not a, b, c"):
        read(whole(), tmp_path, tasks=["a", "b", "c"])


def test_what_acts_in_training_alone(tmp_path: Path) -> None:
    extra = {"decoders__edge__output_level_0__weight": torch.ones(1, 6, 1, 1)}
    imported = read(whole(**extra, tam_model0__layers0__0__weight=torch.ones(3)), tmp_path)
    assert "left aside: output_level_0, tam_model0" in imported.notes
    alone = read(whole(**extra), tmp_path, backbone_only=True)
    assert "left aside: head of semseg, head of normals, head of edge" in alone.notes


def test_lists_everything_that_does_not_fit(tmp_path: Path) -> None:
    w = whole(
        decoders__edge__conv_2__bias=None,
        decoders__edge__conv_1__weight=torch.zeros(6, 6, 1, 1),
        decoders__semseg__norm__extra=torch.ones(2),
        decoders__normals__syncbn_fc_3__running_var=-torch.ones(6),
    )
    with pytest.raises(ValueError) as caught:
        read(w, tmp_path)
    text = str(caught.value)
    assert "missing decoders.edge.conv_2.bias (6,)" in text
    assert "decoders.edge.conv_1.weight is (6, 6, 1, 1), expected (6, 6, 3, 3)" in text
    assert "decoders.normals.syncbn_fc_3.running_var has negative values" in text
    assert "unexpected decoders.semseg.norm.extra (2,)" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoders__depth__aspp__weight": torch.ones(1)},
            r"decoders\.depth\.\* has aspp; expected M3ViT's upsampling head: norm, conv_0,",
        ),
        (
            {f"decoders__edge__conv_4__{part}": None for part in ("weight", "bias")},
            r"decoders\.edge\.\* has norm, conv_0, conv_1, .*--backbone-only leaves heads aside",
        ),
        ({"decoders__odd": torch.ones(1)}, r"decoders\.odd\.\* has no part; expected M3ViT's"),
    ],
)
def test_other_decoders(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(whole(**changes), tmp_path)
    assert read(whole(**changes), tmp_path, backbone_only=True).model.config.decoder == "linear"


def test_refusals(tmp_path: Path) -> None:
    w = {**m3vit_weights(), **m3vit_decoders(TASKS)}
    with pytest.raises(ValueError, match="for patches of 16 pixels, and patches of 8"):
        import_m3vit(save(w, tmp_path), image=M3vit.IMAGE, heads=HEADS)
    w = {**m3vit_weights(patch=16), **m3vit_decoders({"semseg": 3, "pose": 2, "depth": 1})}
    with pytest.raises(ValueError, match="a head for task pose; expected some of semseg, human"):
        read(w, tmp_path)
    w = {**m3vit_weights(patch=16), **m3vit_decoders({"semseg": 3, "depth": 1})}
    with pytest.raises(ValueError, match="gates for 3 tasks, but 2 names"):
        read(w, tmp_path)
    w = {**m3vit_weights(patch=16), **m3vit_decoders({"semseg": 3, "edge": 1, "depth": 2})}
    with pytest.raises(ValueError, match="Task depth of kind depth has 1 channels, not 2"):
        read(w, tmp_path)
    w = {**m3vit_weights(patch=16), **m3vit_decoders({"semseg": 3, "edge": 1, "depth": 1})}
    assert any("metres" in note for note in read(w, tmp_path).notes)
