"""Router: softmax of all experts, top-k of a token's scores (M3ViT, Fan et al. 2022, sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .exp2 import GATE_EXP, Exp2
from .formats import SCORE, round_shift
from .softmax import reciprocal

__all__ = ["Gate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Top-``k`` of ``experts`` logits; a score is its softmax of all experts, not renormalised."""

    experts: int
    k: int
    exp: Exp2 = GATE_EXP

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.experts:
            raise ValueError(f"Top-k must be from 1 to {self.experts} experts, not {self.k!r}")

    def compute(self, logits: Any) -> tuple[Any, Any]:
        """Logits ``(N, experts)`` (:data:`LOGIT`) to indices and scores (Q0.15), both ``(N, k)``.

        The order is by falling logit; of equal logits the lower index comes first.
        """
        logits = np.asarray(logits, np.int64)
        index = np.argsort(-logits, axis=-1, kind="stable")[:, : self.k]
        e = self.exp.compute(logits.max(axis=-1, keepdims=True) - logits)
        r, x = reciprocal(e.sum(axis=-1))
        chosen = np.take_along_axis(e, index, axis=-1)
        return index, SCORE.saturate(round_shift(chosen * r[..., None], (x + 1)[..., None]))

    def queues(self, logits: Any) -> list[list[tuple[int, int]]]:
        """For each expert its ``(token, score)`` pairs, tokens rising, as hardware keeps them."""
        index, score = self.compute(logits)
        queues: list[list[tuple[int, int]]] = [[] for _ in range(self.experts)]
        for token in range(len(index)):
            for rank in range(self.k):
                queues[int(index[token, rank])].append((token, int(score[token, rank])))
        return queues
