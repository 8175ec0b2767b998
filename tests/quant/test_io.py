"""Networks on disk: the round trip, and what broken files say."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from moevit.quant.check import check_network
from moevit.quant.golden import Golden
from moevit.quant.io import load_network, save_network
from moevit.quant.network import Moe, Network
from moevit.quant.operators.activations import ACTIVATIONS
from moevit.quant.random_network import Sizes, random_images, random_network

KEY = "moevit.network"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(),
        Sizes(depth=3, moe=(0, 2), tasks=3, head_channels=(2,), class_token=False),
        Sizes(moe=(), norm=False, head_channels=(), tasks=1),
        Sizes(experts=1, top_k=1),
        Sizes(expert_bits=4, expert_activation=list(ACTIVATIONS)[-1]),
    ],
)
def test_round_trip(tmp_path: Path, sizes: Sizes) -> None:
    net = random_network(3, sizes)
    net = dataclasses.replace(net, meta={"name": "ü", "nested": {"list": [1, 2.5, None]}})
    save_network(net, tmp_path / "net.safetensors")
    again = load_network(tmp_path / "net.safetensors")
    assert same(net, again)
    image = random_images(1, net.geometry)[0]
    for task in net.tasks:
        assert np.array_equal(
            Golden(net).run(image, task).output, Golden(again).run(image, task).output
        )
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors and the tree of a saved network."""
    path = tmp_path_factory.mktemp("net") / "net"
    save_network(random_network(0), path)
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()[KEY])


def reload(tmp_path: Path, tensors: dict[str, Any], tree: Any) -> Network:
    save_file(tensors, tmp_path / "bad", metadata={KEY: json.dumps(tree)})
    return load_network(tmp_path / "bad")


def put(tree: Any, path: str, value: Any) -> Any:
    """A copy of ``tree`` with another value at a dotted path; ``...`` removes it."""
    tree = json.loads(json.dumps(tree))
    *parents, last = path.split(".")
    node = tree
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node[name]
    if value is ...:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 9, "version 1 expected"),
        ("network.residual_scale", ..., "field residual_scale is missing"),
        ("network.residual_scale", -1.0, "residual_scale must be positive"),
        ("network.surprise", 1, "unknown field surprise"),
        ("network.geometry.dim", "32", "field geometry.dim must be int, not '32'"),
        ("network.geometry.dim", 33, "geometry.heads 2 must divide dim 33"),
        ("network.geometry.dim", 34, r"patch_embed.weight must be int8 \(34, 192\)"),
        ("network.blocks.0.mlp.kind", "Other", "field blocks.0.mlp must be Mlp or Moe, not Other"),
        (
            "network.heads.task0.kind",
            "Other",
            "field heads.task0 must be Head or UpsamplingHead, not Other",
        ),
        ("network.blocks.0.mlp.hidden.zero_point", 200, "blocks.0.mlp.hidden.zero_point must fit"),
        (
            "network.blocks.0.mlp.hidden.function",
            "mish",
            "blocks.0.mlp.hidden.function must be one",
        ),
        ("network.blocks.1.mlp.gate.k", 9, "blocks.1.mlp.gate: Top-k must be"),
        (
            "network.blocks.1.mlp.order.task0",
            [0, 0, 1, 2],
            "blocks.1.mlp.order.task0 must be a perm",
        ),
        ("network.blocks.1.mlp.usage.task1", ..., "usage must have each task once; check task1"),
        ("network.norm", None, "heads.task0 needs the final norm"),
        ("network.tasks", [], "tasks must name at least one"),
        ("network.tasks", 5, "field tasks must be list, not 5"),
        ("network.blocks.0.norm1.eps", -1, "blocks.0.norm1.eps must fit 32 bits"),
        ("network", [], "field network must be dict"),
    ],
)
def test_bad_tree(tmp_path: Path, parts: Any, path: str, value: Any, message: str) -> None:
    tensors, tree = parts
    if path == "network.norm":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("norm.")}
    with pytest.raises(ValueError, match=rf"Cannot read .*bad: .*{message}"):
        reload(tmp_path, tensors, put(tree, path, value))


def test_an_earlier_file(tmp_path: Path, parts: Any) -> None:
    """Hidden activations had another name, and one function."""
    tensors, tree = parts
    mlp = tree["network"]["blocks"][0]["mlp"]
    earlier = {k: v for k, v in mlp["hidden"].items() if k != "function"}
    kept = {**{k: v for k, v in mlp.items() if k != "hidden"}, "gelu": earlier}
    assert same(
        reload(tmp_path, tensors, put(tree, "network.blocks.0.mlp", kept)), random_network(0)
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("embedding", None, "tensor embedding is missing"),
        ("embedding", lambda t: t.astype(np.int32), "embedding must be int16"),
        ("blocks.0.attention.q.weight", lambda t: t[:, 1:], "attention.q.weight must be int8"),
        ("blocks.0.attention.q.shift", lambda t: t + np.uint8(70), "shift must lie in 0..63"),
        (
            "blocks.0.mlp.fc1.weight",
            lambda t: np.full_like(t, -128),
            r"weight must lie within \+-127",
        ),
        ("blocks.0.mlp.fc1.bias", lambda t: t * 0 + (1 << 27), "blocks.0.mlp.fc1: Channel 15 can"),
    ],
)
def test_bad_tensors(tmp_path: Path, parts: Any, name: str, change: Any, message: str) -> None:
    tensors, tree = dict(parts[0]), parts[1]
    value = tensors.pop(name)
    if change is not None:
        tensors[name] = np.ascontiguousarray(change(value))
    with pytest.raises(ValueError, match=message):
        reload(tmp_path, tensors, tree)


def test_unknown_tensor(tmp_path: Path, parts: Any) -> None:
    tensors, tree = parts
    with pytest.raises(ValueError, match="unknown tensor extra"):
        reload(tmp_path, {**tensors, "extra": np.zeros(1, np.int8)}, tree)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No quantised network at"):
        load_network(tmp_path / "absent")
    (tmp_path / "text").write_text("hello, world, this is no tensor file")
    with pytest.raises(ValueError, match=r"Cannot read .*text"):
        load_network(tmp_path / "text")
    save_file({"a": np.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="not a quantised network"):
        load_network(tmp_path / "foreign")


@settings(max_examples=25)
@given(st.integers(0, 1 << 30))
def test_truncated_files(tmp_path_factory: pytest.TempPathFactory, where: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    save_network(random_network(0, Sizes(dim=4, heads=1, hidden=4, expert_hidden=4)), folder / "n")
    data = (folder / "n").read_bytes()
    (folder / "n").write_bytes(data[: where % len(data)])
    with pytest.raises(ValueError, match="Cannot read"):
        load_network(folder / "n")


def test_inconsistent_networks_are_not_written(tmp_path: Path) -> None:
    net = random_network(0)
    moe = net.blocks[1].mlp
    assert isinstance(moe, Moe)
    bad = dataclasses.replace(moe, order={**moe.order, "task0": (0, 1, 2)})
    block = dataclasses.replace(net.blocks[1], mlp=bad)
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.order\.task0"):
        save_network(dataclasses.replace(net, blocks=(net.blocks[0], block)), tmp_path / "n")
    assert not list(tmp_path.iterdir())
    check_network(net)
