"""The order pass: what it moves, and that nothing that collides changes places."""

from itertools import combinations, pairwise

import pytest
from support.graphs import graphs

from moevit.compiler.graph import Graph, Op
from moevit.compiler.passes.order import FETCH_AHEAD, LOAD_AHEAD
from moevit.hw.config import preset
from moevit.hw.isa import Fetch, Gemm, Load, Store
from moevit.quant.random_network import Sizes, random_network

MICRO = preset("micro")
STREAMED = MICRO.but(memory__activation_words=300, memory__residual_words=100, memory__kv_rows=40)
LONG = Sizes(image_height=40, image_width=40, heads=4, hidden=40, expert_hidden=30)


def collide(graph: Graph, one: Op, other: Op) -> bool:
    pairs = [(a, b) for a in one.writes for b in other.reads + other.writes]
    pairs += [(a, b) for a in one.reads for b in other.writes]
    return any(graph.overlap(a, b) for a, b in pairs)


@pytest.mark.parametrize("threshold", [0.0, float("inf")])
@pytest.mark.parametrize("config", [MICRO, STREAMED], ids=["chip", "streamed"])
def test_what_collides_keeps_its_order(config, threshold: float, monkeypatch) -> None:
    shape = Sizes(image_height=32, image_width=32, heads=4, hidden=40, decoder_width=9, dim=16)
    network = random_network(2, shape if config is MICRO else LONG)
    [graph] = graphs(network, config, monkeypatch, tasks=["task0"], threshold=threshold)
    place = {id(op): n for n, op in enumerate(graph.ops)}
    assert len(place) == len(graph.before)
    moved = 0
    for one, other in combinations(graph.before, 2):
        if place[id(one)] > place[id(other)]:
            moved += 1
            # An expert's result adds to the residuals, all of them in the compute engine's order.
            residuals = one.dynamic and other.dynamic
            assert residuals or not collide(graph, one, other), f"{one.note}, {other.note}"
    assert moved > 0


def layers(graph: Graph) -> list[str]:
    return [op.note.rsplit("expert ")[-1] for op in graph.ops if op.kind is Gemm and op.dynamic]


def test_experts_are_interleaved_where_there_is_room(monkeypatch) -> None:
    network = random_network(7)
    [graph] = graphs(network, MICRO, monkeypatch, tasks=["task0"])
    order = "2 fc1, 1 fc1, 2 fc2, 3 fc1, 1 fc2, 0 fc1, 3 fc2, 0 fc2"
    assert ", ".join(layers(graph)) == order
    end = max(op.writes[0].tensor.offset for op in graph.ops if op.kind is Gemm)
    assert end > 0
    narrow = MICRO.but(memory__activation_words=172 - 42 - 1)
    [graph] = graphs(random_network(7), narrow, monkeypatch, tasks=["task0"])
    one_by_one = "2 fc1, 2 fc2, 1 fc1, 1 fc2, 3 fc1, 3 fc2, 0 fc1, 0 fc2"
    assert ", ".join(layers(graph)) in (one_by_one, order)


def test_loads_stand_ahead_of_their_readers(monkeypatch) -> None:
    """Pixels of the second group in front of the first group's product, but not all of them."""
    network = random_network(1, Sizes(image_height=64, image_width=64))
    [graph] = graphs(network, MICRO, monkeypatch, tasks=["task0"])
    first = next(n for n, op in enumerate(graph.ops) if op.kind is Gemm)
    loads = [op for op in graph.ops if op.kind is Load]
    assert 4 < first <= LOAD_AHEAD + 1 < len(loads)


def test_fetches_stand_behind_the_router(monkeypatch) -> None:
    network = random_network(1, Sizes(experts=8, top_k=2, expert_hidden=20))
    for rows, ahead in ((128, None), (32, FETCH_AHEAD)):
        config = MICRO.but(memory__demand_rows=rows)
        threshold = float("inf")
        [graph] = graphs(network, config, monkeypatch, tasks=["task0"], threshold=threshold)
        router = next(n for n, op in enumerate(graph.ops) if op.routes)
        fetches = [n for n, op in enumerate(graph.ops) if op.kind is Fetch]
        together = sum(a + 1 == b for a, b in pairwise([router, *fetches]))
        assert together >= min(len(fetches), ahead or FETCH_AHEAD)
        waiting = 0
        for op in graph.ops:
            waiting += (op.kind is Fetch) - (op.kind is Gemm and op.lot is not None)
            assert waiting <= max(FETCH_AHEAD, len(fetches) if rows == 128 else 0)


def test_stores_of_a_tile_stand_behind_the_next_product(monkeypatch) -> None:
    shape = Sizes(decoder_width=12, doublings=3, dim=16, image_height=32, image_width=40)
    config = MICRO.but(memory__activation_words=700, limits__tokens=512)
    [graph] = graphs(random_network(1, shape), config, monkeypatch, tasks=["task0"])
    kinds = [op.kind for op in graph.ops if op.kind in (Gemm, Store)]
    behind = graph.before, graph.ops
    following = [
        sum(a.kind is Gemm and b.kind is Store for a, b in pairwise(ops)) for ops in behind
    ]
    assert kinds[-1] is Store
    assert all(n > 0 for n in following)
    made = {id(op): n for n, op in enumerate(graph.ops)}
    later = 0
    for op, after in pairwise(graph.before):
        if op.kind is Gemm and after.kind is Store:
            later += made[id(after)] > made[id(op)] + 1
    assert later > 10
