"""Balanced routers."""

from dataclasses import replace

import numpy as np
import pytest

from moevit.quant.golden import Golden
from moevit.quant.network import Moe
from moevit.quant.ptq.balance import balance_router, balance_routers
from moevit.quant.random_network import Sizes, random_network

SIZES = Sizes(
    moe=(1, 3), patch=4,
    image_height=32, image_width=32, channels=3, heads=2, dim=16, depth=4, hidden=24,
    experts=8, top_k=2, expert_hidden=12, tasks=2,
)  # fmt: skip


def some_images(count, network):
    g = network.geometry
    rng = np.random.default_rng(7)
    shape = (count, g.image_height, g.image_width, g.channels)
    return rng.integers(0, 256, shape, np.uint8)


def test_every_expert_gets_about_its_share():
    network = random_network(3, SIZES)
    images = some_images(4, network)
    balanced = balance_routers(network, images)
    share = network.geometry.tokens * 2 / 8
    before, after = [], []
    for net, spread in ((network, before), (balanced, after)):
        for results in Golden(net).run_batch(images).values():
            for layer in zip(*(r.routing for r in results), strict=True):
                counts = np.mean([r.counts for r in layer], axis=0)
                spread.append(np.abs(counts - share).max() / share)
    assert max(after) < 0.3 < max(before)


def test_usage_and_order_are_those_of_the_images_and_nothing_else_changes():
    network = random_network(4, SIZES)
    images = some_images(3, network)
    balanced = balance_routers(network, images)
    for task, results in Golden(balanced).run_batch(images).items():
        counts = iter(np.mean([[r.counts for r in p.routing] for p in results], axis=0))
        for block in balanced.blocks:
            if isinstance(block.mlp, Moe):
                np.testing.assert_allclose(block.mlp.usage[task], next(counts))
                used = [block.mlp.usage[task][e] for e in block.mlp.order[task]]
                assert used == sorted(used, reverse=True)
    for old, new in zip(network.blocks, balanced.blocks, strict=True):
        assert new.attention is old.attention
        if isinstance(old.mlp, Moe):
            assert new.mlp.experts is old.mlp.experts
            for task, router in old.mlp.routers.items():
                assert new.mlp.routers[task].weight is router.weight


@pytest.mark.parametrize("k", [1, 3])
def test_a_router_that_sends_all_to_one(k):
    network = random_network(5, SIZES)
    moe = next(b.mlp for b in network.blocks if isinstance(b.mlp, Moe))
    router = next(iter(moe.routers.values()))
    rng = np.random.default_rng(1)
    y = rng.integers(-60, 61, (256, router.shape[1]))
    heavy = router.bias.copy()
    heavy[0] += 20000
    found = balance_router(replace(router, bias=heavy), y, k)
    chosen = np.argsort(-found.values(y), axis=1, kind="stable")[:, :k]
    counts = np.bincount(chosen.ravel(), minlength=8)
    assert counts.min() > 0.7 * 256 * k / 8
