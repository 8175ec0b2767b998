"""The network: shapes, order of outputs, tasks, and the points where calibration listens."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.model.config import ModelConfig, TaskConfig, preset
from moevit.model.m3vit import Head, M3ViT


def random_images(config: ModelConfig, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *config.image, 3), dtype=torch.uint8, generator=generator)


def test_raw_outputs_have_the_configured_shapes(model: M3ViT, micro: ModelConfig) -> None:
    for task in micro.tasks:
        raw = model(random_images(micro), task.name)
        assert raw.shape == (2, task.channels, 4, 8)
        assert raw.isfinite().all()


@settings(max_examples=15)
@given(
    patch=st.sampled_from([1, 2, 4]),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 5),
    depth=st.integers(1, 3),
    experts=st.integers(1, 3),
    class_token=st.booleans(),
)
def test_any_size_runs(
    patch: int,
    grid: tuple[int, int],
    heads: int,
    head_dim: int,
    depth: int,
    experts: int,
    class_token: bool,
) -> None:
    config = ModelConfig(
        name="drawn",
        image=(grid[0] * patch, grid[1] * patch),
        patch=patch,
        dim=heads * head_dim,
        depth=depth,
        heads=heads,
        mlp_ratio=1.5,
        experts=experts,
        top_k=experts,
        expert_hidden=3,
        tasks=(TaskConfig(name="edges", kind="edges", channels=1, stride=1),),
        class_token=class_token,
    )
    raw = M3ViT(config).eval()(random_images(config), "edges")
    assert raw.shape == (2, 1, *config.image)


def test_head_channels_are_in_pixel_shuffle_order(micro: ModelConfig) -> None:
    task = dataclasses.replace(micro.tasks[2], stride=2)  # 3 channels, 4 sub-pixels a side
    head = Head(dataclasses.replace(micro, tasks=(task,)), task)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.arange(48.0))
        raw = head(torch.zeros(1, 8, micro.dim))
    side = 4
    for c in range(3):
        for y in range(raw.shape[2]):
            for x in range(raw.shape[3]):
                assert raw[0, c, y, x] == c * side * side + y % side * side + x % side


def test_patches_are_row_by_row(micro: ModelConfig) -> None:
    task = micro.tasks[1]
    head = Head(micro, task)
    tokens = torch.zeros(1, 8, micro.dim)
    tokens[0, :, 0] = torch.arange(8)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.weight[:, 0] = 1
        head.linear.bias.zero_()
        raw = head(tokens)[0, 0]
    assert raw[0, 0] == 0
    assert raw[0, 2] == 1  # 2 sub-pixels a side, so the next patch
    assert raw[2, 0] == 4  # 4 patches a row


def test_a_mixed_batch_gives_what_each_task_gives_alone(model: M3ViT, micro: ModelConfig) -> None:
    images = random_images(micro, 6)
    counts = (1, 2, 0, 2, 1)
    mixed = model.forward_mixed(images, counts)
    assert list(mixed) == ["segmentation", "depth", "edges", "saliency"]
    start = 0
    for name, count in zip(micro.task_names, counts, strict=True):
        if count:
            alone = model(images[start : start + count], name)
            torch.testing.assert_close(mixed[name], alone, rtol=1e-5, atol=1e-5)
        start += count


def test_tasks_differ_only_after_the_first_mixture(model: M3ViT, micro: ModelConfig) -> None:
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _m, _i, out, index=index: seen[index].append(out))
    with torch.no_grad():
        for _, mixture in model.mixtures():
            torch.nn.init.normal_(mixture.router.weight)
    model(random_images(micro), "depth")
    model(random_images(micro), "edges")
    assert torch.equal(*seen[0])
    assert not torch.equal(*seen[1])


def test_pixels_are_normalised_inside(model: M3ViT, micro: ModelConfig) -> None:
    images = random_images(micro)
    assert torch.equal(model(images, "depth"), model(images.float(), "depth"))
    mean = torch.full((1, *micro.image, 3), 127.5)
    tokens = model.embed(mean)[0, 1:] - model.pos_embed[0, 1:]
    bias = model.patch_embed.proj.bias.expand_as(tokens)
    torch.testing.assert_close(tokens, bias)


def test_softmax_and_scores_can_be_watched(model: M3ViT, micro: ModelConfig) -> None:
    attention = model.blocks[0].attn
    seen = {}
    for name in ("scores", "softmax", "context"):
        module = getattr(attention, name)
        module.register_forward_hook(lambda _m, i, o, name=name: seen.update({name: (i[0], o)}))
    model(random_images(micro), "depth")
    scores, probabilities = seen["softmax"]
    assert scores.shape == (2, 2, 9, 9)
    assert torch.equal(seen["scores"][1], scores)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 2, 9))
    assert seen["context"][1].shape == (2, 9, 16)


def test_wrong_inputs_are_refused(model: M3ViT, micro: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"Images must be \(B, \(16, 32, 3\)\), not"):
        model(torch.zeros(1, 3, 16, 32), "depth")
    with pytest.raises(ValueError, match="not 'pose'"):
        model(random_images(micro), "pose")
    with pytest.raises(ValueError, match=r"Counts \(1, 1\) must split 2 images over 5 tasks"):
        model.forward_mixed(random_images(micro), (1, 1))


def test_nano_has_the_published_number_of_weights() -> None:
    model = M3ViT(preset("nano"))
    assert sum(p.numel() for p in model.parameters()) == 1_407_616


def test_balance_is_the_mean_over_mixtures(model: M3ViT, micro: ModelConfig) -> None:
    assert model.balance() == (0, 0)
    model.train()
    model.forward_mixed(random_images(micro, 5), (1,) * 5)
    losses = [mixture.losses for _, mixture in model.mixtures()]
    assert len(losses) == 1
    assert losses[0] is not None
    assert model.balance().load == losses[0].load
