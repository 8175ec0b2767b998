"""QDQ exports: the network's own integers, standard operators, close to the golden model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.float_networks import float_network
from support.saturation import accumulated, compared, products, recorded, signed

from moevit.model.export.onnx import session
from moevit.model.export.qdq import QDQ_OPSET, export_qdq
from moevit.quant.float.network import FloatLinear, FloatMoe
from moevit.quant.golden import Golden
from moevit.quant.network import Moe, Network
from moevit.quant.operators.activations import ACTIVATIONS, Activation
from moevit.quant.operators.upsampling import UpsamplingHead
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.quantize import Options, quantise
from moevit.quant.random_network import Sizes, random_images, random_network


def quantised(seed: int = 4, bits: int = 8, **sizes: Any) -> Network:
    net = float_network(seed, **sizes)
    stats = calibrate(net, random_images(0, net.geometry, 100))
    return quantise(net, stats, Options(expert_bits=bits))


def codes(tensor: Any) -> Any:
    """A file's weights as the network has them."""
    found = numpy_helper.to_array(tensor)
    return found.astype(np.int16) - (128 if tensor.data_type == onnx.TensorProto.UINT8 else 0)


@pytest.fixture(scope="module", params=[8, 4])
def exported(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Network, file, report."""
    network = quantised(bits=request.param)
    path = tmp_path_factory.mktemp("qdq") / "deep" / "all.onnx"
    images = random_images(7, network.geometry, 12)
    return network, path, export_qdq(network, path, images=images)


def test_close_to_the_golden_model(exported: Any) -> None:
    network, path, report = exported
    for found in report["difference"].values():
        assert found["sqnr_db"] > 28
        assert found["mean"] < 0.01 * found["peak"] and found["max"] < 0.15 * found["peak"]
    run = session(str(path)).run
    golden = Golden(network)
    for batch in (1, 3):
        images = random_images(11, network.geometry, batch)
        for task, got in zip(network.tasks, run(list(network.tasks), {"images": images})):  # noqa: B905
            results = golden.run_batch(images, [task])[task]
            exact = golden.dequantise(np.stack([r.output for r in results]), task)
            assert got.shape == exact.shape
            assert np.abs(got - exact).max() < 0.15 * np.abs(exact).max()


def test_the_file_holds_the_networks_integers(exported: Any) -> None:
    network, path, report = exported
    proto = onnx.load(path)
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": QDQ_OPSET}
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    assert [output.name for output in proto.graph.output] == list(network.tasks)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert report["bytes"] == path.stat().st_size
    tensors = {t.name: t for t in proto.graph.initializer}
    block = network.blocks[0]
    assert np.array_equal(codes(tensors["blocks.0.q.weight"]), block.attention.q.weight.T)
    bias = numpy_helper.to_array(tensors["blocks.0.q.bias"])
    assert np.array_equal(bias, block.attention.q.bias)  # on codes whose zero point is 0
    moe = network.blocks[1].mlp
    assert isinstance(moe, Moe)
    stacked = tensors["blocks.1.fc2.weight"]
    narrow = moe.experts[0].fc2.weight_bits == 4
    assert stacked.data_type == (onnx.TensorProto.INT4 if narrow else onnx.TensorProto.UINT8)
    expected = np.concatenate([expert.fc2.weight.T for expert in moe.experts], axis=1)
    assert np.array_equal(codes(stacked), expected)
    biases = [x.fc2.bias + x.hidden.zero_point * x.fc2.weight.sum(axis=1) for x in moe.experts]
    found = numpy_helper.to_array(tensors["blocks.1.fc2.bias"])
    assert np.array_equal(found, np.concatenate(biases))
    names = [name for name in tensors if name.endswith(".weight")]
    assert len(names) == len(set(names)) and all(tensors[n].data_type != 1 for n in names)
    assert report["operators"]["TopK"] == len(network.tasks)


@pytest.mark.parametrize("what", [{"moe": ()}, {"class_token": False}, {"k": 1, "moe": (0, 2)}])
def test_other_networks(what: dict[str, Any], tmp_path: Path) -> None:
    network = quantised(6, **what)
    report = export_qdq(network, tmp_path / "m.onnx", images=random_images(3, network.geometry, 8))
    assert min(found["sqnr_db"] for found in report["difference"].values()) > 28


@pytest.mark.parametrize("function", list(ACTIVATIONS.values())[1:], ids=list(ACTIVATIONS)[1:])
def test_activation_functions(function: Activation, tmp_path: Path) -> None:
    network = quantised(6, depth=2, activation=function)
    report = export_qdq(network, tmp_path / "m.onnx", images=random_images(3, network.geometry, 8))
    assert min(found["sqnr_db"] for found in report["difference"].values()) > 28


@pytest.mark.parametrize(
    "routing",
    [
        {"renormalise": True},
        {"threshold": 0.3},
        {"top_p": 0.6, "k": 3},
        {"ahead": True},
        {"window": True},
    ],
)
def test_routings(routing: dict[str, Any], tmp_path: Path) -> None:
    net = float_network(8, moe=(0, 1))
    blocks = []
    for block in net.blocks:
        if isinstance(moe := block.mlp, FloatMoe):
            change = dict(routing)
            if change.pop("window", False):
                change["starts"] = {"a": 0, "b": 1}
                change["routers"] = {
                    task: FloatLinear(weight=r.weight[:3], bias=r.bias[:3])
                    for task, r in moe.routers.items()
                }
            block = dataclasses.replace(block, mlp=dataclasses.replace(moe, **change))
        blocks.append(block)
    net = dataclasses.replace(net, blocks=tuple(blocks))
    network = quantise(net, calibrate(net, random_images(0, net.geometry, 100)))
    images = random_images(3, network.geometry, 8)
    report = export_qdq(network, tmp_path / "m.onnx", images=images)
    assert min(found["sqnr_db"] for found in report["difference"].values()) > 26


def test_one_task_and_backbones(tmp_path: Path) -> None:
    network = quantised(5)
    images = random_images(3, network.geometry, 4)
    report = export_qdq(network, tmp_path / "b.onnx", ["b"], images=images)
    assert list(report["difference"]) == ["b"] and report["operators"]["TopK"] == 1
    for norm in (network.norm, None):
        bare = dataclasses.replace(network, heads={}, norm=norm)
        report = export_qdq(bare, tmp_path / "t.onnx", images=images)
        assert min(found["sqnr_db"] for found in report["difference"].values()) > 20
        out = onnx.load(tmp_path / "t.onnx").graph.output[0].type.tensor_type.shape.dim
        g = network.geometry
        assert [d.dim_value for d in out[1:]] == [g.tokens, g.dim]


@pytest.mark.parametrize(
    "sizes",
    [
        {"doublings": 0, "own_norm": True},
        {"doublings": 1},
        {"doublings": 3, "own_norm": True, "moe": ()},
    ],
)
def test_upsampling_heads(sizes: dict[str, Any], tmp_path: Path) -> None:
    network = quantised(6, depth=1, **sizes)
    report = export_qdq(network, tmp_path / "u.onnx", images=random_images(3, network.geometry, 8))
    assert min(found["sqnr_db"] for found in report["difference"].values()) > 28
    proto = onnx.load(tmp_path / "u.onnx").graph
    held = {t.name: t for t in proto.initializer}
    head = network.heads["b"]
    assert isinstance(head, UpsamplingHead)
    for n, stage in enumerate(head.stages):
        for w, linear in enumerate(stage.linears):
            weight = held[f"heads.b.stages.{n}.windows.{w}.weight"]
            assert np.array_equal(codes(weight), linear.weight.T)
    shape = [d.dim_value for d in proto.output[1].type.tensor_type.shape.dim[1:]]
    assert shape == [head.channels, *(head.upscale * side for side in network.geometry.grid)]


def test_upsampling_of_larger_grids(tmp_path: Path) -> None:
    """Windows that read slices alone."""
    sizes = Sizes(image_height=32, image_width=64, decoder_width=5, doublings=1, moe=())
    network = random_network(3, sizes)
    images = random_images(1, network.geometry, 2)
    report = export_qdq(network, tmp_path / "u.onnx", images=images)
    assert min(found["sqnr_db"] for found in report["difference"].values()) > 28


SATURATING = [
    {},
    {"bits": 4},
    {"k": 1, "moe": (0, 2), "seed": 6},
    {"doublings": 2, "depth": 1, "seed": 6},
]


@pytest.mark.parametrize("what", SATURATING)
def test_no_processor_saturates(what: dict[str, Any], tmp_path: Path) -> None:
    """Whatever kernel a product of two tensors of bytes is fused to, its sums are the exact ones;
    and none has one such operand beside a float one, which onnxruntime would quantise."""
    network = quantised(**what)
    export_qdq(network, tmp_path / "m.onnx", images=random_images(3, network.geometry, 2))
    proto = onnx.load(tmp_path / "m.onnx")
    images = random_images(9, network.geometry, 2)
    recording = recorded(proto, images)
    fused = 0
    for product in products(proto):
        a, b = product.operands
        assert (a is None) == (b is None), product.node.name
        if a is None or b is None:
            continue
        kinds = {recording[x.input[0]].dtype.name for x in (a, b)}
        assert kinds <= {"uint8", "int4"}, (product.node.name, kinds)
        exact, got = compared(product, recording)
        assert np.array_equal(got, exact), product.node.name
        fused += 1
    assert fused >= 8
    # The form with signed second operands is the same function, and would be found.
    usual = signed(proto)
    recording = recorded(usual, images)
    caught = [
        product.node.name
        for product in products(usual)
        if product.operands[0] is not None
        for exact, got in [compared(product, recording)]
        if not np.array_equal(got, exact)
    ]
    assert caught
    whole = recorded(proto, images)
    for name in set(recording) & set(whole):
        if whole[name].dtype == recording[name].dtype == np.uint8:
            assert np.abs(whole[name].astype(int) - recording[name]).max() <= 1


def test_the_saturating_sum_itself() -> None:
    """By hand: 2 x 255 x 127 is more than 16 bits hold; a signed first operand is offset."""
    a, b = np.full((1, 2), 255, np.uint8), np.full((2, 1), 127, np.int8)
    assert [int(x) for ((x,),) in accumulated(a, b)] == [64770, 32767]
    low = np.full((1, 3), 127, np.int8)
    exact, got = accumulated(low, np.full((3, 1), 127, np.int8))
    assert exact == 3 * 127 * 127 and got == 32767 + 255 * 127 - 128 * 3 * 127
    exact, got = accumulated(a, np.full((2, 1), 255, np.uint8))
    assert exact == got == 2 * 255 * 255
    rng = np.random.default_rng(0)
    narrow = rng.integers(-64, 64, (5, 4)).astype(np.int8)
    exact, got = accumulated(rng.integers(0, 256, (3, 5)).astype(np.uint8), narrow)
    assert np.array_equal(exact, got)


def test_same_with_optimisation_and_without(exported: Any, tmp_path: Path) -> None:
    """And what onnxruntime makes of it on this machine: kernels on unsigned bytes alone."""
    import onnxruntime

    network, path, _ = exported
    images = random_images(5, network.geometry, 8)
    golden = Golden(network)
    outputs = {}
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(tmp_path / f"{level}.onnx")
        run = onnxruntime.InferenceSession(str(path), options).run
        outputs[level] = run(list(network.tasks), {"images": images})
    for n, task in enumerate(network.tasks):
        results = golden.run_batch(images, [task])[task]
        exact = golden.dequantise(np.stack([r.output for r in results]), task)
        for got in outputs.values():
            noise = np.mean((got[n].reshape(exact.shape) - exact) ** 2)
            assert 10 * np.log10(np.var(exact) / noise) > 28
    fused = onnx.load(tmp_path / "ORT_ENABLE_ALL.onnx").graph
    kinds = {i.name: i.type.tensor_type.elem_type for i in fused.value_info}
    kinds |= {t.name: t.data_type for t in fused.initializer}
    names = {node.op_type for node in fused.node}
    assert not [n for n in names if n.startswith("Dynamic") or n == "MatMulNBits"]
    for node in fused.node:
        if node.op_type in ("MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger", "QGemm"):
            found = [kinds.get(name) for name in node.input]
            assert onnx.TensorProto.INT8 not in found, node


def test_same_network_same_file(tmp_path: Path) -> None:
    network = quantised(5)
    for name in ("1.onnx", "2.onnx"):
        export_qdq(network, tmp_path / name)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


@pytest.mark.parametrize("tasks", [["c"], []])
def test_unknown_tasks(tasks: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Task must be one of a, b, not"):
        export_qdq(quantised(5), tmp_path / "m.onnx", tasks)
    assert not list(tmp_path.iterdir())
