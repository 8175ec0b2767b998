"""Gate: scores against exact softmax, order, ties, queues."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moevit.quant.dial import AS_COMPILED, NEVER, Dial
from moevit.quant.formats import LOGIT, SCORE
from moevit.quant.operators.gate import NOBODY, Gate

shapes = st.integers(1, 32).flatmap(lambda e: st.tuples(st.just(e), st.integers(1, e)))


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(1, 200), st.integers(0, 1 << 32), st.floats(0, 20_000))
def test_scores_are_softmax_of_all_experts(
    shape: tuple[int, int], count: int, seed: int, spread: float
) -> None:
    experts, k = shape
    logits = np.random.default_rng(seed).normal(0, spread, (count, experts))
    logits = LOGIT.saturate(logits.round().astype(np.int64))
    index, score = Gate(experts=experts, k=k).compute(logits)
    p = 2.0 ** ((logits - logits.max(axis=1, keepdims=True)) / (1 << LOGIT.frac))
    p /= p.sum(axis=1, keepdims=True)
    exact = np.take_along_axis(p, index, axis=1) * (1 << SCORE.frac)
    # One step each of numerator and rounding, 0.65 of each of `experts` summands, table 2.6.
    relative = 0.65 * experts / 32767 + 8e-5
    assert np.all(np.abs(score - exact) <= 1.2 + exact * relative)
    assert score.max() <= SCORE.max


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(1, 200), st.integers(0, 1 << 32), st.floats(0, 20_000))
def test_renormalised_scores_are_softmax_of_the_chosen(
    shape: tuple[int, int], count: int, seed: int, spread: float
) -> None:
    experts, k = shape
    logits = np.random.default_rng(seed).normal(0, spread, (count, experts))
    logits = LOGIT.saturate(logits.round().astype(np.int64))
    index, score = Gate(experts=experts, k=k, renormalise=True).compute(logits)
    chosen = np.take_along_axis(logits, index, axis=1)
    p = 2.0 ** ((chosen - chosen[:, :1]) / (1 << LOGIT.frac))
    exact = p / p.sum(axis=1, keepdims=True) * (1 << SCORE.frac)
    relative = 0.65 * k / 32767 + 8e-5  # as above, of k summands
    assert np.all(np.abs(score - exact) <= 1.2 + exact * relative)
    assert np.array_equal(index, Gate(experts=experts, k=k).compute(logits)[0])


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 1 << 32), st.floats(0.001, 0.999), st.booleans())
def test_a_score_not_above_the_threshold_is_dropped(
    shape: tuple[int, int], seed: int, threshold: float, renormalise: bool
) -> None:
    experts, k = shape
    logits = np.random.default_rng(seed).integers(-400, 400, (50, experts))
    all_of_them = Gate(experts=experts, k=k, renormalise=renormalise)
    gate = Gate(experts=experts, k=k, renormalise=renormalise, least=Gate.above(threshold))
    index, score = gate.compute(logits)
    whole, scores = all_of_them.compute(logits)
    keep = scores > threshold * 32768
    assert np.array_equal(index, np.where(keep, whole, NOBODY))
    assert np.array_equal(score, np.where(keep, scores, 0))
    assert sum(map(len, gate.queues(logits))) == keep.sum()


def test_thresholds() -> None:
    assert Gate.above(0) == 0
    assert Gate.above(0.25) == 8193  # a score of exactly the threshold is dropped
    assert Gate.above(0.99999) == SCORE.max
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="Threshold must be from 0 to below 1"):
            Gate.above(wrong)
    with pytest.raises(ValueError, match="Least score must be from 0 to 32767, not 32768"):
        Gate(experts=2, k=1, least=32768)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 1 << 32), st.floats(0.001, 0.9999), st.booleans())
def test_experts_until_their_scores_add_up_to_p(
    shape: tuple[int, int], seed: int, p: float, renormalise: bool
) -> None:
    experts, k = shape
    logits = np.random.default_rng(seed).integers(-400, 400, (50, experts))
    whole = Gate(experts=experts, k=k, renormalise=renormalise)
    gate = Gate(experts=experts, k=k, renormalise=renormalise, enough=Gate.reaching(p))
    index, score = gate.compute(logits)
    for row, found, (all_of_them, scores) in zip(
        index, score, zip(*whole.compute(logits), strict=True), strict=True
    ):
        count = 1
        while count < k and sum(scores[:count]) < min(p * 32768, 32767):
            count += 1
        assert row.tolist() == [*all_of_them[:count], *[NOBODY] * (k - count)]
        assert found.tolist() == [*scores[:count], *[0] * (k - count)]


def test_sums_that_are_enough() -> None:
    assert Gate.reaching(1.0) == 0
    assert Gate.reaching(0.5) == 16384 and Gate.reaching(0.50001) == 16385
    assert Gate.reaching(1e-9) == 1 and Gate.reaching(0.99999999) == SCORE.max
    for wrong in (0.0, -0.1, 1.01):
        with pytest.raises(ValueError, match="p must be above 0 to 1"):
            Gate.reaching(wrong)
    with pytest.raises(ValueError, match="Enough must be from 0 to 65535, not 65536"):
        Gate(experts=2, k=1, enough=65536)
    # One expert has all the score there is: 32767 reaches any p below 1, and p = 1 takes all.
    sure = [[9000, 0, 0]]
    for enough, count in ((Gate.reaching(0.9999999), 1), (SCORE.max + 1, 3), (0, 3), (NEVER, 3)):
        index, _ = Gate(experts=3, k=3, enough=enough).compute(sure)
        assert (index != NOBODY).sum() == count


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_dial_never_takes_more(data: st.DataObject) -> None:
    """Of each limit the stricter one; the choices left are the first of the gate's own."""
    experts, k = data.draw(shapes)
    scores = st.one_of(st.just(0), st.integers(1, SCORE.max))
    gate = Gate(experts=experts, k=k, least=data.draw(scores), enough=data.draw(scores))
    dial = Dial(
        top_k=data.draw(st.integers(0, 15)), least=data.draw(scores), enough=data.draw(scores)
    )
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-500, 500, (20, experts))
    index, _ = gate.compute(logits)
    found, _ = gate.dialled(dial).compute(logits)
    width = found.shape[1]
    assert width == min(k, dial.top_k or k)
    assert np.all((found == index[:, :width]) | (found == NOBODY))
    assert gate.dialled(AS_COMPILED) == gate == gate.dialled(gate.limits)


