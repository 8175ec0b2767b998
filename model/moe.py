"""Sparse mixture of experts with one router a task (multi-gate).

Sources: Shazeer et al. 2017, "Outrageously Large Neural Networks" (noisy top-k gating, importance
and load losses: section 4 and appendix A); Riquelme et al. 2021, "Scaling Vision with Sparse
Mixture of Experts" (softmax over all experts before the top k, fixed noise of deviation 1/E);
Fan et al. 2022, "M3ViT" (a router for each task, experts shared by all).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._timm import Mlp, trunc_normal_

__all__ = ["Balance", "MixtureOfExperts", "Router", "Routing", "squared_cv"]


class Routing(NamedTuple):
    """A router's decision for ``n`` tokens.

    ``probabilities`` ``(n, E)`` is the softmax over all experts, ``scores`` ``(n, k)`` its k
    largest entries (not renormalised) in falling order, ``experts`` ``(n, k)`` whose they are.
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


class Router(nn.Module):
    """Gate matrices ``(T, E, D)``, one for each of ``T`` tasks, without bias unless asked for.

    ``forward`` maps normalised tokens to logits. While training, :meth:`route` adds Gaussian noise
    of deviation ``1/E`` to the logits before the softmax.
    """

    def __init__(
        self, dim: int, experts: int, top_k: int, tasks: int, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.noise = 1.0 / experts
        self.weight = nn.Parameter(torch.empty(tasks, experts, dim))
        trunc_normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(tasks, experts)) if bias else None

    def forward(self, x: Tensor, task: Tensor | int) -> Tensor:
        """Logits ``(B, N, E)`` of tokens ``(B, N, D)``; ``task`` is one number or ``(B,)``."""
        # The comparison of logits decides where a token goes: keep it in full precision.
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight[task].float()  # (E, D) or (B, E, D)
            logits = x.float() @ weight.transpose(-1, -2)
            if self.bias is not None:
                logits = logits + self.bias[task].float().unsqueeze(-2)  # (1, E) or (B, 1, E)
            return logits

    def route(self, logits: Tensor) -> Routing:
        """Softmax over all experts, then the top k, of logits ``(n, E)``.

        Equal probabilities go to the expert with the lower number.
        """
        probabilities = logits.softmax(-1)
        order = probabilities.sort(dim=-1, descending=True, stable=True)
        return Routing(probabilities, order.values[:, : self.top_k], order.indices[:, : self.top_k])

    def balance(self, clean: Tensor, noisy: Tensor) -> Balance:
        """Importance and load losses of ``(n, E)`` logits without and with the noise.

        Importance: the squared coefficient of variation of the experts' summed probabilities. Load:
        that of the experts' expected number of tokens, where a token counts for the probability
        that fresh noise would place the expert among its top k (Shazeer et al., appendix A).
        """
        importance = squared_cv(clean.softmax(-1).sum(0))
        if self.top_k == clean.shape[-1]:
            return Balance(importance, torch.zeros_like(importance))
        best = noisy.topk(self.top_k + 1, dim=-1).values
        inside, outside = best[:, self.top_k :], best[:, self.top_k - 1 : self.top_k]
        threshold = torch.where(noisy > inside, inside, outside)  # k-th largest of the others
        chance = torch.special.ndtr((clean - threshold) / self.noise)
        return Balance(importance, squared_cv(chance.sum(0)))


class MixtureOfExperts(nn.Module):
    """Sends each token to the ``top_k`` experts of its task's router and adds up what they return.

    ``y[n] = sum over j of scores[n, j] * expert[experts[n, j]](x[n])``. ``forward`` keeps the last
    routing in ``routing`` and, while training, the auxiliary losses in ``losses``.
    """

    def __init__(
        self,
        dim: int,
        experts: int,
        top_k: int,
        hidden: int,
        tasks: int,
        *,
        gate_bias: bool = False,
    ) -> None:
        super().__init__()
        self.router = Router(dim, experts, top_k, tasks, bias=gate_bias)
        self.experts = nn.ModuleList(
            Mlp(dim, hidden_features=hidden, act_layer=nn.GELU) for _ in range(experts)
        )
        self.routing: Routing | None = None
        self.losses: Balance | None = None

    def forward(self, x: Tensor, task: Tensor | int) -> Tensor:
        """``(B, N, D)`` to the same; ``task`` is one number or ``(B,)``, one a sample."""
        batch, length, dim = x.shape
        clean = self.router(x, task).flatten(0, 1)  # (B*N, E)
        logits = clean
        if self.training:
            logits = clean + torch.randn_like(clean) * self.router.noise
        routing = self.router.route(logits)
        self.routing = routing
        self.losses = self.router.balance(clean, logits) if self.training else None
        y = self._dispatch(x.flatten(0, 1), routing)
        return y.view(batch, length, dim)

    def _dispatch(self, x: Tensor, routing: Routing) -> Tensor:
        """Gather each expert's tokens, run it once on them, and scatter the weighted results."""
        top_k = routing.experts.shape[1]
        order = routing.experts.flatten().argsort(stable=True)  # places in (n, k), by expert
        counts = torch.bincount(routing.experts.flatten(), minlength=len(self.experts)).tolist()
        rows = order // top_k
        scores = routing.scores.flatten()[order]
        outputs = [
            expert(tokens)
            for expert, tokens in zip(self.experts, torch.split(x[rows], counts), strict=True)
            if len(tokens)
        ]
        weighted = torch.cat(outputs) * scores.to(outputs[0].dtype)[:, None]
        return torch.zeros_like(x, dtype=weighted.dtype).index_add(0, rows, weighted)
