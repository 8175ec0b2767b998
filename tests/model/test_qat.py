"""Fine-tuning with fake quantisation: it sees what the integers stand for, and gives just that."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from moevit.model.config import ModelConfig
from moevit.model.export.float_network import to_float_network
from moevit.model.m3vit import M3ViT
from moevit.model.scenes.render import scene
from moevit.model.training import qat
from moevit.model.training.qat import Tuning, finetune
from moevit.quant.check import check_network
from moevit.quant.float.network import FloatNetwork, with_layers
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.ptq.calibrate import Calibration, calibrate
from moevit.quant.ptq.layers import Fixed
from moevit.quant.ptq.quantize import Options, quantise, quantise_with_parts

OPTIONS = Options(expert_bits=4, finetune=3)
SITES = re.compile(r"blocks\.\d+\.(norm[12]|[qkv]|attention|(experts\.\d+\.)?hidden)")

Prepared = tuple[M3ViT, FloatNetwork, Calibration, Any]


def prepare(config: ModelConfig) -> Prepared:
    torch.manual_seed(0)
    model = M3ViT(config).eval()
    with torch.no_grad():  # norms as trained ones have them
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    images = np.stack([scene("calibration", n, *config.image).image for n in range(40)])
    network = to_float_network(model)
    return model, network, calibrate(network, images), images


@pytest.fixture(scope="module")
def prepared(micro: ModelConfig) -> Prepared:
    return prepare(micro)


def codes(network: Network) -> list[Any]:
    """Every weight, bias and multiplier of the blocks."""
    found = []

    def take(value: Any) -> None:
        if isinstance(value, np.ndarray):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            for one in value:
                take(one)
        elif isinstance(value, dict):
            take(list(value.values()))
        elif hasattr(value, "__dict__"):
            take(list(vars(value).values()))

    take(network.blocks)
    return found


def equal(one: Network, other: Network) -> bool:
    return all(map(np.array_equal, codes(one), codes(other)))


def noise(network: FloatNetwork, quantised: Network, images: Any) -> float:
    """Squared error over variance, mean over tasks."""
    exact, results = network.run(images), Golden(quantised).run_batch(images)
    shares = []
    for task in network.tasks:
        got = np.stack([r.output for r in results[task]]) * quantised.heads[task].linear.scale
        shares.append(np.mean((got - exact[task]) ** 2) / np.var(exact[task]))
    return float(np.mean(shares))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_scale": 0.5, "gate": "conditioned", "gate_task_dim": 4},
        {"gate": "one", "renormalise": True, "prune_threshold": 0.3, "experts_per_task": 3},
        {"gate_input_ahead": True, "class_token": False, "moe_every": 1},
    ],
)
def test_the_student_is_what_the_integers_stand_for(
    micro: ModelConfig, changes: dict[str, Any]
) -> None:
    """Before the first step, beside the NumPy network with the quantiser's layers and sites."""
    model, network, calibration, images = prepare(replace(micro, **changes))
    _, made = quantise_with_parts(network, calibration, OPTIONS, Fixed())
    student = qat._Student(model, network, made, OPTIONS)
    dense = 0 if changes.get("moe_every") == 1 else 1
    assert len(student.matrices) == 2 * 4 + dense * 2 + (2 - dense) * 2 * 4

    def edit(name: str, x: Any) -> Any:
        if not SITES.fullmatch(name):
            return x
        encoding = made.encodings[name]
        return encoding.decode(encoding.encode(x)).astype(np.float32)

    rounded = with_layers(
        network, lambda name, layer: made.layers[name] if name in student.matrices else layer
    )
    wanted, exact = rounded.run(images, edit=edit), network.run(images)
    batch = torch.from_numpy(images)
    for index, task in enumerate(model.config.tasks):
        counts = tuple(len(batch) * (n == index) for n in range(len(model.config.tasks)))
        student.rounding.on = True
        with torch.no_grad():
            planes = torch.func.functional_call(student.mixed, student.weights(), (batch, counts))
        student.rounding.on = False
        got = torch.nn.functional.pixel_unshuffle(planes[task.name], 2).flatten(2).mT.numpy()
        # A value between two codes may fall to either, and a token to another expert.
        whole = np.mean((exact[task.name] - wanted[task.name]) ** 2)
        assert np.mean((got - wanted[task.name]) ** 2) < 0.05 * whole
        assert np.median(np.abs(got - wanted[task.name])) < 1e-4 * wanted[task.name].std()
    student.rounding.remove()


