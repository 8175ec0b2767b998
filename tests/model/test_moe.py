"""Routing and its losses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moevit.model.moe import MixtureOfExperts, Router, TaskEmbedding, squared_cv
from moevit.quant.operators.gate import NOBODY


def mixture(experts: int, top_k: int, tasks: int = 2, dim: int = 6) -> MixtureOfExperts:
    torch.manual_seed(experts * 10 + top_k)
    layer = MixtureOfExperts(Router(dim, experts, top_k, tasks), dim, 5)
    torch.nn.init.normal_(layer.router.weight)
    return layer


@given(
    experts=st.integers(1, 6),
    data=st.data(),
    batch=st.integers(1, 3),
    length=st.integers(1, 7),
)
def test_output_is_the_weighted_sum_of_the_chosen_experts(
    experts: int, data: st.DataObject, batch: int, length: int
) -> None:
    top_k = data.draw(st.integers(1, experts))
    layer = mixture(experts, top_k).eval()
    x = torch.randn(batch, length, 6)
    with torch.no_grad():
        found = layer(x, 1)
        probabilities = (x @ layer.router.weight[1].T).softmax(-1)
        for b in range(batch):
            for n in range(length):
                best = probabilities[b, n].argsort(descending=True)[:top_k]
                expected = sum(probabilities[b, n, e] * layer.experts[e](x[b, n]) for e in best)
                torch.testing.assert_close(found[b, n], expected, rtol=1e-4, atol=1e-5)


def test_every_token_has_k_different_experts_in_falling_order() -> None:
    layer = mixture(5, 3).eval()
    layer(torch.randn(2, 11, 6), 0)
    routing = layer.routing
    assert routing is not None
    assert routing.experts.shape == routing.scores.shape == (22, 3)
    assert all(len(set(row)) == 3 for row in routing.experts.tolist())
    assert (routing.scores.diff(dim=1) <= 0).all()
    torch.testing.assert_close(routing.probabilities.sum(1), torch.ones(22))
    torch.testing.assert_close(routing.scores, routing.probabilities.gather(1, routing.experts))
    assert (routing.scores.sum(1) < 1).all()  # not renormalised


def test_ties_go_to_the_lower_expert() -> None:
    router = Router(4, 6, 2, 1)
    routing = router.route(torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0, 1.0]]))
    assert routing.experts.tolist() == [[1, 2]]


def test_each_sample_uses_its_own_task() -> None:
    layer = mixture(4, 1, tasks=3).eval()
    x = torch.randn(3, 5, 6)
    together = layer(x, torch.tensor([2, 0, 1]))
    for sample, task in enumerate((2, 0, 1)):
        alone = layer(x[sample : sample + 1], task)
        torch.testing.assert_close(together[sample : sample + 1], alone)


def test_all_tokens_to_one_expert() -> None:
    layer = mixture(4, 1).eval()
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[:, 2] = 1.0
    x = torch.rand(1, 9, 6) + 0.1
    y = layer(x, 0)
    assert layer.routing is not None
    assert layer.routing.experts.unique().tolist() == [2]
    torch.testing.assert_close(y, layer.routing.scores.view(1, 9, 1) * layer.experts[2](x))


def windowed(**options: object) -> MixtureOfExperts:
    """Four experts, three tasks that see two of them each."""
    torch.manual_seed(3)
    router = Router(6, 4, 1, 3, windows=(2, (0, 2, 1)), **options)  # type: ignore[arg-type]
    layer = MixtureOfExperts(router, 6, 5)
    torch.nn.init.normal_(router.weight)
    return layer


@pytest.mark.parametrize("options", [{}, {"shared": True, "bias": True}, {"task_dim": 3}])
def test_windows_of_experts(options: dict[str, object]) -> None:
    layer = windowed(**options).eval()
    x, embedding = torch.randn(3, 50, 6), torch.randn(3, 3)
    for parameter in layer.router.parameters():
        torch.nn.init.normal_(parameter)
    together = layer(x, torch.tensor([2, 0, 1]), embedding=embedding)
    assert layer.routing is not None
    chosen = layer.routing.experts.view(3, 50)
    for sample, task in enumerate((2, 0, 1)):
        assert chosen[sample].unique().tolist() == [[0, 1], [2, 3], [1, 2]][task]
        alone = layer(x[sample : sample + 1], task, embedding=embedding)
        torch.testing.assert_close(together[sample : sample + 1], alone)
        weight, bias = layer.router.gate(task, embedding)
        logits = x[sample] @ weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(layer.routing.probabilities, logits.softmax(-1))


def test_losses_of_windows_are_each_task_s_own() -> None:
    layer = windowed()
    tasks = torch.tensor([0] * 10 + [2] * 4)
    logits = torch.randn(14, 2)
    importance, load = layer.router.balance(logits, logits, tasks)
    parts = [layer.router.balance(logits[tasks == t], logits[tasks == t]) for t in (0, 2)]
    assert importance == pytest.approx(float(sum(p.importance for p in parts) / 2), rel=1e-5)
    assert load == pytest.approx(float(sum(p.load for p in parts) / 2), rel=1e-5)
    layer.train()(torch.randn(2, 8, 6), torch.tensor([0, 1]))
    assert layer.losses is not None and torch.isfinite(layer.losses.importance)


def test_renormalised_scores_add_up_to_one() -> None:
    router = Router(6, 5, 3, 1, renormalise=True)
    logits = torch.randn(20, 5)
    routing = router.route(logits)
    best = logits.gather(1, routing.experts)
    torch.testing.assert_close(routing.scores, best.softmax(-1))


def test_dropped_choices_are_not_computed() -> None:
    layer = mixture(4, 3).eval()
    x = torch.randn(2, 20, 6)
    whole = layer(x, 0)
    plain = layer.routing
    layer.router.threshold = 0.2
    calls = [0] * 4
    for e, expert in enumerate(layer.experts):
        expert.register_forward_hook(
            lambda _m, inputs, _o, e=e: calls.__setitem__(e, len(inputs[0]))
        )
    pruned = layer(x, 0)
    routing = layer.routing
    assert plain is not None and routing is not None
    keep = plain.scores > 0.2
    assert 0 < keep.sum() < keep.numel()
    assert torch.equal(routing.experts, plain.experts.where(keep, torch.tensor(NOBODY)))
    assert torch.equal(routing.scores, plain.scores * keep)
    assert calls == [int((routing.experts == e).sum()) for e in range(4)]
    assert not torch.allclose(whole, pruned)
    layer.router.threshold = 1.0
    assert torch.equal(layer(x, 0), torch.zeros_like(x))  # nobody gets anything


@pytest.mark.parametrize("renormalise", [False, True])
def test_experts_until_their_scores_add_up(renormalise: bool) -> None:
    """At most k, at least one; the scores that are left are as they were, and have gradients."""
    layer = mixture(5, 4).eval()
    layer.router.renormalise = renormalise
    x = torch.randn(2, 20, 6)
    layer(x, 0)
    plain = layer.routing
    layer.router.top_p = 0.6
    layer(x, 0).square().sum().backward()
    routing = layer.routing
    assert plain is not None and routing is not None
    for row, scores, whole, all_of_them in zip(
        routing.experts.tolist(), routing.scores, plain.scores, plain.experts.tolist(), strict=True
    ):
        count = 1
        while count < 4 and float(whole[:count].detach().sum()) < 0.6:
            count += 1
        assert row == [*all_of_them[:count], *[NOBODY] * (4 - count)]
        assert torch.equal(scores[:count], whole[:count]) and not scores[count:].any()
    sizes = (routing.experts != NOBODY).sum(1)
    assert sizes.min() < sizes.max()
    gradient = layer.router.weight.grad
    assert gradient is not None and gradient[0].abs().sum() > 0


def test_training_reaches_the_task_embedding() -> None:
    embedding = TaskEmbedding(3, 7, 4)
    router = Router(6, 4, 2, 3, shared=True, task_dim=4)
    MixtureOfExperts(router, 6, 5)(
        torch.randn(2, 8, 6), torch.tensor([0, 2]), embedding=embedding()
    ).square().sum().backward()
    for module in (embedding, router):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_noise_is_for_training_only() -> None:
    layer = mixture(4, 2)
    x = torch.randn(2, 8, 6)
    layer.eval()
    assert torch.equal(layer(x, 0), layer(x, 0))
    assert layer.losses is None
    layer.train()
    layer(x, 0)
    first = layer.routing
    layer(x, 0)
    assert first is not None
    assert layer.routing is not None
    assert not torch.equal(first.probabilities, layer.routing.probabilities)
    assert layer.losses is not None


def test_squared_cv_by_hand() -> None:
    assert squared_cv(torch.tensor([2.0, 2.0, 2.0])) == 0
    assert squared_cv(torch.tensor([1.0, 3.0])) == pytest.approx(0.25)
    assert squared_cv(torch.tensor([0.0, 0.0, 8.0, 0.0])) == pytest.approx(3.0)
    assert squared_cv(torch.tensor([7.0])) == 0


def test_balanced_routing_costs_nothing() -> None:
    router = Router(4, 4, 1, 1)
    logits = 5 * torch.eye(4).repeat(8, 1)  # each expert the favourite of as many tokens
    importance, load = router.balance(logits, logits)
    assert importance == pytest.approx(0, abs=1e-6)
    assert load == pytest.approx(0, abs=1e-6)


def test_lopsided_routing_costs_most() -> None:
    router = Router(4, 4, 1, 1)
    logits = torch.tensor([[30.0, 0.0, 0.0, 0.0]]).repeat(8, 1)
    importance, load = router.balance(logits, logits)
    assert importance == pytest.approx(3, abs=1e-3)
    assert load == pytest.approx(3, abs=1e-3)


def test_load_is_the_probability_of_being_chosen() -> None:
    """Against the frequency over many draws of one expert's noise, the others' held."""
    router = Router(4, 3, 2, 1)
    clean = torch.tensor([[0.3, 0.1, 0.0]])
    noisy = clean + torch.tensor([[0.1, -0.2, 0.15]])
    _, load = router.balance(clean, noisy)
    torch.manual_seed(0)
    chances = []
    for expert in range(3):
        trials = noisy.repeat(40_000, 1)
        trials[:, expert] = clean[0, expert] + torch.randn(40_000) * router.noise
        chosen = trials.topk(2, dim=1).indices == expert
        chances.append(chosen.any(1).float().mean())
    assert load == pytest.approx(float(squared_cv(torch.stack(chances))), abs=0.01)


def test_choosing_all_experts_has_no_load_loss() -> None:
    router = Router(4, 3, 3, 1)
    logits = torch.randn(5, 3)
    assert router.balance(logits, logits).load == 0


def test_losses_reach_the_router() -> None:
    layer = mixture(4, 2).train()
    layer(torch.randn(2, 8, 6), torch.tensor([0, 1]))
    assert layer.losses is not None
    (layer.losses.importance + layer.losses.load).backward()
    assert layer.router.weight.grad is not None
    assert (layer.router.weight.grad.abs().sum(dim=(1, 2)) > 0).all()
