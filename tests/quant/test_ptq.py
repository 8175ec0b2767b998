"""Post-training quantisation: accuracy against float, and each folding on its own."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from support.float_networks import float_network

from moevit.quant.check import check_network
from moevit.quant.float.network import FloatAttention, FloatLinear, FloatNetwork
from moevit.quant.formats import LOGIT
from moevit.quant.golden import Golden
from moevit.quant.network import Moe, Network, expert_order
from moevit.quant.ptq.calibrate import Calibration, calibrate
from moevit.quant.ptq.layers import Layers
from moevit.quant.ptq.quantize import Options, quantise
from moevit.quant.ptq.ranges import Encoding
from moevit.quant.random_network import random_images


def prepare(net: FloatNetwork, images: int = 200) -> Calibration:
    return calibrate(net, random_images(0, net.geometry, images))


def decibels(net: FloatNetwork, quantised: Network, count: int = 12) -> list[float]:
    """Signal to quantisation noise at each head on images that calibration did not see."""
    images = random_images(99, net.geometry, count)
    exact = net.run(images)
    results = Golden(quantised).run_batch(images)
    out = []
    for task in net.tasks:
        scale = quantised.heads[task].linear.scale
        got = np.stack([r.output for r in results[task]]) * scale
        noise = np.mean((got - exact[task]) ** 2)
        out.append(float(10 * np.log10(np.var(exact[task]) / noise)))
    return out


@pytest.mark.parametrize("clip", ["minmax", "percentile", "mse"])
def test_dense_networks_are_close_to_float(clip: Any) -> None:
    net = float_network(3, moe=())
    quantised = quantise(net, prepare(net), Options(clip=clip))
    check_network(quantised)
    assert min(decibels(net, quantised)) > 24


def test_mixtures_are_close_to_float() -> None:
    net = float_network(4, moe=(1,))
    quantised = quantise(net, prepare(net))
    check_network(quantised)
    assert min(decibels(net, quantised)) > 20  # some tokens are routed differently


@pytest.mark.parametrize(
    "gate",
    [
        {},
        {"window": 3, "renormalise": True},
        {"threshold": 0.3, "k": 3},
        {"top_p": 0.5, "k": 3},
        {"ahead": True},
        {"ahead": True, "window": 2, "threshold": 0.2, "renormalise": True},
    ],
)
def test_gates_are_close_to_float(gate: dict[str, Any]) -> None:
    """Logits, scores and the chosen experts of every kind of gate, in the first mixture."""
    net = float_network(5, moe=(1,), **gate)
    quantised = quantise(net, prepare(net))
    check_network(quantised)
    golden, images = Golden(quantised), random_images(98, net.geometry, 20)
    moe = quantised.blocks[1].mlp
    assert isinstance(moe, Moe)
    step = 1 / (np.log2(np.e) * (1 << LOGIT.frac))
    for task in net.tasks:
        seen: dict[str, Any] = {}
        noise, variance, same = 0.0, 0.0, []
        for image in images:
            net.run(image[None], [task], seen.__setitem__)
            result = golden.run(image, task, trace=True)
            exact, chosen = (seen[f"blocks.1.{n}.{task}"] for n in ("logits", "routing"))
            got = result.trace["blocks.1.logits"] * step
            noise += float(np.mean((got - exact) ** 2))
            variance += float(np.var(exact))
            (routing,) = result.routing
            agree = np.all(np.sort(chosen) == np.sort(routing.indices), axis=1)
            same.append(agree)
            float_moe = net.blocks[1].mlp
            scores = float_moe.route(task, exact)[1]  # type: ignore[union-attr]
            ordered = agree & np.all(chosen == routing.indices, axis=1)
            gap = np.abs(scores - routing.scores / 32768).max(axis=1)
            # Softmax: a share moves by a quarter of the spread of the logits' errors, at most.
            bound = np.abs(got - exact).max(axis=1) / 2 + 2e-4
            assert np.all(gap[ordered] <= bound[ordered])
            window = list(moe.window(task))
            assert set(routing.indices.ravel().tolist()) <= {*window, -1}
        assert noise / variance < 0.003
        assert np.mean(np.concatenate(same)) > 0.93


def test_experts_of_four_bits() -> None:
    """Only experts are narrow, and the searched step beats the one that covers every weight."""
    net = float_network(4, moe=(1,))
    stats = prepare(net)
    quality = {}
    for clip in ("minmax", "mse"):
        options = Options(clip=clip, expert_bits=4, rounding="nearest")  # type: ignore[arg-type]
        quantised = quantise(net, stats, options)
        check_network(quantised)
        quality[clip] = np.mean(decibels(net, quantised))
    block = quantised.blocks[1]
    assert isinstance(block.mlp, Moe)
    for expert in block.mlp.experts:
        for linear in (expert.fc1, expert.fc2):
            assert linear.weight_bits == 4
            assert int(np.abs(linear.weight).max()) == 7
    wide = (*block.mlp.routers.values(), block.attention.q, quantised.patch_embed)
    assert all(linear.weight_bits == 8 for linear in wide)
    assert quality["mse"] > max(quality["minmax"], 12.0)


def test_equalising_channels_pays() -> None:
    """With a residual channel that is far larger than the others, as trained networks have."""
    net = float_network(5, moe=())
    net.patch_embed.weight[3] *= 12
    for block in net.blocks:
        block.norm1.gain[3] = block.norm2.gain[3] = 0.1
    stats = prepare(net)
    one = quantise(net, stats, Options(migrate=(0.0,), clip="minmax"))
    each = quantise(net, stats, Options(clip="minmax"))
    assert np.mean(decibels(net, each)) > np.mean(decibels(net, one)) + 1.0


@pytest.mark.parametrize("class_token", [True, False])
def test_patch_embedding(class_token: bool) -> None:
    net = float_network(6, depth=1, moe=(), class_token=class_token)
    quantised = quantise(net, prepare(net))
    image = random_images(5, net.geometry)[0]
    seen: list[np.ndarray] = []
    net.run(
        image[None], observe=lambda name, rows: seen.append(rows) if name == "residual" else None
    )
    embed = Golden(quantised).run(image, "a", trace=True).trace["embed"]
    error = embed * quantised.residual_scale - seen[0]
    assert np.sqrt(np.mean(error**2)) < 0.01 * np.std(seen[0])  # weights of 8 bits, pixels exact


def test_constants_in_keys_and_values_cost_nothing() -> None:
    """A large bias on k and v changes neither softmax nor, centred, the precision of the rest."""
    net = float_network(7, moe=())
    before = decibels(net, quantise(net, prepare(net)))

    def shift(a: FloatAttention) -> FloatAttention:
        def by(linear: FloatLinear, constant: float) -> FloatLinear:
            return FloatLinear(weight=linear.weight, bias=linear.bias + np.float32(constant))

        undo = a.proj.weight.sum(axis=1) * np.float32(30)
        proj = FloatLinear(weight=a.proj.weight, bias=a.proj.bias - undo)
        return FloatAttention(q=a.q, k=by(a.k, 50), v=by(a.v, 30), proj=proj)

    blocks = tuple(dataclasses.replace(b, attention=shift(b.attention)) for b in net.blocks)
    shifted = dataclasses.replace(net, blocks=blocks)
    after = decibels(shifted, quantise(shifted, prepare(shifted)))
    assert min(np.subtract(after, before)) > -1.5


def test_logits_scores_and_heads_are_in_their_units() -> None:
    net = float_network(8)
    quantised = quantise(net, prepare(net))
    image = random_images(6, net.geometry)[0]
    seen: dict[str, np.ndarray] = {}
    net.run(image[None], ["a"], observe=lambda name, rows: seen.setdefault(name, rows))
    trace = Golden(quantised).run(image, "a", trace=True).trace
    block, moe = net.blocks[1], net.blocks[1].mlp
    assert not hasattr(moe, "fc1")
    y = seen["blocks.1.norm2"] * block.norm2.gain + block.norm2.bias
    logits = moe.routers["a"](y) * np.log2(np.e)  # type: ignore[union-attr]
    got = trace["blocks.1.logits"] / (1 << LOGIT.frac)
    assert np.sqrt(np.mean((got - logits) ** 2)) < 0.06 * np.std(logits)
    head = trace["head"] * quantised.heads["a"].linear.scale
    assert np.abs(head).max() < 1.5 * np.abs(seen["heads.a"]).max()


def test_the_schedule_comes_from_calibration() -> None:
    net = float_network(9, moe=(0, 2))
    stats = prepare(net)
    quantised = quantise(net, stats)
    for block in (0, 2):
        moe = quantised.blocks[block].mlp
        assert isinstance(moe, Moe)
        assert moe.usage == stats.usage[block]
        assert moe.order == {t: expert_order(u) for t, u in stats.usage[block].items()}


def test_an_expert_without_calibration_tokens() -> None:
    net = float_network(10, experts=3, k=1)
    moe = net.blocks[1].mlp
    for router in moe.routers.values():  # type: ignore[union-attr]
        router.bias[2] = -1e4
    stats = prepare(net)
    assert "blocks.1.experts.2.hidden" not in stats.sites
    quantised = quantise(net, stats)
    check_network(quantised)
    layer = quantised.blocks[1].mlp
    assert isinstance(layer, Moe)
    expert = layer.experts[2]
    y = np.random.default_rng(0).integers(-100, 100, (50, 32))
    hidden = expert.hidden.compute(expert.fc1.values(y))
    assert np.std(hidden) > 5
    for task in net.tasks:
        assert layer.order[task][-1] == 2


def test_dead_weights_beside_a_bias() -> None:
    net = float_network(11, moe=())
    net.blocks[0].mlp.fc1.weight[3] = 0  # type: ignore[union-attr]
    net.blocks[0].mlp.fc1.bias[3] = 4.0  # type: ignore[union-attr]
    net.blocks[0].attention.q.weight[:] *= 1e-9
    quantised = quantise(net, prepare(net))
    check_network(quantised)
    assert min(decibels(net, quantised)) > 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": "max"}, "Clip must be one of"),
        ({"percentile": 20.0}, "Percentile must be above 50, at most 100, not 20.0"),
        ({"migrate": ()}, "Migrate must be exponents from 0 to 1"),
        ({"migrate": (1.5,)}, "Migrate must be exponents from 0 to 1"),
        ({"headroom": 0.5}, "Headroom must be at least 1, not 0.5"),
        ({"expert_bits": 5}, "Expert bits must be 8 or 4, not 5"),
        ({"narrow": ("q", "fc3")}, "Narrow must be of patch_embed, q, .*, not 'fc3'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_layers_of_many_inputs() -> None:
    """Weights of all kinds need not fit; those of a real layer do, those all alike do not."""
    rng, depth = np.random.default_rng(0), 9 * 768
    x = rng.integers(-128, 128, (3, depth))
    encoding = Encoding(scale=np.ones(depth), offset=np.zeros(depth))
    weight = rng.normal(0, 1, (4, depth)).astype(np.float32)
    layer = FloatLinear(weight=weight, bias=np.zeros(4, np.float32))
    made = Layers(Options()).linear(layer, encoding, 1.0)
    exact = x @ weight.T.astype(np.float64)
    assert np.abs(made.values(x) - exact).max() < 0.02 * np.abs(exact).max()
    alike = FloatLinear(weight=np.ones_like(weight), bias=layer.bias)
    with pytest.raises(ValueError, match="A layer with 6912 inputs does not fit the accumulator"):
        Layers(Options()).linear(alike, encoding, 1.0)
