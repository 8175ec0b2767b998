"""One part in integers: nothing changes where nothing is chosen, everything where all is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.float_networks import float_network

from moevit.quant.analysis.sensitivity import KINDS, Part, parts, simulate
from moevit.quant.float.network import FloatNetwork
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.layers import Layers
from moevit.quant.ptq.quantize import Options, quantise, quantise_with_parts
from moevit.quant.random_network import random_images


@pytest.fixture(scope="module")
def made() -> tuple[FloatNetwork, Network, Layers]:
    net = float_network(31, moe=(1,))
    stats = calibrate(net, random_images(0, net.geometry, 150))
    return net, *quantise_with_parts(net, stats, Options(expert_bits=4))


def outputs(net: FloatNetwork, edit: Any = None) -> Any:
    found = net.run(random_images(5, net.geometry, 12), edit=edit)
    return np.concatenate([found[task].ravel() for task in net.tasks])


def test_all_parts_together_are_the_integer_network(made: Any) -> None:
    net, quantised, layers = made
    exact = outputs(net)
    simulated = outputs(*simulate(net, quantised, layers, None))
    results = Golden(quantised).run_batch(random_images(5, net.geometry, 12))
    golden = np.concatenate(
        [
            (np.stack([r.output for r in results[t]]) * quantised.heads[t].linear.scale).ravel()
            for t in net.tasks
        ]
    )
    assert np.mean((simulated - golden) ** 2) < 0.5 * np.mean((exact - golden) ** 2)


def test_each_part_costs_something_and_less_than_all(made: Any) -> None:
    net, quantised, layers = made
    exact = outputs(net)
    whole = np.mean((outputs(*simulate(net, quantised, layers, None)) - exact) ** 2)
    noise = {}
    for part in parts(net):
        noise[part.name] = np.mean((outputs(*simulate(net, quantised, layers, part)) - exact) ** 2)
        assert noise[part.name] > 0, part
    assert max(noise.values()) < 2 * whole
    # Weights of 4 bits behind the routers, not of 8 in the last block; the 16-bit stream least.
    assert noise["blocks.1.fc2"] > 5 * noise["blocks.2.fc2"]
    assert noise["residual"] < 0.01 * whole


def test_names() -> None:
    net = float_network(1, moe=(1,))
    names = [part.name for part in parts(net)]
    assert len(names) == len(set(names))
    assert "blocks.1.router" in names and "blocks.0.router" not in names
    assert {part.kind for part in parts(net)} == set(KINDS) - {"stages"}  # of upsampling heads
    assert Part(kind="fc1", block=1).holds("blocks.1.experts.2.fc1", {"fc1": r".*fc1"})
    assert not Part(kind="fc1", block=1).holds("blocks.11.experts.2.fc1", {"fc1": r".*fc1"})


def test_parts_are_of_the_same_network(made: Any) -> None:
    net, quantised, _ = made
    stats = calibrate(net, random_images(0, net.geometry, 150))
    again = quantise(net, stats, Options(expert_bits=4))
    image = random_images(2, net.geometry)[0]
    assert np.array_equal(
        Golden(again).run(image, "a").output, Golden(quantised).run(image, "a").output
    )
