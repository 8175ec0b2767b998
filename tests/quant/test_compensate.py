"""Layers that make up for what rounding did to their inputs, and how well a picture fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.float_networks import float_network

from moevit.quant.analysis.fit import fit_of
from moevit.quant.check import check_network
from moevit.quant.float.network import FloatNetwork, FloatNorm
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.flow import Flow
from moevit.quant.ptq.methods import BALANCE, COMPENSATE, method
from moevit.quant.ptq.quantize import Options, quantise
from moevit.quant.ptq.rounding import compensated
from moevit.quant.random_network import random_images
from moevit.quant.typing import Ints


def test_compensation_is_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (60, 9)).astype(np.float64)
    true, bias = rng.normal(size=(4, 9)), rng.normal(size=4)
    start = true + rng.normal(size=true.shape)
    weight, moved = compensated(start, bias + 3, codes, codes @ true.T + bias, 1e-9)
    np.testing.assert_allclose(weight, true, atol=1e-4)
    np.testing.assert_allclose(moved, bias, atol=1e-2)
    weight, _ = compensated(start, bias, codes, codes @ true.T + bias, 1e6)  # damped out
    np.testing.assert_allclose(weight, start, atol=1e-4)


def error(net: FloatNetwork, quantised: Network, images: Ints) -> float:
    """Squared error over variance, mean over tasks."""
    exact, found = net.run(images), Golden(quantised).run_batch(images)
    shares = []
    for task in net.tasks:
        step = quantised.token_scale if task not in quantised.heads else quantised.heads[task].scale
        got = np.stack([r.output for r in found[task]]) * step
        shares.append(np.mean((got - exact[task]) ** 2) / np.var(exact[task]))
    return float(np.mean(shares))


def entered(net: FloatNetwork) -> FloatNetwork:
    dim = net.geometry.dim
    norm = FloatNorm(gain=np.full(dim, 2, np.float32), bias=np.ones(dim, np.float32), eps=1e-6)
    return replace(net, entry=norm)


NETWORKS: dict[str, Any] = {
    "dense": lambda: float_network(3, moe=()),
    "mixture first": lambda: float_network(4, moe=(0, 2)),
    "windows": lambda: float_network(5, moe=(1,), window=2, k=1),
    "gates ahead": lambda: float_network(6, moe=(1, 2), ahead=True),
    "norm in front": lambda: entered(float_network(7, moe=(1,), class_token=False)),
    "tokens": lambda: replace(float_network(8, moe=(1,)), heads={}, norm=None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_calibrated_pictures_come_out_better(name: str) -> None:
    net = NETWORKS[name]()
    images = random_images(0, net.geometry, 16)
    stats = calibrate(net, images)
    plain, better = (quantise(net, stats, method(name)) for name in (BALANCE, COMPENSATE))
    check_network(better)
    assert error(net, better, images) < 0.8 * error(net, plain, images)


def test_the_flow_is_the_golden_model() -> None:
    """What goes along are the integers that the network will have."""
    net = float_network(9, moe=(1,))
    images = random_images(0, net.geometry, 5)
    flows: list[Flow] = []

    class Watched(Flow):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            flows.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moevit.quant.ptq.quantize.Flow", Watched)
        quantised = quantise(net, calibrate(net, images), method(COMPENSATE))
    (flow,) = flows
    body = replace(quantised, norm=None, heads={})
    found = Golden(body).run_batch(images)
    want = np.concatenate([np.stack([r.output for r in found[t]]) for t in net.tasks])
    np.testing.assert_array_equal(flow.x, want)


@pytest.mark.parametrize("change", [{"margin": 0.9}, {"compensate": -1.0}])
def test_bad_options(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)).title()):
        Options(**change)  # type: ignore[arg-type]


def test_pictures_unlike_the_calibration_are_seen() -> None:
    net = float_network(10, moe=(1,))
    images = random_images(0, net.geometry, 40)
    quantised = quantise(net, calibrate(net, images), method(BALANCE))
    golden, usual = Golden(quantised), quantised.meta["clipped"]
    same = fit_of(golden.run(images[0], net.tasks[0], trace=True).trace, usual)
    assert same.good and same.clipped <= 0.001
    narrow = quantise(net, calibrate(net, images // 16 + 120), method(BALANCE))
    trace = Golden(narrow).run(images[0], net.tasks[0], trace=True).trace
    unlike = fit_of(trace, narrow.meta["clipped"])
    assert not unlike.good and unlike.worst >= unlike.clipped > 0.001
    assert unlike.where in str(unlike) and "at the ends of the ranges" in str(unlike)
    assert fit_of(trace).good  # nobody knows what is usual
    with pytest.raises(ValueError, match="no activations"):
        fit_of({})
