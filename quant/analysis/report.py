"""Where a quantised network differs from its float original: tensor by tensor, and in routing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import e, inf, log2, log10
from typing import Any

import numpy as np

from ..float.network import FloatNetwork
from ..formats import LOGIT
from ..golden import Golden, GoldenResult
from ..network import Network
from ..typing import Array
from .bootstrap import Estimate, share

__all__ = ["Agreement", "Comparison", "compare"]


@dataclass(kw_only=True)
class Agreement:
    """Routing of one MoE layer under one task: tokens by image.

    ``images``: tokens, those for which float and integers choose the same experts, and those with
    the same best expert.
    """

    images: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, exact: Array, got: Array) -> None:
        """Chosen experts ``(n, k)`` of both sides for one image, best first."""
        same_set = np.all(np.sort(exact) == np.sort(got), axis=1)
        same_first = exact[:, 0] == got[:, 0]
        self.images.append((len(exact), int(same_set.sum()), int(same_first.sum())))

    @property
    def tokens(self) -> int:
        """Tokens of all images."""
        return sum(counts[0] for counts in self.images)

    @property
    def same_set(self) -> int:
        """Tokens that go to the same experts."""
        return sum(counts[1] for counts in self.images)

    @property
    def same_first(self) -> int:
        """Tokens whose best expert is the same."""
        return sum(counts[2] for counts in self.images)

    def share(self) -> Estimate:
        """Share of tokens with the same experts, with its interval over images."""
        tokens, same, _ = np.array(self.images).T
        return share(same, tokens)


@dataclass(kw_only=True)
class _Noise:
    """Sums over all elements of a site."""

    count: int = 0
    total: float = 0.0
    square: float = 0.0
    noise: float = 0.0

    def add(self, exact: Array, got: Array) -> None:
        exact = exact.astype(np.float64)
        self.count += exact.size
        self.total += float(exact.sum())
        self.square += float((exact**2).sum())
        self.noise += float(((got - exact) ** 2).sum())

    @property
    def decibels(self) -> float:
        variance = self.square - self.total**2 / self.count
        if not variance:
            return -inf
        return 10 * log10(variance / self.noise) if self.noise else inf


@dataclass(kw_only=True)
class Comparison:
    """Signal to quantisation noise by task and site, and agreement by task and block.

    Sites in the order of execution: ``embed``, ``blocks.<i>.proj`` and ``blocks.<i>.mlp`` (the
    residual stream after each addition), ``blocks.<i>.logits``, ``head``.
    """

    images: int = 0
    noise: dict[str, dict[str, _Noise]] = field(default_factory=dict)
    routing: dict[str, dict[int, Agreement]] = field(default_factory=dict)

    def decibels(self, task: str, site: str) -> float:
        """``10 log10(variance of float / mean squared difference)``."""
        return self.noise[task][site].decibels

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: decibels and shares of tokens."""
        return {
            "images": self.images,
            "tasks": {
                task: {
                    "decibels": {site: round(n.decibels, 2) for site, n in sites.items()},
                    "routing": {
                        str(block): {
                            "same_set": round(a.same_set / a.tokens, 4),
                            "same_set_interval": [
                                round(a.share().low, 4),
                                round(a.share().high, 4),
                            ],
                            "same_first": round(a.same_first / a.tokens, 4),
                        }
                        for block, a in self.routing[task].items()
                    },
                }
                for task, sites in self.noise.items()
            },
        }


def compare(
    exact: FloatNetwork,
    network: Network,
    images: Any,
    tasks: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Run both on ``images`` ``(N, H, W, C)`` uint8, image by image, task by task."""
    names = network.tasks if tasks is None else tuple(tasks)
    golden = Golden(network)
    result = Comparison(noise={task: {} for task in names}, routing={task: {} for task in names})
    for done, image in enumerate(np.asarray(images), start=1):
        for task in names:
            seen = _Seen()
            exact.run(image[None], [task], seen)
            got = golden.run(image, task, trace=True)
            for site, ideal, real in _pairs(network, task, seen, got):
                result.noise[task].setdefault(site, _Noise()).add(ideal, real)
            for routing in got.routing:
                chosen = seen[f"blocks.{routing.block}.routing.{task}"][0]
                agreement = result.routing[task].setdefault(routing.block, Agreement())
                agreement.add(chosen, routing.indices)
        result.images = done
        if progress is not None:
            progress(done)
    return result


class _Seen(dict[str, list[Array]]):
    """What a float run shows, by site, in order."""

    def __call__(self, name: str, rows: Array) -> None:
        self.setdefault(name, []).append(rows)


def _pairs(
    network: Network, task: str, seen: _Seen, got: GoldenResult
) -> Iterator[tuple[str, Array, Array]]:
    """Each site with its float values and what the integers stand for."""
    trace, additions = got.trace, iter(seen["residual"])
    yield "embed", next(additions), trace["embed"] * network.residual_scale
    if network.entry is not None:
        yield "entered", next(additions), trace["entered"] * network.residual_scale
    for i in range(len(network.blocks)):
        for step in ("proj", "mlp"):
            name = f"blocks.{i}.{step}"
            yield name, next(additions), trace[name] * network.residual_scale
        logits = seen.get(f"blocks.{i}.logits.{task}")
        if logits is not None:
            scale = 1 / (log2(e) * (1 << LOGIT.frac))
            yield f"blocks.{i}.logits", logits[0], trace[f"blocks.{i}.logits"] * scale
    if task in network.heads:
        scale = network.heads[task].scale
        yield "head", seen[f"heads.{task}"][0], got.output * scale
