"""What a case is made of, by names that a person can tell apart, and which pairs of them exist."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

__all__ = ["CHOICES", "DRAWN", "PAIRS", "Pair", "pairs_of", "possible"]

DRAWN: dict[str, tuple[str, ...]] = {
    "image": ("one patch", "one line", "few", "many"),
    "patch": ("4", "8", "odd"),
    "channels": ("1", "3"),
    "attention heads": ("1", "2", "3"),
    "width": ("narrow", "wide"),
    "hidden": ("one", "some", "many"),
    "depth": ("1", "2"),
    "moe": ("none", "some", "all"),
    "experts": ("one", "two", "more"),
    "top_k": ("1", "2", "more"),
    "routing": ("varied", "one", "starved"),
    "expert bits": ("8", "4"),
    "window": ("no", "yes"),
    "scores": ("of all", "of the chosen"),
    "least score": ("none", "some", "most"),
    "router": ("behind", "ahead"),
    "front": ("nothing", "class", "class, distilled", "registers", "class, registers"),
    "output": ("none", "patches", "class", "mean", "pooled", "upsampling", "convolution"),
    "final norm": ("no", "yes"),
    "entry norm": ("no", "yes"),
    "tasks": ("1", "2", "3"),
    "streamed": ("all", "used", "popular", "none"),
    "schedule": ("single", "all", "queue"),
    "memory": ("ideal", "stalls", "narrow", "far", "mixed"),
    "fault": (
        "none",
        "HEADER",
        "HASH",
        "OPCODE",
        "FIELD",
        "ADDRESS",
        "STREAM",
        "READ",
        "WRITE",
        "TRUNCATED",
        "HANG",
        "ABORTED",
    ),
}
"""What the generator chooses, and the choices."""

CHOICES: dict[str, tuple[str, ...]] = {
    **DRAWN,
    "array tokens": ("2", "4", "6"),
    "array outputs": ("4", "8"),
    "array inputs": ("twice", "more"),
    "ports": ("1", "2", "4"),
    "ring": ("32", "64", "128"),
    "tokens lie": ("on the chip", "in memory"),
}
"""And what the machine and the compiler add to it."""

_OF_EXPERTS = (
    "experts",
    "top_k",
    "routing",
    "expert bits",
    "window",
    "scores",
    "least score",
    "router",
    "streamed",
)
"""Features that a network without experts does not have."""

Pair = tuple[str, str, str, str]
"""Feature, its value, another feature, its value; in the order of :data:`CHOICES`."""

_IMPOSSIBLE: tuple[Pair, ...] = (
    ("depth", "1", "moe", "some"),
    ("moe", "none", "schedule", "all"),
    ("tasks", "1", "schedule", "all"),
    ("schedule", "all", "tokens lie", "on the chip"),  # what the tasks share comes from memory
    # One expert is chosen by all, and is all that a window can hold.
    ("experts", "one", "top_k", "2"),
    ("experts", "one", "top_k", "more"),
    ("experts", "one", "routing", "starved"),
    ("experts", "one", "window", "yes"),
    ("experts", "two", "top_k", "more"),
    ("experts", "two", "window", "yes"),  # of one expert: counted as more's
    # The kind of head says where its norm is.
    ("front", "nothing", "output", "class"),
    ("front", "registers", "output", "class"),
    ("output", "patches", "final norm", "no"),
    ("output", "class", "final norm", "no"),
    ("output", "mean", "final norm", "no"),
    ("output", "pooled", "final norm", "yes"),
    # Two rows of weights must make whole beats on each port.
    ("array outputs", "4", "ports", "4"),
)


def possible(pair: Pair) -> bool:
    """Whether a case can have both."""
    if pair in _IMPOSSIBLE:
        return False
    return not ("moe" in pair and pair[pair.index("moe") + 1] == "none" and _of_experts(pair))


def _of_experts(pair: Pair) -> bool:
    return pair[0] in _OF_EXPERTS or pair[2] in _OF_EXPERTS


def _all(choices: Mapping[str, tuple[str, ...]]) -> tuple[Pair, ...]:
    return tuple(
        pair
        for a, b in combinations(choices, 2)
        for x in choices[a]
        for y in choices[b]
        if possible(pair := (a, x, b, y))
    )


PAIRS = _all(CHOICES)
"""Every pair of features that can meet in a case."""


def pairs_of(found: Mapping[str, str]) -> set[Pair]:
    """The pairs of a case with these features, those that it lacks left out."""
    present = [(name, found[name]) for name in CHOICES if name in found]
    return {(a, x, b, y) for (a, x), (b, y) in combinations(present, 2)}
