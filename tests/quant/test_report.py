"""The report of where integers differ from float."""

import json

import numpy as np
import pytest
from support.float_networks import float_network

from moevit.quant.analysis.report import Agreement, compare
from moevit.quant.golden import Golden
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.quantize import quantise
from moevit.quant.random_network import random_images


def test_comparison() -> None:
    net = float_network(1, depth=3, moe=(1,))
    quantised = quantise(net, calibrate(net, random_images(0, net.geometry, 100)))
    images = random_images(9, net.geometry, 4)
    steps: list[int] = []
    result = compare(net, quantised, images, progress=steps.append)
    assert steps == [1, 2, 3, 4]
    assert list(result.noise) == ["a", "b"]
    exact = net.run(images)["b"]
    got = np.stack([r.output for r in Golden(quantised).run_batch(images)["b"]])
    noise = np.mean((got * quantised.heads["b"].linear.scale - exact) ** 2)
    assert result.decibels("b", "head") == pytest.approx(10 * np.log10(np.var(exact) / noise), 1e-3)
    for task in net.tasks:
        # Noise gathers on the way; the mixture's routing is nearly always the same.
        assert result.decibels(task, "embed") > result.decibels(task, "blocks.2.mlp") > 15
        assert result.decibels(task, "blocks.1.logits") > 20
        agreement = result.routing[task][1]
        assert agreement.tokens == 4 * net.geometry.tokens
        assert 0.8 * agreement.tokens <= agreement.same_set <= agreement.tokens
    text = json.dumps(result.to_dict())
    assert json.loads(text)["tasks"]["a"]["routing"]["1"]["same_set"] >= 0.8


def test_agreement_counts_tokens() -> None:
    agreement = Agreement()
    agreement.add(np.array([[0, 1], [2, 3], [4, 5]]), np.array([[1, 0], [2, 3], [4, 6]]))
    assert (agreement.tokens, agreement.same_set, agreement.same_first) == (3, 2, 2)
