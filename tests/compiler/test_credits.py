"""The credits pass on graphs by hand, and its books on whole networks."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.graphs import Hand, graphs
from support.programs import sizes

from moevit.compiler.graph import Memory
from moevit.compiler.passes.channels import Credits, channel_name
from moevit.compiler.passes.credits import derive
from moevit.hw.config import preset
from moevit.hw.isa import Attention, Gemm, Norm
from moevit.quant.random_network import Sizes, random_network

A, X, N, M = Memory.ACTIVATIONS, Memory.RESIDUAL, Memory.NORMS, Memory.OUTSIDE


def told(mine: Credits) -> str:
    """What an operation takes and gives, SYNCs in brackets."""

    def take(found) -> str:
        if found is None:
            return ""
        return f"{'t' if found.tiles else found.count}<{channel_name(found.channel.number)}"

    def sync(found) -> str:
        signal = f">{channel_name(found.signal.number)}" if found.signal else ""
        return f"[{take(found.take)}{signal}]"

    signal = f">{channel_name(mine.signal.number)}" if mine.signal else ""
    syncs = ("".join(map(sync, side)) for side in (mine.before, mine.behind))
    return f"{{}}{take(mine.wait)}{signal}{{}}".format(*syncs)


def test_tiles_that_correspond_go_one_by_one() -> None:
    """Product, norm, product: each follows the other tile by tile."""
    h = Hand()
    rows = 7
    a, x, b, c = (h.tensor(m, s, rows) for m, s in ((A, 0), (X, 0), (A, 100), (A, 200)))
    h.gemm(a, x)
    h.norm(x, b, h.tensor(N, 0, 1))
    h.gemm(b, c)
    h.store(c, h.tensor(M, 0, rows))
    assert [told(mine) for mine in derive(h.graph)] == [
        ">compute->norm",
        "t<compute->norm>norm->compute",
        "t<norm->compute>compute->store",
        "t<compute->store",
    ]


def test_all_at_once_where_they_do_not() -> None:
    """A norm of the first row takes all of the product's credits, so that none is left over."""
    h = Hand()
    x = h.tensor(X, 0, 7)
    h.gemm(h.tensor(A, 0, 7), x)
    op = h.norm(x, h.tensor(A, 100, 7), h.tensor(N, 0, 1))
    op.reads = (x.at(range(1)), op.reads[1])
    op.rows = 1
    assert [told(mine) for mine in derive(h.graph)] == [">compute->norm", "4<compute->norm"]


def test_what_follows_from_something_else_is_not_waited_for() -> None:
    """A product that waits for the second LOAD need not wait for the first, nor the next one."""
    h = Hand()
    a, b = h.tensor(A, 0, 4), h.tensor(A, 50, 4)
    h.load(a)
    h.load(b)
    h.gemm(b, h.tensor(X, 0, 4))
    h.gemm(a, h.tensor(X, 50, 4))
    assert [told(mine) for mine in derive(h.graph)] == ["", ">load->compute", "1<load->compute", ""]


def test_a_load_waits_for_the_last_reader() -> None:
    h = Hand()
    a = h.tensor(A, 0, 4)
    h.load(a)
    h.gemm(a, h.tensor(X, 0, 4))
    h.gemm(a, h.tensor(X, 50, 4))
    h.gemm(h.tensor(A, 50, 4), h.tensor(X, 0, 4))
    h.load(a)
    found = [told(mine) for mine in derive(h.graph)]
    assert found[2] == ">compute->load" and found[4] == "2<compute->load"


def test_a_product_waits_for_what_its_follower_needs() -> None:
    """A norm that follows a product tile by tile has its parameters when the first tile comes."""
    h = Hand()
    x, p = h.tensor(X, 0, 4), h.tensor(N, 0, 1)
    h.load(p)
    h.gemm(h.tensor(A, 0, 4), x)
    made = h.tensor(A, 50, 4)
    h.norm(x, made, p)
    h.gemm(made, h.tensor(A, 100, 4))
    assert [told(mine) for mine in derive(h.graph)][:3] == [
        ">load->compute",
        "[1<load->compute]>compute->norm",
        "t<compute->norm>norm->compute",
    ]


def test_compute_relays() -> None:
    """Nobody tells LOAD what the norm engine has read but the compute engine."""
    h = Hand()
    x, a = h.tensor(X, 0, 4), h.tensor(A, 0, 4)
    h.norm(x, a, h.tensor(N, 0, 1))
    h.load(x)
    assert [told(mine) for mine in derive(h.graph)] == [
        ">norm->compute",
        "[2<norm->compute>compute->load]1<compute->load",
    ]


def test_a_second_listener_is_told_by_a_sync() -> None:
    """A product's tiles go to one channel; another engine is told when all of them are written."""
    h = Hand()
    x = h.tensor(X, 0, 4)
    h.gemm(h.tensor(A, 0, 4), x)
    h.norm(x, h.tensor(A, 50, 4), h.tensor(N, 0, 1))
    h.store(x, h.tensor(M, 0, 4))
    found = [told(mine) for mine in derive(h.graph)]
    assert found[0] == ">compute->norm[>compute->store]"
    assert found[2] == "1<compute->store"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=sizes(),
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([0.0, 2.0, float("inf")]),
    words=st.sampled_from([4096, 300]),
)
def test_books(monkeypatch, shape: Sizes, seed: int, threshold: float, words: int) -> None:
    """Every counter is given what is taken from it, and in front of that."""
    config = preset("micro").but(memory__activation_words=words)
    network = random_network(seed, replace(shape, tasks=1, head_channels=shape.head_channels[:1]))
    try:
        [graph] = graphs(network, config, monkeypatch, threshold=threshold)
    except ValueError as error:
        assert "does not fit" in str(error)
        return
    books: dict[int, int] = {}
    tokens = config.array.tokens
    for op, mine in zip(graph.ops, derive(graph), strict=True):
        syncs = [(sync.take, sync.signal) for sync in mine.before]
        for take, signal in [*syncs, (None if op.dynamic else mine.wait, None)]:
            if take is not None:
                books[take.channel.number] = books.get(take.channel.number, 0) - take.count
                assert books[take.channel.number] >= 0, op.note
            if signal is not None:
                books[signal.number] = books.get(signal.number, 0) + 1
        if mine.signal is not None and not op.dynamic:
            by_tile = op.kind in (Gemm, Attention, Norm) and not op.routes
            count = op.tiles(tokens) if by_tile else 1
            books[mine.signal.number] = books.get(mine.signal.number, 0) + count
        for sync in mine.behind:
            books[sync.signal.number] = books.get(sync.signal.number, 0) + 1
    assert not any(books.values())
    assert max(books, default=0) < 15


@pytest.mark.parametrize("number", [0, 15])
def test_names(number: int) -> None:
    assert channel_name(number) == f"s{number}"
    assert channel_name(14) == "expert" and channel_name(1) == "load->compute"
