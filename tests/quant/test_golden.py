"""The golden model against a scalar walk through the definition, one token at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.quant.formats import RESIDUAL, SCORE, round_shift
from moevit.quant.golden import Golden, dequantise, patchify
from moevit.quant.network import Head, Linear, Moe, Network
from moevit.quant.random_network import Sizes, random_images, random_network


def one_value(linear: Linear, channel: int, x: np.ndarray) -> int:
    acc = sum(int(a) * int(w) for a, w in zip(x, linear.weight[channel], strict=True))
    acc += int(linear.bias[channel])
    out = round_shift(acc * int(linear.mult[channel]), int(linear.shift[channel]))
    return min(max(out, -32768), 32767)


def row(linear: Linear, x: np.ndarray) -> np.ndarray:
    return np.array([one_value(linear, c, x) for c in range(linear.shape[0])])


def sat8(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -128, 127)


def walk(net: Network, image: np.ndarray, task: str) -> np.ndarray:
    """What the definition says, in loops over tokens, heads and experts."""
    g = net.geometry
    x = [net.embedding[t].astype(np.int64) for t in range(g.tokens)]
    first = g.tokens - g.patches
    for p in range(g.patches):
        r, c = divmod(p, g.grid[1])
        window = image[r * g.patch : (r + 1) * g.patch, c * g.patch : (c + 1) * g.patch]
        pixels = window.astype(np.int64).ravel() - 128
        x[first + p] = RESIDUAL.saturate(x[first + p] + row(net.patch_embed, pixels))
    for block in net.blocks:
        a = block.attention
        y = [block.norm1.compute(t[None])[0] for t in x]
        q = [sat8(row(a.q, t)) for t in y]
        k, v = ([np.clip(row(linear, t), -127, 127) for t in y] for linear in (a.k, a.v))
        for t in range(g.tokens):
            out = []
            for h in range(g.heads):
                own = slice(h * g.head_dim, (h + 1) * g.head_dim)
                acc = np.array([[int(q[t][own] @ key[own]) for key in k]])
                weights = a.softmax.weights(a.softmax.scores(acc))
                mixed = sum(int(w) * value[own] for w, value in zip(weights[0], v, strict=True))
                out.append(a.softmax.outputs(mixed[None], weights.sum(axis=1))[0])
            x[t] = RESIDUAL.saturate(x[t] + row(a.proj, sat8(np.concatenate(out))))
        y = [block.norm2.compute(t[None])[0] for t in x]
        mlp = block.mlp
        if isinstance(mlp, Moe):
            logits = np.array([row(mlp.routers[task], t) for t in y])
            queues = mlp.gate.queues(logits)
            for e in mlp.order[task]:
                expert = mlp.experts[e]
                for t, score in queues[e]:
                    hidden = expert.hidden.compute(row(expert.fc1, y[t]))
                    value = round_shift(row(expert.fc2, hidden) * score, SCORE.frac)
                    x[t] = RESIDUAL.saturate(x[t] + value)
        else:
            for t in range(g.tokens):
                hidden = mlp.hidden.compute(row(mlp.fc1, y[t]))
                x[t] = RESIDUAL.saturate(x[t] + row(mlp.fc2, hidden))
    if net.norm is None:
        return np.array(x)
    y = [net.norm.compute(t[None])[0] for t in x]
    if task not in net.heads:
        return np.array(y)
    return np.array([row(net.heads[task].linear, t) for t in y[first:]])


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    heads = draw(st.integers(1, 3))
    experts = draw(st.integers(1, 5))
    depth = draw(st.integers(1, 2))
    patch = draw(st.integers(1, 4))
    norm = draw(st.booleans())
    return Sizes(
        image_height=patch * draw(st.integers(1, 3)),
        image_width=patch * draw(st.integers(1, 3)),
        patch=patch,
        channels=draw(st.integers(1, 3)),
        dim=heads * draw(st.integers(1, 6)),
        heads=heads,
        depth=depth,
        hidden=draw(st.integers(1, 12)),
        experts=experts,
        top_k=draw(st.integers(1, experts)),
        expert_hidden=draw(st.integers(1, 12)),
        moe=tuple(draw(st.sets(st.integers(0, depth - 1)))),
        head_channels=draw(st.sampled_from([(), (1,), (2, 3)])) if norm else (),
        upscale=draw(st.integers(1, 2)),
        class_token=draw(st.booleans()),
        norm=norm,
    )


@settings(max_examples=40, deadline=None)
@given(sizes(), st.integers(0, 1 << 16))
def test_golden_is_the_definition(sizes: Sizes, seed: int) -> None:
    net = random_network(seed, sizes)
    image = random_images(seed, net.geometry)[0]
    for task in net.tasks:
        assert np.array_equal(Golden(net).run(image, task).output, walk(net, image, task))


def test_batches_and_tasks_do_not_mix() -> None:
    net = random_network(5, Sizes(depth=4, moe=(1, 3), tasks=3, head_channels=(3, 1, 2)))
    images = random_images(6, net.geometry, 5)
    golden = Golden(net)
    results = golden.run_batch(images, chunk=2)
    assert list(results) == list(net.tasks)
    for task in net.tasks:
        for image, result in zip(images, results[task], strict=True):
            alone = golden.run(image, task, trace=True)
            assert np.array_equal(alone.output, result.output)
            assert not result.trace
            for a, b in zip(alone.routing, result.routing, strict=True):
                assert a.block == b.block
                assert np.array_equal(a.indices, b.indices)
                assert np.array_equal(a.scores, b.scores)


def test_trace_is_consistent() -> None:
    net = random_network(8, Sizes(depth=2, moe=(1,)))
    result = Golden(net).run(random_images(1, net.geometry)[0], "task1", trace=True)
    t, g = result.trace, net.geometry
    assert {"embed", "blocks.0.hidden", "blocks.1.logits", "norm", "head"} <= set(t)
    assert np.array_equal(t["blocks.0.norm1"], net.blocks[0].norm1.compute(t["embed"]))
    assert np.array_equal(t["blocks.1.norm1"], net.blocks[1].norm1.compute(t["blocks.0.mlp"]))
    assert np.array_equal(t["head"], result.output)
    (routing,) = result.routing
    assert routing.block == 1
    assert sum(routing.counts) == g.tokens * routing.indices.shape[1]
    for e, count in enumerate(routing.counts):
        assert (f"blocks.1.experts.{e}.hidden" in t) == (count > 0)
        if count:
            assert t[f"blocks.1.experts.{e}.hidden"].shape == (count, 48)
            assert t[f"blocks.1.experts.{e}.tokens"].tolist() == sorted(
                np.nonzero((routing.indices == e).any(axis=1))[0]
            )


def test_patchify_order() -> None:
    image = np.arange(2 * 2 * 3 * 2 * 2).reshape(4, 6, 2)
    patches = patchify(image, 2)
    assert patches.shape == (6, 8)
    assert np.array_equal(patches[4].reshape(2, 2, 2), image[2:4, 2:4])


def test_dequantise_is_a_pixel_shuffle() -> None:
    linear = random_network(0, Sizes(head_channels=(3, 1))).heads["task0"].linear
    head = Head(linear=linear, channels=3, upscale=2)
    out = np.random.default_rng(0).integers(-999, 999, (2 * 5, 3 * 4)).astype(np.int16)
    planes = dequantise(out, head, (2, 5))
    assert planes.shape == (3, 4, 10)
    for c, y, x in np.ndindex(planes.shape):
        patch, index = (y // 2) * 5 + x // 2, c * 4 + (y % 2) * 2 + x % 2
        assert planes[c, y, x] == np.float32(out[patch, index]) * np.float32(linear.scale)
    assert np.array_equal(dequantise(out[None], head, (2, 5))[0], planes)


def test_bad_requests() -> None:
    net = random_network(0, Sizes(head_channels=(3,)))
    golden = Golden(net)
    image = random_images(0, net.geometry)[0]
    with pytest.raises(ValueError, match="Unknown task 'x'; expected one of task0, task1"):
        golden.run(image, "x")
    for bad in (image[1:], image.astype(np.float32), image[..., :1]):
        with pytest.raises(ValueError, match=r"Image must be \(16, 24, 3\) uint8"):
            golden.run(bad, "task0")
    with pytest.raises(ValueError, match="no head for task 'task1'"):
        golden.dequantise(golden.run(image, "task1").output, "task1")
