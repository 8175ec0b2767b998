"""Random networks: reproducible, lively, and routed as asked."""

import numpy as np
import pytest

from moevit.quant.formats import ACTIVATION, LOGIT, RESIDUAL
from moevit.quant.golden import Golden
from moevit.quant.network import Mlp, Moe, expert_order
from moevit.quant.random_network import Sizes, random_images, random_network

LARGE = Sizes(image_height=64, image_width=64, depth=4, moe=(1, 3), experts=8, dim=48, heads=3)


def test_same_seed_same_integers() -> None:
    a, b, c = (random_network(s) for s in (4, 4, 5))
    assert np.array_equal(a.embedding, b.embedding)
    assert np.array_equal(a.heads["task0"].linear.mult, b.heads["task0"].linear.mult)
    assert not np.array_equal(a.embedding, c.embedding)
    assert np.array_equal(random_images(4, a.geometry), random_images(4, b.geometry))


@pytest.mark.parametrize("seed", range(4))
def test_values_are_lively(seed: int) -> None:
    net = random_network(seed, LARGE)
    trace = Golden(net).run(random_images(seed, net.geometry)[0], "task1", trace=True).trace
    for name, t in trace.items():
        if name.endswith("tokens"):
            continue
        form = ACTIVATION if np.abs(t).max() <= 128 else RESIDUAL
        assert np.std(t) > 10, name
        stuck = np.mean((t == form.min) | (t == form.max))
        assert stuck < 0.15, name


@pytest.mark.parametrize("seed", range(4))
def test_routing_is_varied(seed: int) -> None:
    net = random_network(seed, LARGE)
    result = Golden(net).run(random_images(seed, net.geometry)[0], "task0", trace=True)
    for routing in result.routing:
        assert sum(c > 0 for c in routing.counts) >= 3
        logits = result.trace[f"blocks.{routing.block}.logits"]
        assert np.abs(logits).max() < LOGIT.max


@pytest.mark.parametrize("k", [1, 2])
def test_one_expert_for_all(k: int) -> None:
    sizes = Sizes(style="one", favourite=3, top_k=k)
    net = random_network(1, sizes)
    for task in net.tasks:
        (routing,) = Golden(net).run(random_images(2, net.geometry)[0], task).routing
        assert np.all(routing.indices[:, 0] == 3)
        moe = net.blocks[1].mlp
        assert isinstance(moe, Moe)
        assert moe.order[task][0] == 3


def test_an_expert_never_chosen() -> None:
    net = random_network(1, Sizes(style="starved", favourite=2, top_k=3))
    for task in net.tasks:
        (routing,) = Golden(net).run(random_images(2, net.geometry)[0], task).routing
        assert routing.counts[2] == 0
        moe = net.blocks[1].mlp
        assert isinstance(moe, Moe)
        assert moe.order[task][-1] == 2
        assert moe.usage[task][2] == 0


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (3, 3)])
def test_every_expert_for_all(experts: int, k: int) -> None:
    net = random_network(0, Sizes(experts=experts, top_k=k))
    (routing,) = Golden(net).run(random_images(2, net.geometry)[0], "task0").routing
    assert routing.counts == (net.geometry.tokens,) * experts


def test_narrow_experts() -> None:
    net = random_network(0, Sizes(expert_bits=4))
    moe, dense = net.blocks[1].mlp, net.blocks[0].mlp
    assert isinstance(moe, Moe) and isinstance(dense, Mlp)
    for expert in moe.experts:
        assert expert.fc1.weight_bits == expert.fc2.weight_bits == 4
        assert int(expert.fc1.weight.min()) == -7
    assert dense.fc1.weight_bits == moe.routers["task0"].weight_bits == 8


def test_expert_order() -> None:
    assert expert_order([0.0, 3.0, 1.5, 3.0, 0.0]) == (1, 3, 2, 0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_width": 20}, "not a multiple of the patch"),
        ({"dim": 31}, "not a multiple of 2 heads"),
        ({"style": "odd"}, "Style must be varied, one or starved, not 'odd'"),
        ({"style": "starved", "top_k": 4}, "no expert can be starved"),
        ({"expert_bits": 2}, "Expert bits must be 8 or 4, not 2"),
        ({"favourite": 4}, "Favourite must be below 4"),
        ({"moe": (2,)}, "must lie in 0..1"),
        ({"head_channels": (1, 1, 1)}, "3 heads for 2 tasks"),
        ({"norm": False}, "Linear heads need the final norm"),
    ],
)
def test_bad_sizes(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(**changes)  # type: ignore[arg-type]
