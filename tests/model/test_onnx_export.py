"""ONNX exports: standard operators, any batch, the results of PyTorch, and nothing half-written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from moevit.model.config import ModelConfig, TaskConfig
from moevit.model.export import onnx as onnx_export
from moevit.model.export.onnx import OPSET, TOLERANCE, export_onnx, onnx_forward
from moevit.model.m3vit import M3ViT
from moevit.quant.operators.activations import ACTIVATIONS


def lively(config: ModelConfig) -> M3ViT:
    """A model whose routing depends on token and task."""
    torch.manual_seed(1)
    model = M3ViT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_images(config: ModelConfig, count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, *config.image, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(micro: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All tasks of the micro network: model, file, what the export reports."""
    model = lively(micro)
    path = tmp_path_factory.mktemp("onnx") / "deep" / "all.onnx"
    return model, path, export_onnx(model, path)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_all_tasks_equal_pytorch(exported: Any, batch: int) -> None:
    model, path, _ = exported
    assert model.training, "the export leaves the model as it was"
    forward, images = onnx_forward(path), random_images(model.config, batch)
    outputs = []
    for task in model.config.task_names:
        with torch.no_grad():
            expected = model.eval()(torch.from_numpy(images), task).numpy()
        got = forward(images, task)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=TOLERANCE)
        outputs.append(got)
    model.train()
    assert not np.allclose(outputs[1], outputs[3], atol=1e-2)  # tasks do differ


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": "one", "prune_threshold": 0.3, "renormalise": True},
        {"top_p": 0.6},
        {
            "gate": "conditioned",
            "gate_task_dim": 4,
            "experts_per_task": 2,
            "gate_input_ahead": True,
        },
    ],
)
def test_other_gates(micro: ModelConfig, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = dataclasses.replace(micro, **changes)
    report = export_onnx(lively(config), tmp_path / "gates.onnx", config.task_names[:2])
    assert max(report["difference"].values()) <= TOLERANCE


def test_activation_functions(micro: ModelConfig, tmp_path: Path) -> None:
    """Two at a time: of the dense block and of the experts."""
    names = list(ACTIVATIONS)[1:]
    for dense, expert in zip(names[::2], names[1::2] or names, strict=False):
        config = dataclasses.replace(micro, activation=dense, expert_activation=expert)
        report = export_onnx(lively(config), tmp_path / "m.onnx", config.task_names[:1])
        assert max(report["difference"].values()) <= TOLERANCE


def test_the_file(exported: Any) -> None:
    model, path, report = exported
    proto = onnx.load(path)
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": OPSET}
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    assert [output.name for output in proto.graph.output] == list(model.config.task_names)
    (images,) = proto.graph.input
    dims = images.type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims[1:]] == [*model.config.image, 3]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert report["operators"]["TopK"] == len(model.config.tasks)
    assert report["bytes"] == path.stat().st_size
    assert str(Path(__file__).parents[2]) not in path.read_bytes().decode("latin1")


@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "tokens", "final_norm": False, "gate_bias": True, "class_token_in_position": True},
        {"kind": "classification", "moe_every": 3},
    ],
)
def test_what_imports_give(kind: dict[str, Any], micro: ModelConfig, tmp_path: Path) -> None:
    name = kind.pop("kind")
    task = TaskConfig(name="only", kind=name, channels=micro.dim, stride=micro.patch)
    model = lively(dataclasses.replace(micro, tasks=(task,), **kind)).eval()
    export_onnx(model, tmp_path / "m.onnx")
    images = random_images(model.config, 2)
    got = onnx_forward(tmp_path / "m.onnx")(images, "only")
    with torch.no_grad():
        expected = model(torch.from_numpy(images), "only").numpy()
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_one_task(micro: ModelConfig, tmp_path: Path) -> None:
    report = export_onnx(lively(micro), tmp_path / "m.onnx", ["depth"])
    assert list(report["difference"]) == ["depth"] and report["operators"]["TopK"] == 1
    forward = onnx_forward(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="must be one of depth, not 'edges'"):
        forward(random_images(micro, 1), "edges")
    with pytest.raises(ValueError, match=r"must be \(B, \(16, 32, 3\)\) uint8, not \(1, 8, 8, 3\)"):
        forward(np.zeros((1, 8, 8, 3), np.uint8), "depth")


def test_a_wrong_graph_is_not_written(
    micro: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively(micro)
    convert = onnx_export._convert

    def spoil(graph: Any) -> Any:
        with torch.no_grad():
            graph.dense["1"].fc2_weight *= 1.5
        return convert(graph)

    monkeypatch.setattr(onnx_export, "_convert", spoil)
    with pytest.raises(RuntimeError, match="Task depth: onnxruntime differs from PyTorch by"):
        export_onnx(model, tmp_path / "m.onnx", ["depth"])
    with pytest.raises(ValueError, match="'nothing'"):
        export_onnx(model, tmp_path / "m.onnx", ["nothing"])
    assert not list(tmp_path.iterdir())


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        onnx_forward(tmp_path / "none.onnx")
    (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read"):
        onnx_forward(tmp_path / "m.onnx")
