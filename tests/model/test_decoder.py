"""The progressive-upsampling head: shapes, its function, training, export, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moevit.model.checkpoint import load, store
from moevit.model.config import ModelConfig, TaskConfig
from moevit.model.decoder import UpsamplingHead
from moevit.model.export.float_network import to_float_network
from moevit.model.export.onnx import TOLERANCE, export_onnx
from moevit.model.m3vit import M3ViT
from moevit.model.training.qat import finetune
from moevit.quant.golden import Golden
from moevit.quant.io import load_network, save_network
from moevit.quant.operators.upsampling import UpsamplingHead as UpsamplingStages
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.quantize import Options, quantise
from moevit.quant.random_network import random_images


def upsampling(micro: ModelConfig, stride: int = 1, **changes: Any) -> ModelConfig:
    tasks = (
        TaskConfig(name="seg", kind="segmentation", channels=3, stride=stride),
        TaskConfig(name="depth", kind="depth", channels=1, stride=stride),
    )
    return dataclasses.replace(micro, tasks=tasks, decoder="upsampling", decoder_width=6, **changes)


def lively(config: ModelConfig) -> M3ViT:
    """Batch norms with statistics and every parameter away from its initial value."""
    torch.manual_seed(1)
    model = M3ViT(config)
    model.train()(torch.randint(0, 256, (4, *config.image, 3)).to(torch.uint8), "seg")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def double(x: np.ndarray) -> np.ndarray:
    """Bilinear: each output pixel takes 3/4 of the nearest input and 1/4 of the next nearest."""
    for axis in (-2, -1):
        before = np.take(x, [0, *range(x.shape[axis] - 1)], axis)
        behind = np.take(x, [*range(1, x.shape[axis]), x.shape[axis] - 1], axis)
        pair = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * behind], axis=-1)
        pair = np.moveaxis(pair, -1, axis if axis == -1 else -2)
        shape = list(x.shape)
        shape[axis] *= 2
        x = pair.reshape(shape)
    return x


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """``(C, H, W)`` by ``(O, C, k, k)``: a sum over the taps of shifted images."""
    size = weight.shape[-1]
    reach, (_, height, width) = size // 2, x.shape
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    out = np.zeros((len(weight), height, width))
    for dy in range(size):
        for dx in range(size):
            tap = padded[:, dy : dy + height, dx : dx + width]
            out += np.einsum("oc,chw->ohw", weight[:, :, dy, dx], tap)
    return out + bias[:, None, None]


@pytest.mark.parametrize(("stride", "final_norm"), [(1, True), (2, False), (8, True), (4, False)])
def test_function(micro: ModelConfig, stride: int, final_norm: bool) -> None:
    config = upsampling(micro, stride, final_norm=final_norm)
    head = lively(config).heads["seg"]
    assert isinstance(head, UpsamplingHead)
    tokens = torch.randn(1, config.tokens - 1, config.dim)
    with torch.no_grad():
        got = head(tokens)[0].numpy()
    x = tokens[0].double()
    if not final_norm:
        x = torch.nn.functional.layer_norm(x, (config.dim,), eps=config.norm_eps)
        x = x * head.norm.weight.detach().double() + head.norm.bias.detach().double()
    image = x.numpy().T.reshape(config.dim, *config.grid)
    values = {name: t.double().numpy() for name, t in head.state_dict().items()}
    layers = max((8 // stride).bit_length() - 1, 1)
    for n in range(layers):
        image = convolve(
            image, values[f"convolutions.{n}.weight"], values[f"convolutions.{n}.bias"]
        )
        norm = {k: values[f"norms.{n}.{k}"][:, None, None] for k in ("weight", "bias")}
        mean = values[f"norms.{n}.running_mean"][:, None, None]
        variance = values[f"norms.{n}.running_var"][:, None, None]
        image = (image - mean) / np.sqrt(variance + 1e-5) * norm["weight"] + norm["bias"]
        image = np.maximum(image, 0)
        if n < layers - 1:
            image = double(image)
    image = convolve(image, values["classify.weight"], values["classify.bias"])
    image = double(image) if stride < 8 else image
    assert got.shape == (3, *config.head_size("seg"))
    np.testing.assert_allclose(got, image, atol=1e-4)


def test_training_reaches_every_parameter(micro: ModelConfig) -> None:
    model = M3ViT(upsampling(micro)).train()
    images = torch.randint(0, 256, (4, *micro.image, 3)).to(torch.uint8)
    outputs = model.forward_mixed(images, [2, 2])
    sum(out.square().mean() for out in outputs.values()).backward()
    for name, parameter in model.heads.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith(".bias"):
            assert parameter.grad.abs().sum() > 0, name


def test_checkpoint_and_onnx(micro: ModelConfig, tmp_path: Path) -> None:
    model = lively(upsampling(micro, 2))
    store(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    images = torch.randint(0, 256, (2, *micro.image, 3)).to(torch.uint8)
    with torch.no_grad():
        assert torch.equal(model(images, "seg"), again.eval()(images, "seg"))
    report = export_onnx(model, tmp_path / "m.onnx")
    assert max(report["difference"].values()) <= TOLERANCE
    assert report["operators"]["Resize"] == 4


@pytest.mark.parametrize(("stride", "final_norm"), [(1, False), (2, True), (8, False)])
def test_float_network(micro: ModelConfig, stride: int, final_norm: bool) -> None:
    """Folded into windows, batch norms and doublings compute the same."""
    config = upsampling(micro, stride, final_norm=final_norm)
    model = lively(config)
    network = to_float_network(model)
    images = np.random.default_rng(3).integers(0, 256, (2, *config.image, 3), dtype=np.uint8)
    for task, output in network.run(images).items():
        with torch.no_grad():
            expected = model(torch.from_numpy(images), task).numpy()
        planes = network.planes(output, task)
        np.testing.assert_allclose(planes, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("final_norm", [False, True])
def test_quantised(micro: ModelConfig, final_norm: bool, tmp_path: Path) -> None:
    config = upsampling(micro, 2, final_norm=final_norm)
    network = to_float_network(lively(config))
    images = random_images(0, network.geometry, 40)
    quantised = quantise(network, calibrate(network, images[:32]))
    save_network(quantised, tmp_path / "q")
    golden = Golden(load_network(tmp_path / "q"))
    exact = network.run(images[32:])
    for task, results in golden.run_batch(images[32:]).items():
        got = golden.dequantise(np.stack([r.output for r in results]), task)
        planes = network.planes(exact[task], task)
        assert got.shape == planes.shape
        assert np.mean((got - planes) ** 2) < 0.05 * np.var(planes)


def test_refusals(micro: ModelConfig) -> None:
    with pytest.raises(ValueError, match="decoder must be one of linear, upsampling, not 'conv'"):
        dataclasses.replace(micro, decoder="conv")
    with pytest.raises(ValueError, match="decoder_width must be a positive integer, not 0"):
        upsampling(dataclasses.replace(micro, decoder_width=0))
    wide = dataclasses.replace(micro, image=(24, 48), patch=12)
    with pytest.raises(ValueError, match="Task seg has 12 outputs to a patch's side"):
        upsampling(wide)


def test_fine_tuning_leaves_the_heads_scales(micro: ModelConfig) -> None:
    model = lively(upsampling(micro, 4))
    network = to_float_network(model)
    images = random_images(0, network.geometry, 24)
    stats = calibrate(network, images)
    tuned, _ = finetune(model, network, stats, Options(finetune=2), images)
    plain = quantise(network, stats)
    for task in network.tasks:
        a, b = tuned.heads[task], plain.heads[task]
        assert isinstance(a, UpsamplingStages) and isinstance(b, UpsamplingStages)
        assert np.array_equal(a.stages[0].linears[0].weight, b.stages[0].linears[0].weight)
        assert a.scale == b.scale
    assert tuned.meta["quantisation"]["finetune"] == 2
