"""Sparse mixture of experts and its router, in the forms that M3ViT has.

Sources: Shazeer et al. 2017, "Outrageously Large Neural Networks" (noisy top-k gating, importance
and load losses: section 4 and appendix A); Riquelme et al. 2021, "Scaling Vision with Sparse
Mixture of Experts" (softmax over all experts before the top k, fixed noise of deviation 1/E);
Fan et al. 2022, "M3ViT" (a router for each task, or one that sees the task; experts shared by all,
or some of them for each task; scores below a threshold dropped); Huang et
al. 2024, "Harder Tasks Need More Experts: Dynamic Routing in MoE Models" (experts until their
scores add up to p).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moevit.quant.operators.gate import NOBODY

from ._timm import Mlp, trunc_normal_
from .activations import activation_layer

__all__ = ["Balance", "MixtureOfExperts", "Router", "Routing", "TaskEmbedding", "squared_cv"]


class Routing(NamedTuple):
    """A router's decision for ``n`` tokens.

    ``probabilities`` ``(n, W)`` is the softmax over the experts that the token's task may choose;
    ``scores`` ``(n, k)`` its k largest entries in falling order, renormalised if the router does
    that; ``experts`` ``(n, k)`` whose they are, among all experts. A choice that the threshold or
    top-p drops is :data:`~moevit.quant.operators.gate.NOBODY` with score 0.
    """

    probabilities: Tensor
    scores: Tensor
    experts: Tensor


class Balance(NamedTuple):
    """The two auxiliary losses, scalars."""

    importance: Tensor
    load: Tensor


def squared_cv(totals: Tensor) -> Tensor:
    """Squared coefficient of variation over the last axis; 0 for one entry.

    ``(variance / mean**2)`` with the population variance, so it is 0 for equal entries and E - 1
    where one of E entries has everything.
    """
    if totals.shape[-1] == 1:
        return torch.zeros_like(totals[..., 0])
    mean = totals.mean(-1)
    return totals.var(-1, unbiased=False) / mean.square().clamp_min(1e-10)


class TaskEmbedding(nn.Module):
    """What a conditioned gate sees of a task: its one-hot number through an MLP and a LayerNorm.

    ``forward`` gives all tasks' ``(T, C)``: constants once training is done.
    """

    def __init__(self, tasks: int, hidden: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tasks, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self) -> Tensor:
        """``(T, C)`` in full precision."""
        weight = self.fc1.weight  # (hidden, T), a column a task
        with torch.autocast(weight.device.type, enabled=False):
            hidden = F.gelu(weight.T + self.fc1.bias)  # (T, hidden)
            out: Tensor = self.norm(self.fc2(hidden))
            return out


class Router(nn.Module):
    """Gate matrices ``(G, E, D)``: one for each of ``T`` tasks, or a single one for all.

    ``forward`` maps tokens to the logits of the experts that their task may choose. While training,
    the mixture adds Gaussian noise of deviation ``1/W`` to the logits of ``W`` experts.

    Parameters
    ----------
    bias:
        Whether each task adds constants ``(T, E)`` to its logits.
    shared:
        One matrix for all tasks.
    task_dim:
        Channels that the gate sees beside the token, :class:`TaskEmbedding`'s; 0 for none.
    windows:
        How many experts a task may choose among, and the first of each task's. None: all.
    renormalise:
        Scores are divided by the sum of the chosen ones.
    threshold:
        A score not above it is dropped; 0 keeps all.
    top_p:
        Experts until their scores add up to it; 1 keeps all ``top_k``.
    """

    windows: Tensor  # (T, W)

    def __init__(
        self,
        dim: int,
        experts: int,
        top_k: int,
        tasks: int,
        *,
        bias: bool = False,
        shared: bool = False,
        task_dim: int = 0,
        windows: tuple[int, tuple[int, ...]] | None = None,
        renormalise: bool = False,
        threshold: float = 0.0,
        top_p: float = 1.0,
    ) -> None:
        super().__init__()
        width, starts = windows or (experts, (0,) * tasks)
        self.top_k, self.experts, self.tasks = top_k, experts, tasks
        self.renormalise, self.threshold, self.top_p = renormalise, threshold, top_p
        self.whole = width == experts
        self.noise = 1.0 / width
        self.weight = nn.Parameter(torch.empty(1 if shared else tasks, experts, dim))
        trunc_normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(tasks, experts)) if bias else None
        self.task_weight: nn.Parameter | None = None
        if task_dim:
            self.task_weight = nn.Parameter(torch.empty(experts, task_dim))
            trunc_normal_(self.task_weight, std=0.02)
        numbers = torch.tensor(starts)[:, None] + torch.arange(width)
        self.register_buffer("windows", numbers, persistent=False)

    def gate(self, task: Tensor | int, embedding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight ``(W, D)`` and bias ``(W,)`` of a task, or ``(B, W, D)`` and ``(B, 1, W)``.

        Everything that the gate adds for the task is in the bias, which may be None.
        """
        row = task if len(self.weight) > 1 else 0
        weight, bias = self.weight[row].float(), None  # (E, D) or (B, E, D)
        if self.bias is not None:
            bias = self.bias[task].float()  # (E,) or (B, E)
        if self.task_weight is not None:
            assert embedding is not None, "a conditioned gate needs the tasks' embedding"
            own = embedding[task].float() @ self.task_weight.float().T
            bias = own if bias is None else bias + own
        if not self.whole:
            window = self.windows[task]  # (W,) or (B, W)
            if window.ndim == 1:
                weight, bias = weight[..., window, :], None if bias is None else bias[window]
            else:
                if weight.ndim == 2:
                    weight = weight[window]  # one matrix for all: (B, W, D)
                else:
                    weight = weight.gather(1, window[..., None].expand(-1, -1, weight.shape[2]))
                bias = None if bias is None else bias.gather(1, window)
        return weight, bias if bias is None or bias.ndim == 1 else bias.unsqueeze(-2)

    def forward(self, x: Tensor, task: Tensor | int, embedding: Tensor | None = None) -> Tensor:
        """Logits ``(B, N, W)`` of tokens ``(B, N, D)``; ``task`` is one number or ``(B,)``."""
        # The comparison of logits decides where a token goes: keep it in full precision.
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.gate(task, embedding)
            logits = x.float() @ weight.transpose(-1, -2)
            return logits if bias is None else logits + bias

    def weigh(self, best: Tensor) -> Tensor:
        """What a token's ``k`` largest probabilities ``(..., k)``, in falling order, become; 0 if
        dropped."""
        if self.renormalise:
            best = best / best.sum(-1, keepdim=True)
        if self.threshold:
            best = best.where(best > self.threshold, best.new_zeros(()))
        if self.top_p < 1:  # which are taken has no gradient, their scores have
            before = best.detach().cumsum(-1) - best.detach()
            best = best.where(before < self.top_p, best.new_zeros(()))
        return best

    def route(self, logits: Tensor, window: Tensor | None = None) -> Routing:
        """Softmax over the experts of logits ``(n, W)``, then the top k.

        Equal probabilities go to the expert with the lower number. ``window`` ``(n, W)`` numbers
        the experts; 0 to W - 1 if None.
        """
        probabilities = logits.softmax(-1)
        order = probabilities.sort(dim=-1, descending=True, stable=True)
        scores, experts = self.weigh(order.values[:, : self.top_k]), order.indices[:, : self.top_k]
        if window is not None:
            experts = window.gather(-1, experts)
        if self.threshold or self.top_p < 1:
            experts = experts.where(scores > 0, experts.new_tensor(NOBODY))
        return Routing(probabilities, scores, experts)

    def balance(self, clean: Tensor, noisy: Tensor, tasks: Tensor | None = None) -> Balance:
        """Importance and load losses of ``(n, W)`` logits without and with the noise.

        Importance: the squared coefficient of variation of the experts' summed probabilities. Load:
        that of the experts' expected number of tokens, where a token counts for the probability
        that fresh noise would place the expert among its top k (Shazeer et al., appendix A).

        ``tasks`` ``(n,)``: where tasks choose among different experts, each one's own losses are
        averaged.
        """

        def spread(values: Tensor) -> Tensor:
            if tasks is None:
                return squared_cv(values.sum(0))
            totals = values.new_zeros(self.tasks, values.shape[1]).index_add(0, tasks, values)
            return squared_cv(totals[tasks.bincount(minlength=self.tasks) > 0]).mean()

        importance = spread(clean.softmax(-1))
        if self.top_k == clean.shape[-1]:
            return Balance(importance, torch.zeros_like(importance))
        best = noisy.topk(self.top_k + 1, dim=-1).values
        inside, outside = best[:, self.top_k :], best[:, self.top_k - 1 : self.top_k]
        threshold = torch.where(noisy > inside, inside, outside)  # k-th largest of the others
        chance = torch.special.ndtr((clean - threshold) / self.noise)
        return Balance(importance, spread(chance))


