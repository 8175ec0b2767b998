"""The dial of a frame: fewer experts a token than the program was compiled for.

Its values are those of the registers TOP_K, MIN_SCORE and TOP_P (hw/registers.py). A driver on a
board uses this file as it is: it needs Python 3.10 and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

__all__ = ["AS_COMPILED", "NEVER", "SCORE_BITS", "Dial", "enough_score", "least_score"]

SCORE_BITS = 15
"""Of an expert's score, a fraction of 1."""
_ONE, _MOST = 1 << SCORE_BITS, (1 << SCORE_BITS) - 1
_EXPERTS = (1 << 12) - 1
"""More than any network has; the hardware's limits are far below (``limits.top_k``)."""
NEVER = (1 << 16) - 1
"""``enough`` that no token's scores add up to: p = 1."""


def least_score(threshold: float) -> int:
    """The least score above ``threshold``, 0 to below 1; 1.0 is the largest score there is."""
    if not 0 <= threshold < 1:
        raise ValueError(f"from 0 to below 1, not {threshold!r}")
    return min(floor(threshold * _ONE) + 1, _MOST)


def enough_score(p: float) -> int:
    """The least sum of scores that reaches ``p``, above 0 to 1; :data:`NEVER` for 1."""
    if not 0 < p <= 1:
        raise ValueError(f"above 0 to 1, not {p!r}")
    return NEVER if p == 1 else min(ceil(p * _ONE), _MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """What a frame asks of every router in it; 0 leaves what was compiled.

    ``top_k``: the most experts a token. ``least``: no expert of a lower score. ``enough``: no
    expert behind those whose scores add up to that. Scores have 15 bits (docs/numbers.md). A dial
    can only drop choices: of it and the program the stricter holds, router by router.

    As what a program was compiled for (:meth:`check`) it tells the loosest router: ``top_k`` 0
    where there is none, ``enough`` 0 where nothing is ever enough.
    """

    top_k: int = 0
    least: int = 0
    enough: int = 0

    def __post_init__(self) -> None:
        for name, most in (("top_k", _EXPERTS), ("least", _MOST), ("enough", NEVER)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise ValueError(f"Dial.{name} must be from 0 to {most}, not {value!r}")

    @classmethod
    def of(
        cls, *, top_p: float | None = None, min_score: float | None = None, top_k: int | None = None
    ) -> Dial:
        """The dial of what a user asks for; None leaves what was compiled.

        ``top_p``, above 0 to 1: experts by falling score until their scores add up to it.
        ``min_score``, 0 to below 1: only experts of a score above it. ``top_k``: that many at most.
        Raises ``ValueError`` naming the value that is outside.
        """
        values = {"top_k": 0, "least": 0, "enough": 0}
        if top_k is not None:
            if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= _EXPERTS:
                raise ValueError(f"top_k must be from 1 to {_EXPERTS}, not {top_k!r}")
            values["top_k"] = top_k
        for name, field, value, convert in (
            ("min_score", "least", min_score, least_score),
            ("top_p", "enough", top_p, enough_score),
        ):
            if value is None:
                continue
            try:
                values[field] = convert(value)
            except ValueError as error:
                raise ValueError(f"{name} must be {error}") from None
        return cls(**values)

    def check(self, compiled: Dial) -> None:
        """``ValueError`` where the dial asks for more than ``compiled``; fewer experts are safe."""
        if self == AS_COMPILED:
            return
        if not compiled.top_k:
            raise ValueError("The dial is of no use: nothing in the program has experts")
        wrong = ""
        if self.top_k > compiled.top_k:
            wrong = f"top_k {self.top_k}, expected 1 to {compiled.top_k}"
        elif 0 < self.least < compiled.least:
            wrong = f"min_score {_score(self.least)}, expected {_score(compiled.least)} or more"
        elif compiled.enough and self.enough > compiled.enough:
            wrong = f"top_p {_score(self.enough)}, expected {_score(compiled.enough)} or less"
        if wrong:
            raise ValueError(f"The dial asks for more than the program was compiled for: {wrong}")


def _score(value: int) -> str:
    return f"{min(value / _ONE, 1):.5g}"


AS_COMPILED = Dial()
"""The registers' values after reset."""
