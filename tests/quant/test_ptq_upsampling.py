"""Upsampling heads quantised: close to float with every method, in all its reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.float_networks import float_network

from moevit.quant.analysis.report import compare
from moevit.quant.analysis.sensitivity import Part, parts, simulate
from moevit.quant.check import check_network
from moevit.quant.float.network import FloatNetwork
from moevit.quant.float.upsampling import (
    SAMPLED,
    FloatStage,
    FloatUpsamplingHead,
    read_by,
    surroundings,
)
from moevit.quant.formats import ACTIVATION
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.operators.upsampling import UpsamplingHead, windows
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.methods import METHODS, method
from moevit.quant.ptq.quantize import Options, quantise, quantise_with_parts
from moevit.quant.random_network import random_images


def outputs(quantised: Network, images: Any) -> Any:
    results = Golden(quantised).run_batch(images)
    return {
        task: np.stack([r.output for r in results[task]]) * quantised.heads[task].scale
        for task in quantised.tasks
    }


def noise(net: FloatNetwork, quantised: Network) -> list[float]:
    """Squared error over variance of each task on images that calibration did not see."""
    images = random_images(99, net.geometry, 12)
    exact, got = net.run(images), outputs(quantised, images)
    return [float(np.mean((got[t] - exact[t]) ** 2) / np.var(exact[t])) for t in net.tasks]


def layers_of(quantised: Network) -> Any:
    for task, head in quantised.heads.items():
        assert isinstance(head, UpsamplingHead)
        for n, stage in enumerate(head.stages):
            for w, linear in enumerate(stage.linears):
                yield f"heads.{task}.stages.{n}.windows.{w}", linear


@pytest.mark.parametrize(("doublings", "own_norm"), [(0, True), (1, False), (2, True), (3, False)])
def test_close_to_float(doublings: int, own_norm: bool) -> None:
    net = float_network(8, depth=1, moe=(), doublings=doublings, own_norm=own_norm)
    quantised = quantise(net, calibrate(net, random_images(0, net.geometry, 100)))
    check_network(quantised)
    assert max(noise(net, quantised)) < 0.01
    for head in quantised.heads.values():
        assert isinstance(head, UpsamplingHead)
        assert (head.norm is not None) == own_norm
        assert head.upscale == 2**doublings


@pytest.fixture(scope="module")
def prepared() -> Any:
    net = float_network(8, depth=0, moe=(), doublings=2)
    return net, calibrate(net, random_images(0, net.geometry, 100))


@pytest.mark.parametrize("name", [n for n, (o, _) in METHODS.items() if not o.finetune])
def test_each_method(name: str, prepared: Any) -> None:
    net, stats = prepared
    quantised = quantise(net, stats, method(name))
    check_network(quantised)
    assert max(noise(net, quantised)) < 0.01


def test_rounding_and_correction_reach_the_stages(prepared: Any) -> None:
    net, stats = prepared
    plain = dict(layers_of(quantise(net, stats, method("minmax"))))
    gptq = dict(layers_of(quantise(net, stats, method("gptq"))))
    bias = dict(layers_of(quantise(net, stats, method("bias"))))
    for name, linear in plain.items():
        assert not np.array_equal(linear.weight, gptq[name].weight), name
        assert np.array_equal(linear.weight, bias[name].weight), name
    moved = {n.split(".windows")[0] for n in plain if (plain[n].bias != bias[n].bias).any()}
    assert moved == {f"heads.{task}.stages.{n}" for task in "ab" for n in range(3)}

    images = random_images(99, net.geometry, 12)
    exact = net.run(images)

    def cost(name: str) -> float:
        """Noise of the weights alone, as a share of the outputs' variance."""
        parts = quantise_with_parts(net, stats, method(name))
        changed, edit = simulate(net, *parts, Part(kind="heads"))
        got = changed.run(images, edit=edit)
        return float(np.mean([np.var(got[t] - exact[t]) / np.var(exact[t]) for t in net.tasks]))

    assert cost("gptq") < 0.6 * cost("minmax")


def test_channels_have_scales_of_their_own(prepared: Any) -> None:
    """Where ranges differ a lot, one scale for all channels loses the narrow ones."""
    net, _ = prepared
    gain = np.ones(11, np.float32)
    gain[:4] = 50.0

    def uneven(head: Any) -> Any:
        first, second, *rest = head.stages
        return replace(
            head,
            stages=(
                replace(
                    first,
                    weight=first.weight * gain[:, None, None, None],
                    bias=first.bias * gain,
                ),
                replace(second, weight=second.weight / gain[:, None, None]),
                *rest,
            ),
        )

    net = replace(net, heads={task: uneven(head) for task, head in net.heads.items()})
    stats = calibrate(net, random_images(0, net.geometry, 100))
    found = {
        exponents: np.mean(noise(net, quantise(net, stats, Options(migrate=exponents))))
        for exponents in ((0.0,), (0.0, 0.5, 0.75, 1.0))
    }
    assert found[(0.0, 0.5, 0.75, 1.0)] < 0.1 * found[(0.0,)]


