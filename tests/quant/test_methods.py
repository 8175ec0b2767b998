"""The methods by name, and each of them at work."""

from __future__ import annotations

import numpy as np
import pytest
from support.float_networks import float_network

from moevit.quant.check import check_network
from moevit.quant.float.network import FloatNetwork
from moevit.quant.golden import Golden
from moevit.quant.network import Moe, Network
from moevit.quant.ptq import quantize as ptq
from moevit.quant.ptq.calibrate import Calibration, calibrate
from moevit.quant.ptq.methods import DEFAULT, METHODS, PLAIN, about, method
from moevit.quant.ptq.options import CLASSES
from moevit.quant.ptq.quantize import Options, quantise
from moevit.quant.ptq.ranges import Encoding
from moevit.quant.random_network import random_images


@pytest.fixture(scope="module")
def prepared() -> tuple[FloatNetwork, Calibration]:
    net = float_network(12, moe=(1,))
    return net, calibrate(net, random_images(0, net.geometry, 150))


def noise(net: FloatNetwork, quantised: Network) -> float:
    """Squared error over variance, mean over tasks, on new images."""
    images = random_images(99, net.geometry, 16)
    exact, results = net.run(images), Golden(quantised).run_batch(images)
    shares = []
    for task in net.tasks:
        got = np.stack([r.output for r in results[task]]) * quantised.heads[task].linear.scale
        shares.append(np.mean((got - exact[task]) ** 2) / np.var(exact[task]))
    return float(np.mean(shares))


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name][0].finetune])
def test_each_method(name: str, prepared: tuple[FloatNetwork, Calibration]) -> None:
    net, stats = prepared
    quantised = quantise(net, stats, method(name, expert_bits=4))
    check_network(quantised)
    assert noise(net, quantised) < 0.03
    assert quantised.meta["quantisation"]["expert_bits"] == 4
    assert about(name)


def test_classes_of_four_bits(prepared: tuple[FloatNetwork, Calibration]) -> None:
    """Those that are named have them, no other layer; rounding looks at the right width."""
    net, stats = prepared
    for narrow in ((), *((name,) for name in CLASSES), CLASSES):
        quantised = quantise(net, stats, Options(narrow=narrow, rounding="nearest"))
        check_network(quantised)
        found: dict[str, set[int]] = {"patch_embed": {quantised.patch_embed.weight_bits}}
        for block in quantised.blocks:
            a, mlp = block.attention, block.mlp
            layers = {"q": [a.q], "k": [a.k], "v": [a.v], "proj": [a.proj]}
            if isinstance(mlp, Moe):
                layers["routers"] = list(mlp.routers.values())
                assert {e.fc1.weight_bits for e in mlp.experts} == {8}
            else:
                layers |= {"fc1": [mlp.fc1], "fc2": [mlp.fc2]}
            for name, some in layers.items():
                found.setdefault(name, set()).update(layer.weight_bits for layer in some)
        found["heads"] = {head.linear.weight_bits for head in quantised.heads.values()}
        assert found == {name: {4 if name in narrow else 8} for name in CLASSES}


def test_experts_of_four_bits_are_worth_rounding_well() -> None:
    """Over networks: where a token goes to another expert, a single one says little."""
    found = dict.fromkeys(("minmax", "gptq", DEFAULT), 0.0)
    for seed in (20, 21, 22, 23):
        net = float_network(seed, moe=(1,))
        stats = calibrate(net, random_images(0, net.geometry, 100))
        for name in found:
            found[name] += noise(net, quantise(net, stats, method(name, expert_bits=4)))
    assert found["gptq"] < 0.95 * found["minmax"]
    assert found[DEFAULT] < 0.85 * found["minmax"]


def test_bias_correction_restores_means(prepared: tuple[FloatNetwork, Calibration]) -> None:
    """Of a layer of 4 bits on inputs with a mean, some of them beyond the codes' range."""
    net, stats = prepared
    rng = np.random.default_rng(0)
    layer = net.blocks[0].attention.v
    rows = rng.normal(0.7, 1.0, (400, layer.weight.shape[1]))
    encoding = Encoding(scale=np.full(rows.shape[1], 0.015), offset=np.full(rows.shape[1], 0.2))
    exact, off = layer(rows).mean(axis=0), {}
    for correct in (False, True):
        options = Options(bias_correction=correct)
        made = ptq._Quantiser(net, stats, options).linear(layer, encoding, 0.01, rows=rows, bits=4)
        off[correct] = np.abs(made.values(encoding.encode(rows)).mean(axis=0) * 0.01 - exact).max()
    assert off[True] < 0.002 < 0.05 < off[False]


def test_the_zero_point_meets_no_weight_error(prepared: tuple[FloatNetwork, Calibration]) -> None:
    """An input of 0, code -110, gives the exact bias whatever the weights' rounding."""
    net, stats = prepared
    layer = net.blocks[0].attention.v
    width = layer.weight.shape[1]
    encoding = Encoding(scale=np.full(width, 0.02), offset=np.full(width, 2.2))
    made = ptq._Quantiser(net, stats, PLAIN).linear(layer, encoding, 0.01, bits=4, pivot=-110)
    got = made.values(np.full((1, width), -110))[0] * 0.01
    assert np.abs(got - layer.bias).max() < 0.0051


def test_names() -> None:
    assert method("minmax") == PLAIN and method(DEFAULT) == Options()
    with pytest.raises(ValueError, match=r"Method must be one of minmax, .*, qat, not 'max'"):
        method("max")