class MixtureOfExperts(nn.Module):
    """Sends each token to the ``top_k`` experts of its router and adds up what they return.

    ``y[n] = sum over j of scores[n, j] * expert[experts[n, j]](x[n])``. ``forward`` keeps the last
    routing in ``routing`` and, while training, the auxiliary losses in ``losses``.
    """

    def __init__(self, router: Router, dim: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        self.router = router
        self.experts = nn.ModuleList(
            Mlp(dim, hidden_features=hidden, act_layer=activation_layer(activation))
            for _ in range(router.experts)
        )
        self.routing: Routing | None = None
        self.losses: Balance | None = None

    def forward(
        self,
        x: Tensor,
        task: Tensor | int,
        gate_input: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """``(B, N, D)`` to the same; ``task`` is one number or ``(B,)``, one a sample.

        ``gate_input`` ``(B, N, D)`` is what the router reads, ``x`` if None; ``embedding`` ``(T,
        C)`` what it sees of the tasks.
        """
        router = self.router
        batch, length, dim = x.shape
        clean = router(x if gate_input is None else gate_input, task, embedding).flatten(0, 1)
        logits = clean
        if self.training:
            logits = clean + torch.randn_like(clean) * router.noise
        window = tasks = None
        if not router.whole:
            tasks = torch.as_tensor(task, device=x.device).expand(batch).repeat_interleave(length)
            window = router.windows[tasks]  # (B*N, W)
        routing = router.route(logits, window)
        self.routing = routing
        self.losses = router.balance(clean, logits, tasks) if self.training else None
        y = self._dispatch(x.flatten(0, 1), routing)
        return y.view(batch, length, dim)

    def _dispatch(self, x: Tensor, routing: Routing) -> Tensor:
        """Gather each expert's tokens, run it once on them, and scatter the weighted results."""
        top_k, chosen = routing.experts.shape[1], routing.experts.flatten()
        order = chosen.argsort(stable=True)  # places in (n, k), by expert; dropped ones first
        counts = torch.bincount(chosen - NOBODY, minlength=len(self.experts) - NOBODY).tolist()
        order, counts = order[counts[0] :], counts[1:]
        if not len(order):
            return torch.zeros_like(x)
        rows = order // top_k
        scores = routing.scores.flatten()[order]
        outputs = [
            expert(tokens)
            for expert, tokens in zip(self.experts, torch.split(x[rows], counts), strict=True)
            if len(tokens)
        ]
        weighted = torch.cat(outputs) * scores.to(outputs[0].dtype)[:, None]
        return torch.zeros_like(x, dtype=weighted.dtype).index_add(0, rows, weighted)
