"""What changes nothing in floats changes the integers' error by little."""

from __future__ import annotations

import numpy as np
import pytest
from support.float_networks import float_network
from support.invariance import TRANSFORMATIONS, transformed

from moevit.quant.float.network import FloatNetwork
from moevit.quant.golden import Golden
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.methods import BALANCE, method
from moevit.quant.ptq.quantize import quantise
from moevit.quant.random_network import random_images

SEEDS = (1, 2, 3)


def error(net: FloatNetwork, name: str) -> float:
    """Relative RMS error of the heads' outputs on new images."""
    quantised = quantise(net, calibrate(net, random_images(0, net.geometry, 40)), method(name))
    images = random_images(99, net.geometry, 12)
    exact, found = net.run(images), Golden(quantised).run_batch(images)
    squares = []
    for task, head in quantised.linear_heads.items():
        got = np.stack([r.output for r in found[task]]) * head.scale
        squares.append(np.mean((got - exact[task]) ** 2) / np.var(exact[task]))
    return float(np.sqrt(np.mean(squares)))


@pytest.mark.parametrize("kind", TRANSFORMATIONS)
def test_floats_stay(kind: str) -> None:
    net = float_network(1, moe=(1,))
    images = random_images(3, net.geometry, 4)
    exact, found = net.run(images), transformed(net, kind).run(images)
    for task in net.tasks:
        np.testing.assert_allclose(found[task], exact[task], atol=2e-4 * np.abs(exact[task]).max())


@pytest.mark.parametrize("kind", TRANSFORMATIONS)
def test_integers_stay(kind: str) -> None:
    """Errors of single networks move with tokens near to another expert: over several."""
    nets = [float_network(seed, moe=()) for seed in SEEDS]
    before = [error(net, BALANCE) for net in nets]
    after = [error(transformed(net, kind), BALANCE) for net in nets]
    assert np.mean(after) < 1.1 * np.mean(before)
    if kind == "values":  # and the test sees a method that does not have it
        plain = [error(net, "minmax") for net in nets]
        worse = [error(transformed(net, kind), "minmax") for net in nets]
        assert np.mean(worse) > 1.5 * np.mean(plain)
