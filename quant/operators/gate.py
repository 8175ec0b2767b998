"""Router: softmax of the experts a task may choose, top-k or top-p of a token's scores.

M3ViT (Fan et al. 2022, sec. 3.2) with the options of its code: scores renormalised over the chosen
experts, and scores below a threshold dropped. Experts until their scores add up to p: Huang et al.
2024, "Harder Tasks Need More Experts: Dynamic Routing in MoE Models", here at most k of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..dial import NEVER, Dial, enough_score, least_score
from ..formats import SCORE, round_shift
from .exp2 import GATE_EXP, Exp2
from .softmax import reciprocal

__all__ = ["NOBODY", "Gate"]

NOBODY = -1
"""In place of an expert's number: the choice was dropped, its score counts as 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Top-``k`` of ``experts`` logits, with scores from 0 to 1.

    A score is the softmax over all ``experts``, or over the ``k`` chosen ones with
    ``renormalise``. One below ``least`` (Q0.15) is dropped: its expert does not get the token. So
    is one in front of which the token's better scores add up to ``enough`` (Q0.15, 0: nothing is).
    """

    experts: int
    k: int
    renormalise: bool = False
    least: int = 0
    enough: int = 0
    exp: Exp2 = GATE_EXP

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.experts:
            raise ValueError(f"Top-k must be from 1 to {self.experts} experts, not {self.k!r}")
        if not 0 <= self.least <= SCORE.max:
            raise ValueError(f"Least score must be from 0 to {SCORE.max}, not {self.least!r}")
        if not 0 <= self.enough <= NEVER:
            raise ValueError(f"Enough must be from 0 to {NEVER}, not {self.enough!r}")

    @staticmethod
    def above(threshold: float) -> int:
        """``least`` for which exactly the scores above ``threshold`` are kept; 0 drops nothing.

        Raises ``ValueError`` for a threshold outside 0..1.
        """
        try:
            return least_score(threshold) if threshold else 0
        except ValueError as error:
            raise ValueError(f"Threshold must be {error}") from None

    @staticmethod
    def reaching(p: float) -> int:
        """``enough`` of experts until their scores add up to ``p`` or more; 0, all k, for 1.

        Raises ``ValueError`` for a p outside 0..1, and for 0.
        """
        try:
            return enough_score(p) if p != 1 else 0
        except ValueError as error:
            raise ValueError(f"p must be {error}") from None

    def dialled(self, dial: Dial) -> Gate:
        """The gate of a frame with ``dial``: of each limit the stricter one."""
        return replace(
            self,
            k=min(self.k, dial.top_k or self.k),
            least=max(self.least, dial.least),
            enough=min(self.enough or NEVER, dial.enough or NEVER) % NEVER,
        )

    @property
    def limits(self) -> Dial:
        """What a dial may not exceed."""
        return Dial(top_k=self.k, least=self.least, enough=self.enough)

    def compute(self, logits: Any) -> tuple[Any, Any]:
        """Logits ``(N, experts)`` (:data:`LOGIT`) to indices and scores (Q0.15), both ``(N, k)``.

        The order is by falling logit; of equal logits the lower index comes first. A dropped choice
        is :data:`NOBODY` with score 0; as scores fall, dropped ones are the last of their token.
        """
        logits = np.asarray(logits, np.int64)
        index = np.argsort(-logits, axis=-1, kind="stable")[:, : self.k]
        e = self.exp.compute(logits.max(axis=-1, keepdims=True) - logits)
        chosen = np.take_along_axis(e, index, axis=-1)
        r, x = reciprocal((chosen if self.renormalise else e).sum(axis=-1))
        score = SCORE.saturate(round_shift(chosen * r[..., None], (x + 1)[..., None]))
        before = np.cumsum(score, axis=-1) - score
        kept = (score >= self.least) & (before < (self.enough or NEVER))
        return np.where(kept, index, NOBODY), np.where(kept, score, 0)

    def queues(self, logits: Any) -> list[list[tuple[int, int]]]:
        """For each expert its ``(token, score)`` pairs, tokens rising, as hardware keeps them."""
        index, score = self.compute(logits)
        queues: list[list[tuple[int, int]]] = [[] for _ in range(self.experts)]
        for token, rank in zip(*np.nonzero(index != NOBODY), strict=True):
            queues[int(index[token, rank])].append((int(token), int(score[token, rank])))
        return queues