def test_what_a_dial_may_ask_for() -> None:
    compiled = Dial(top_k=2, least=3277, enough=29492)
    for fine in (AS_COMPILED, compiled, Dial(top_k=1), Dial(least=9999, enough=1)):
        fine.check(compiled)
    for more, text in (
        (Dial.of(top_k=3), "top_k 3, expected 1 to 2"),
        (Dial.of(min_score=0.05), "min_score 0.0"),
        (Dial.of(top_p=0.95), "top_p 0.95.*, expected 0.90.* or less"),
        (Dial.of(top_p=1.0), "top_p 1, expected"),
    ):
        with pytest.raises(ValueError, match=f"more than the program was compiled for: {text}"):
            more.check(compiled)
    with pytest.raises(ValueError, match="nothing in the program has experts"):
        Dial(top_k=1).check(AS_COMPILED)
    assert Dial.of(top_p=1.0, min_score=0.0) == Dial(least=1, enough=NEVER)
    assert Dial.of() == AS_COMPILED
    for name, wrong in (("top_p", (0.0, 1.1)), ("min_score", (-0.1, 1.0)), ("top_k", (0, 4096))):
        for value in wrong:
            with pytest.raises(ValueError, match=f"{name} must be"):
                Dial.of(**{name: value})


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(1, 40), st.integers(0, 1 << 32), st.integers(1, 5))
def test_order_and_ties(shape: tuple[int, int], count: int, seed: int, levels: int) -> None:
    """Few levels, many ties: by falling logit, then by rising index."""
    experts, k = shape
    logits = np.random.default_rng(seed).integers(0, levels, (count, experts))
    index, score = Gate(experts=experts, k=k).compute(logits)
    for row in range(count):
        expected = sorted(range(experts), key=lambda e: (-logits[row, e], e))[:k]
        assert index[row].tolist() == expected
    assert np.all(np.diff(score, axis=1) <= 0)


def test_one_expert_gets_the_whole_token() -> None:
    index, score = Gate(experts=1, k=1).compute(np.array([[-30_000], [0], [30_000]]))
    assert index.tolist() == [[0]] * 3
    assert score.tolist() == [[SCORE.max]] * 3


@pytest.mark.parametrize("experts", [2, 8, 16])
def test_all_experts_share_the_whole_token(experts: int) -> None:
    logits = np.random.default_rng(0).normal(0, 300, (500, experts)).astype(np.int64)
    index, score = Gate(experts=experts, k=experts).compute(logits)
    assert np.array_equal(np.sort(index, axis=1), np.tile(np.arange(experts), (500, 1)))
    assert np.abs(score.sum(axis=1) - (1 << SCORE.frac)).max() <= experts + 3


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 40), st.integers(0, 1 << 32))
def test_queues_hold_each_choice_once(shape: tuple[int, int], count: int, seed: int) -> None:
    experts, k = shape
    gate = Gate(experts=experts, k=k)
    logits = np.random.default_rng(seed).integers(-300, 300, (count, experts))
    queues = gate.queues(logits)
    index, score = gate.compute(logits)
    assert len(queues) == experts
    for e, queue in enumerate(queues):
        tokens = [t for t, _ in queue]
        assert tokens == sorted(set(tokens))
        assert tokens == np.nonzero((index == e).any(axis=1))[0].tolist()
        assert all(s == score[t][index[t] == e][0] for t, s in queue)
    assert sum(map(len, queues)) == count * k


@pytest.mark.parametrize(("experts", "k"), [(4, 0), (4, 5), (0, 1)])
def test_bad_top_k(experts: int, k: int) -> None:
    with pytest.raises(ValueError, match="Top-k must be from 1"):
        Gate(experts=experts, k=k)
