"""The memory plan: regions stay apart, and what does not fit is refused with the change needed."""

import re
from itertools import pairwise

import numpy as np
import pytest

from moevit.compiler import compile_network
from moevit.compiler.passes.order import FETCH_AHEAD, LOAD_AHEAD
from moevit.compiler.plan.layout import Shapes, pack_linear
from moevit.compiler.plan.placement import plan_memory
from moevit.compiler.plan.rings import split
from moevit.hw.config import AcceleratorConfig, preset
from moevit.quant.random_network import Sizes, random_network

SMALL = preset("micro").but(
    memory__activation_words=64,
    memory__residual_words=16,
    memory__kv_rows=3,
    memory__norm_rows=8,
    limits__tokens=4,
    limits__depth=64,
    limits__top_k=1,
    limits__experts=2,
)


def plan(config: AcceleratorConfig, sizes: Sizes | None = None):
    network = random_network(0, sizes)
    return plan_memory(network, Shapes(config=config, geometry=network.geometry))


@pytest.mark.parametrize("config", ["micro", "default", "zcu104"])
def test_regions_do_not_overlap(config: str) -> None:
    regions = plan(preset(config)).regions
    sizes = {
        "A": preset(config).memory.activation_words,
        "X": preset(config).memory.residual_words,
        "KV": preset(config).memory.kv_rows,
        "N": preset(config).memory.norm_rows,
    }
    for memory, size in sizes.items():
        mine = sorted((r for r in regions if r.memory == memory), key=lambda r: r.base)
        assert mine[-1].end <= size
        assert all(a.end <= b.base for a, b in pairwise(mine))


def test_every_refusal_names_the_buffer_and_the_change() -> None:
    with pytest.raises(ValueError, match="does not fit preset 'micro'") as caught:
        plan(SMALL)
    text = str(caught.value)
    for word in (
        r"Activation memory \(tokens in the smallest tiles\) needs \d+ bytes, there are 512: "
        r"memory\.activation_words=\d+",
        r"Residual memory \(tokens in the smallest tiles\) needs 256 bytes, there are 128: "
        r"memory\.residual_words=32",
        r"Key and value memory \(one head\) needs \d+ bytes",
        r"Norm parameter memory \(two norms\) needs \d+ bytes",
        r"The number of tokens is 7, at most 4 can be counted: limits\.tokens=7",
        r"limits\.depth=192",
        r"The number of experts is 4, at most 2",
        r"experts a token is 2, at most 1",
    ):
        assert re.search(word, text), word
    assert "\n" not in text


def test_the_named_changes_are_enough() -> None:
    """Applying what the message asks for makes the network fit, and one less does not."""
    with pytest.raises(ValueError) as caught:
        plan(SMALL)
    changes = {
        name.replace(".", "__"): int(value)
        for name, value in re.findall(r"(\w+\.\w+)=(\d+)", str(caught.value))
    }
    plan(SMALL.but(**changes))
    for name in changes:
        if not name.endswith("depth"):
            with pytest.raises(ValueError, match=name.replace("__", ".")):
                plan(SMALL.but(**{**changes, name: changes[name] - 1}))


@pytest.mark.parametrize("seed", range(8))
def test_the_smallest_tiles_are_what_is_asked_for(seed: int) -> None:
    """With exactly what the message names a network fits; with one less of anything it does not."""
    rng = np.random.default_rng(seed)
    sizes = Sizes(
        image_height=8 * int(rng.integers(1, 6)),
        image_width=8 * int(rng.integers(1, 6)),
        heads=(heads := int(rng.integers(2, 5))),
        dim=heads * 4 * int(rng.integers(1, 7)),
        hidden=int(rng.integers(1, 200)),
        class_token=bool(rng.integers(2)),
    )
    fields = ("activation_words", "residual_words", "kv_rows", "norm_rows")
    tiny = preset("micro").but(**{f"memory__{field}": 1 for field in fields})
    with pytest.raises(ValueError) as caught:
        plan(tiny, sizes)
    named = dict(re.findall(r"memory\.(\w+)=(\d+) would", str(caught.value)))
    assert set(fields) <= set(named)
    changes = {f"memory__{name}": int(value) for name, value in named.items()}
    plan(tiny.but(**changes), sizes)
    for field in fields:
        less = {f"memory__{field}": changes[f"memory__{field}"] - 1}
        with pytest.raises(ValueError, match=rf"needs \d+ bytes, .*memory\.{field}="):
            plan(tiny.but(**{**changes, **less}), sizes)


def test_rings_too_small_for_one_output_tile() -> None:
    config = preset("micro").but(memory__ring_rows=32, memory__demand_rows=32, limits__depth=1024)
    with pytest.raises(ValueError, match=r"Weight ring .* memory\.ring_rows=128"):
        compile_network(random_network(0, Sizes(hidden=1024)), config)
    with pytest.raises(ValueError, match=r"Demand ring .* memory\.demand_rows=64"):
        compile_network(random_network(0, Sizes(expert_hidden=500)), config)


def test_groups_fit_half_of_the_ring() -> None:
    config = preset("micro")
    network = random_network(0, Sizes(hidden=250))
    matrix = pack_linear(network.blocks[0].mlp.fc1, config)
    for demand, rows in ((False, config.memory.ring_rows), (True, config.memory.demand_rows)):
        groups = split(matrix, config, demand=demand)
        assert [tile for group in groups for tile in group] == list(range(matrix.otiles))
        assert all(2 * len(group) * matrix.depth <= rows for group in groups)


def test_fetches_fit_their_queue() -> None:
    """Otherwise a FETCH that waits for room could keep back the GEMM that makes it."""
    from moevit.hw.core import QUEUE_DEPTH

    assert max(FETCH_AHEAD, LOAD_AHEAD) < QUEUE_DEPTH


def test_gates_in_front_of_blocks_stream_with_their_tokens() -> None:
    """Their input is made of the residuals on the chip, in a place behind everything else."""
    sizes = Sizes(image_height=40, image_width=40, ahead=True)
    config = preset("micro").but(memory__activation_words=300, memory__residual_words=60)
    found = plan(config, sizes)
    assert found.spill is not None and found.scales.size
    assert found.ahead.base == found.work.end and found.ahead.end == 300
    words = Shapes(config=config, geometry=random_network(0, sizes).geometry).chunks
    assert found.ahead.size == found.tiling.routed * words