def test_the_integers_are_those_of_the_training(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, network, calibration, images = prepared
    kept: list[Any] = []
    make = qat._Student.__init__

    def init(self: Any, *given: Any) -> None:
        make(self, *given)
        kept.append(self)

    monkeypatch.setattr(qat._Student, "__init__", init)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantised, made = finetune(
        model, network, calibration, OPTIONS, images, tuning=Tuning(batch=10, rate=0.3)
    )
    check_network(quantised)
    assert quantised.meta["quantisation"]["finetune"] == 3
    first = quantise(network, calibration, replace(OPTIONS, finetune=0))
    moved = total = 0
    for name, matrix in kept[0].matrices.items():
        found = (matrix.codes / matrix.growth.exp()).detach().numpy()
        expected = np.clip(np.round(found), -matrix.top, matrix.top)
        got = layer(quantised, name)
        assert np.array_equal(got.weight, expected)
        moved, total = (
            moved + (got.weight != layer(first, name).weight).sum(),
            total + got.weight.size,
        )
        weight, bias = (part.detach().numpy() for part in matrix())
        np.testing.assert_allclose(made.layers[name].weight, weight, rtol=1e-5, atol=1e-7)
        step = made.steps[name] * quantised.residual_scale
        np.testing.assert_allclose(made.layers[name].bias, bias, atol=float(step.max()) + 1e-5)
    assert 0.02 < moved / total < 0.9
    # The model is as before, its modules without hooks.
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def layer(network: Network, name: str) -> Any:
    """The integer layer of a name."""
    _, index, *rest = name.split(".")
    block = network.blocks[int(index)]
    if rest[0] == "experts":
        return getattr(block.mlp.experts[int(rest[1])], rest[2])  # type: ignore[union-attr]
    return getattr(block.mlp if rest[0].startswith("fc") else block.attention, rest[0])


def test_the_same_again_and_another_seed(prepared: Prepared) -> None:
    model, network, calibration, images = prepared
    tuning = Tuning(batch=10, rate=0.1)
    one, two, other = (
        finetune(model, network, calibration, OPTIONS, images, tuning=tuning, seed=seed)[0]
        for seed in (0, 0, 1)
    )
    assert equal(one, two) and not equal(one, other)


def test_it_repairs_what_rounding_broke(prepared: Prepared, micro: ModelConfig) -> None:
    """On images that it has not seen, four-bit experts come nearer to the floats.

    Which rate helps so small a network is chance: a token whose experts change weighs more than
    all rounding, and that depends on the last bits of torch's sums. So one of several has to.
    """
    model, network, calibration, images = prepared
    options = Options(expert_bits=4, clip="minmax", migrate=(0.0,), rounding="nearest")
    fresh = np.stack([scene("validation", n, *micro.image).image for n in range(40)])
    plain = noise(network, quantise(network, calibration, options), fresh)
    tuned = [
        finetune(
            *(model, network, calibration, replace(options, finetune=steps), images),
            tuning=Tuning(batch=20, rate=rate, growth_rate=growth),
        )[0]
        for steps, rate, growth in ((150, 0.005, 1e-4), (300, 0.01, 3e-5), (300, 0.004, 1e-5))
    ]
    assert min(noise(network, one, fresh) for one in tuned) < 0.9 * plain


def test_an_interruption_leaves_the_model_as_it_was(prepared: Prepared) -> None:
    model, network, calibration, images = prepared

    def stop(text: str, share: float) -> None:
        if text.startswith("fine-tuning (2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(model, network, calibration, OPTIONS, images, report=stop)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_tuned(prepared: Prepared) -> None:
    model, network, calibration, images = prepared
    with pytest.raises(ValueError, match="needs steps and images, not 0 and 40"):
        finetune(model, network, calibration, Options(), images)
    with pytest.raises(ValueError, match="needs steps and images, not 3 and 0"):
        finetune(model, network, calibration, OPTIONS, images[:0])
    with pytest.raises(ValueError, match="Fine-tuning of 3 steps needs the model"):
        quantise(network, calibration, OPTIONS)
    with pytest.raises(ValueError, match="Finetune must be at least 0 steps, not -1"):
        Options(finetune=-1)
    for bad in ({"batch": 0}, {"rate": -0.1}, {"growth_rate": 1.0}):
        with pytest.raises(ValueError, match=f"Tuning {next(iter(bad))} must be"):
            Tuning(**bad)  # type: ignore[arg-type]