def test_a_channel_that_is_never_on(prepared: Any) -> None:
    net, _ = prepared

    def dead(head: Any) -> Any:
        first, *rest = head.stages
        bias = first.bias.copy()
        bias[:3] = -1e3
        return replace(head, stages=(replace(first, bias=bias), *rest))

    net = replace(net, heads={task: dead(head) for task, head in net.heads.items()})
    quantised = quantise(net, calibrate(net, random_images(0, net.geometry, 100)))
    check_network(quantised)
    image = random_images(3, net.geometry)[0]
    trace = Golden(quantised).run(image, "a", trace=True).trace
    assert np.all(trace["stages.0"][:, :3] == ACTIVATION.min)
    assert max(noise(net, quantised)) < 0.01


@pytest.fixture(scope="module")
def made() -> Any:
    net = float_network(8, depth=1, moe=(), doublings=1, own_norm=True)
    stats = calibrate(net, random_images(0, net.geometry, 100))
    return net, *quantise_with_parts(net, stats)


def test_sensitivity(made: Any) -> None:
    net, quantised, layers = made
    images = random_images(5, net.geometry, 8)
    exact = net.run(images)

    def cost(part: Any) -> float:
        changed, edit = simulate(net, quantised, layers, part)
        got = changed.run(images, edit=edit)
        return float(np.mean([np.mean((got[t] - exact[t]) ** 2) for t in net.tasks]))

    found = {part.name: cost(part) for part in parts(net)}
    assert {"norm", "stages", "heads"} <= set(found)
    assert min(found.values()) > 0
    golden = outputs(quantised, images)
    simulated, edit = simulate(net, quantised, layers, None)
    all_of_it = simulated.run(images, edit=edit)
    for task in net.tasks:
        gap = np.mean((golden[task] - all_of_it[task]) ** 2)
        assert gap < 0.5 * np.mean((golden[task] - exact[task]) ** 2)


def test_report(made: Any) -> None:
    net, quantised, _ = made
    result = compare(net, quantised, random_images(9, net.geometry, 2))
    assert all(result.decibels(task, "head") > 15 for task in net.tasks)


def test_planes() -> None:
    net = float_network(3, depth=0, moe=(), doublings=1)
    out = net.run(random_images(1, net.geometry, 2))["b"]
    planes = net.planes(out, "b")
    assert planes.shape == (2, 2, 4, 6)
    assert np.array_equal(planes[1, :, 2, 3], out[1, 2 * 6 + 3])


def test_samples_are_what_windows_read() -> None:
    """Every pixel of a small map is sampled; inside it a window's pixels are the map's."""
    maps = np.arange(2 * 4 * 4 * 2, dtype=np.float32).reshape(2, 4, 4, 2)
    around = surroundings(maps)
    assert around.shape == (2 * min(SAMPLED, 16), 18)
    for kernel, doubling in ((1, False), (1, True), (3, False), (3, True)):
        for window in windows((4, 4), kernel=kernel, doubling=doubling):
            read = {row.tobytes() for row in read_by(window, around)}
            exact = window.gather(maps).reshape(-1, window.taps * 2)
            assert {row.tobytes() for row in exact} <= read


def test_a_head_without_norm_is_refused() -> None:
    net = float_network(3, depth=0, moe=(), doublings=1)
    with pytest.raises(ValueError, match="Head 'a' needs a norm of its own"):
        replace(net, norm=None).run(random_images(1, net.geometry, 1))


def test_windows_with_layers_of_their_own() -> None:
    net = float_network(3, depth=0, moe=(), doublings=1)
    head = net.heads["a"]
    assert isinstance(head, FloatUpsamplingHead)
    names: list[str] = []

    def same(name: str, layer: Any) -> Any:
        names.append(name)
        return layer

    again = head.with_layers(net.geometry.grid, "heads.a", same)
    assert names[0] == "heads.a.stages.0.windows.0" and len(names) == len(set(names))
    maps = np.random.default_rng(0).normal(size=(1, 2, 3, 32)).astype(np.float32)
    a, b = head.stages[0], again.stages[0]
    assert isinstance(a, FloatStage) and np.array_equal(a(maps), b(maps))
