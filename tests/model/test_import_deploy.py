"""Imported models all the way: integers, golden model, compiled program, the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.foreign import EdgeMoe, M3vit, edge_moe_folder, m3vit_decoders, m3vit_weights
from support.programs import run_program

from moevit.compiler import compile_network
from moevit.hw.config import preset
from moevit.model.export.float_network import to_float_network
from moevit.model.export.qdq import export_qdq
from moevit.model.importers.edge_moe import import_edge_moe
from moevit.model.importers.m3vit import import_m3vit
from moevit.model.importers.timm import TASK, import_timm
from moevit.model.m3vit import M3ViT
from moevit.quant.analysis.report import compare
from moevit.quant.golden import Golden
from moevit.quant.io import load_network, save_network
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.quantize import quantise
from moevit.quant.random_network import random_images

# isort: split
import timm


def m3vit(folder: Path) -> M3ViT:
    path = folder / "m3vit.pth"
    torch.save(m3vit_weights("conditioned"), path)
    return import_m3vit(path, image=M3vit.IMAGE, heads=M3vit.HEADS, top_k=M3vit.TOP_K).model


def m3vit_windows(folder: Path) -> M3ViT:
    path = folder / "m3vit.pth"
    torch.save(m3vit_weights("one"), path)
    options = {"image": M3vit.IMAGE, "heads": M3vit.HEADS, "tasks": ["a", "b"], "top_k": 2}
    return import_m3vit(
        path, **options, gate_input_ahead=True, experts_per_task=3, prune_threshold=0.2
    ).model


def m3vit_heads(folder: Path) -> M3ViT:
    path = folder / "m3vit.pth"
    torch.save(m3vit_weights(tasks=2, patch=16) | m3vit_decoders({"semseg": 5, "edge": 1}), path)
    return import_m3vit(path, image=(32, 48), heads=M3vit.HEADS, top_k=M3vit.TOP_K).model


def edge_moe(folder: Path) -> M3ViT:
    edge_moe_folder(folder)
    options = {"image": EdgeMoe.IMAGE, "heads": EdgeMoe.HEADS, "top_k": EdgeMoe.TOP_K}
    return import_edge_moe(folder, **options).model


def distilled(folder: Path) -> M3ViT:
    return classifier(folder, "deit_tiny_distilled_patch16_224")


def pooled(folder: Path) -> M3ViT:
    return classifier(folder, "vit_medium_patch16_gap_240")


def classifier(folder: Path, name: str = "deit_tiny_patch16_224", **others: object) -> M3ViT:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    sizes |= {"num_classes": 11, **others}
    model = timm.create_model(name, pretrained=False, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save(model.state_dict(), folder / "w.pth")
    return import_timm(name, weights=folder / "w.pth", **sizes).model


def registers(folder: Path) -> M3ViT:
    return classifier(folder, "vit_tiny_patch16_224", reg_tokens=3, init_values=0.7)


def fourteen(folder: Path) -> M3ViT:
    """DINOv2: patches of 14 pixels, no classifier."""
    sizes = {"patch_size": 14, "img_size": 42, "num_classes": 0}
    return classifier(folder, "vit_small_patch14_reg4_dinov2", **sizes)


def pooled_registers(folder: Path) -> M3ViT:
    return classifier(folder, "vit_so150m_patch16_reg4_gap_256", qkv_bias=False)


def clip(folder: Path) -> M3ViT:
    """A norm in front of the blocks."""
    return classifier(folder, "vit_base_patch32_clip_224")


def quick_gelu(folder: Path) -> M3ViT:
    return classifier(folder, "vit_base_patch32_clip_quickgelu_224")


def tanh_gelu(folder: Path) -> M3ViT:
    return classifier(folder, "vit_base_patch32_siglip_gap_256", num_classes=0)


def norm_behind_mean(folder: Path) -> M3ViT:
    return classifier(folder, "vit_medium_patch16_reg4_gap_256")


def m3vit_shut_out(folder: Path) -> M3ViT:
    """M3ViT's third window begins where fewer experts are left than it has."""
    path = folder / "m3vit.pth"
    torch.save(m3vit_weights("one"), path)
    options = {"image": M3vit.IMAGE, "heads": M3vit.HEADS, "tasks": ["a", "b", "c"], "top_k": 1}
    return import_m3vit(path, **options, experts_per_task=2).model


SOURCES = [
    m3vit,
    m3vit_windows,
    m3vit_shut_out,
    m3vit_heads,
    edge_moe,
    classifier,
    distilled,
    pooled,
    registers,
    fourteen,
    pooled_registers,
    clip,
    norm_behind_mean,
    quick_gelu,
    tanh_gelu,
]


@pytest.mark.parametrize("source", SOURCES)
def test_from_float_to_the_program(source: object, tmp_path: Path) -> None:
    assert callable(source)
    model: M3ViT = source(tmp_path)
    floats = to_float_network(model)
    images = random_images(5, floats.geometry, 64)
    save_network(quantise(floats, calibrate(floats, images)), tmp_path / "network.safetensors")
    network = load_network(tmp_path / "network.safetensors")
    golden, program = Golden(network), compile_network(network, preset("micro"))
    held_out = random_images(77, floats.geometry, 4)
    exact = floats.run(held_out)
    for task in network.tasks:
        with torch.no_grad():
            expected = model(torch.from_numpy(held_out), task)
        same = floats.planes(exact[task], task) if task in floats.heads else exact[task]
        assert np.allclose(same.reshape(expected.shape), expected.numpy(), atol=1e-4)
        results = golden.run_batch(held_out, [task])[task]
        output, outcome = run_program(program, held_out[0], task)
        np.testing.assert_array_equal(output, results[0].output)
        assert outcome.credits == (0,) * 16
        scale = network.heads[task].scale if network.heads else network.token_scale
        got = np.stack([r.output for r in results]) * scale
        noise = np.mean((got - exact[task]) ** 2) / np.var(exact[task])
        assert noise < 0.02, f"{task}: noise is {noise:.2%} of the signal"


def test_classes_are_planes_of_one_pixel(tmp_path: Path) -> None:
    floats = to_float_network(classifier(tmp_path))
    images = random_images(5, floats.geometry, 8)
    golden = Golden(quantise(floats, calibrate(floats, images)))
    output = golden.run(images[0], TASK).output
    planes = golden.dequantise(output, TASK)
    assert output.shape == (1, 11) and planes.shape == (11, 1, 1)
    np.testing.assert_allclose(planes.ravel(), output[0] * golden.network.heads[TASK].linear.scale)


@pytest.mark.parametrize(
    "source", [distilled, pooled, fourteen, clip, norm_behind_mean, quick_gelu]
)
def test_quantised_onnx_of_classifiers(source: object, tmp_path: Path) -> None:
    assert callable(source)
    floats = to_float_network(source(tmp_path))
    images = random_images(5, floats.geometry, 32)
    network = quantise(floats, calibrate(floats, images))
    report = export_qdq(network, tmp_path / "q.onnx", images=images[:6])
    assert report["difference"][network.tasks[0]]["sqnr_db"] > 25


@pytest.mark.parametrize("source", [clip, norm_behind_mean])
def test_reports_of_what_norms_do(source: object, tmp_path: Path) -> None:
    assert callable(source)
    floats = to_float_network(source(tmp_path))
    images = random_images(5, floats.geometry, 16)
    network = quantise(floats, calibrate(floats, images))
    found = compare(floats, network, images[:4]).noise[network.tasks[0]]
    decibels = {site: noise.decibels for site, noise in found.items()}
    assert min(decibels.values()) > 18, decibels
