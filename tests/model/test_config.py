"""Sizes: presets, derived values, JSON, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from moevit.model.config import PRESETS, ModelConfig, TaskConfig, preset


def test_nano_has_the_published_geometry() -> None:
    nano = preset("nano")
    assert (nano.tokens, nano.dim, nano.depth, nano.heads) == (129, 96, 6, 3)
    assert (nano.experts, nano.top_k, nano.expert_hidden, nano.mlp_hidden) == (8, 2, 192, 384)
    assert [nano.is_moe(block) for block in range(6)] == [False, True] * 3
    assert nano.task_names == ("segmentation", "depth", "normals", "edges", "saliency")
    assert nano.head_size("depth") == (32, 64)
    assert nano.subpixels("depth") == 4


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert ModelConfig.from_json(config.to_json()) == config


def test_unknown_preset_and_task_name_the_known_ones(micro: ModelConfig) -> None:
    with pytest.raises(ValueError, match="nano, tiny, small, base, not 'huge'"):
        preset("huge")
    with pytest.raises(ValueError, match=r"Task must be one of segmentation, .*, not 'pose'"):
        micro.task_index("pose")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim must be a positive integer, not 0"),
        ({"depth": True}, "depth must be a positive integer, not True"),
        ({"image": (16, 30)}, r"image \(16, 30\) must be a multiple of patch 8"),
        ({"heads": 3}, "dim 16 must be a multiple of heads 3"),
        ({"top_k": 5}, "top_k 5 must be at most experts 4"),
        ({"gate": "two"}, "gate must be one of multi, one, conditioned, not 'two'"),
        ({"gate": "conditioned"}, "gate_task_dim must be positive .*, not 0 for conditioned"),
        ({"gate_task_dim": 3}, "gate_task_dim must be .*, not 3 for multi"),
        ({"gate_task_hidden": 3}, "gate_task_hidden must not be negative.*, not 3"),
        ({"experts_per_task": 5}, "experts_per_task must be from 0 to 4, not 5"),
        ({"experts_per_task": 1}, "top_k 2 must be at most experts_per_task 1"),
        ({"expert_starts": (0, 0)}, r"expert_starts must be 5 numbers from 0 to 0, not \(0, 0\)"),
        ({"prune_threshold": 1.0}, "prune_threshold must be from 0 to below 1, not 1.0"),
        ({"top_p": 0.0}, "top_p must be above 0 to 1, not 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 to 1, not 1.5"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be positive, not 0.0"),
        ({"norm_eps": 0.0}, "norm_eps must be positive, not 0.0"),
        ({"pixel_std": (0.2, 0.0, 0.2)}, "pixel_std must be positive"),
        ({"tasks": ()}, "must name at least one task"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    micro: ModelConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(micro, **changes)


def test_tasks_that_do_not_fit_are_refused(micro: ModelConfig) -> None:
    depth = TaskConfig(name="depth", kind="depth", channels=1, stride=4)
    with pytest.raises(ValueError, match="different names, not depth, depth"):
        dataclasses.replace(micro, tasks=(depth, depth))
    with pytest.raises(ValueError, match="Task depth stride 3 must divide patch 8"):
        dataclasses.replace(micro, tasks=(dataclasses.replace(depth, stride=3),))
    with pytest.raises(ValueError, match="of kind depth has 1 channels, not 2"):
        dataclasses.replace(depth, channels=2)
    with pytest.raises(ValueError, match=r"kind must be one of .*, not 'flow'"):
        dataclasses.replace(depth, kind="flow")
    with pytest.raises(ValueError, match="name must be letters"):
        dataclasses.replace(depth, name="a/b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("dim"), "lacks the field 'dim'"),
        (lambda v: v.update(colour=1), "unknown field 'colour'"),
        (lambda v: v.update(tasks=3), "tasks must be a list, not 3"),
        (lambda v: v.update(image=[64]), r"image must be 2 numbers, not \[64\]"),
        (lambda v: v["tasks"][0].pop("kind"), "Task configuration lacks the field 'kind'"),
        (lambda v: v.update(mlp_ratio=None), "bad field"),
        (lambda v: v.update(expert_starts=["a"]), r"expert_starts must be whole.*, not \['a'\]"),
    ],
)
def test_broken_json_names_the_field(micro: ModelConfig, change, message: str) -> None:  # type: ignore[no-untyped-def]
    values = json.loads(micro.to_json())
    change(values)
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_text_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Model configuration"):
        ModelConfig.from_json(text)


def test_windows_are_spread_over_the_tasks(micro: ModelConfig) -> None:
    assert dataclasses.replace(micro, experts_per_task=2).starts == (0, 0, 1, 1, 2)
    two = dataclasses.replace(micro, experts_per_task=3, tasks=micro.tasks[:2])
    assert two.starts == (0, 1)  # as M3ViT has it for two tasks: 0 and E - n
    given = dataclasses.replace(two, expert_starts=(1, 0))
    assert given.starts == (1, 0)
    assert ModelConfig.from_json(given.to_json()) == given
