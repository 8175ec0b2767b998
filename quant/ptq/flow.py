"""Calibration pictures on their way through the float network and through the integers made so far.

Rounding a layer's weights can make up for what rounding did to its inputs, as long as it is known
what the inputs have become (GPTQ's asymmetric form: Li et al. 2025, GPTAQ, section 3). So layers
are quantised in the order of execution; each is told the codes that it will read, and the real
outputs that it should have given (:class:`Pair`). Every token follows its own routing, in floats
and in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..float.network import FloatNetwork
from ..golden import PIXEL_OFFSET, attend, patchify, run_experts
from ..network import Entry, Mlp, Moe
from ..operators.layernorm import LayerNorm
from ..operators.linear import Linear, to_activation, to_key_value
from ..operators.rescale import Rescale
from ..operators.softmax import Softmax
from ..typing import Floats, Ints

__all__ = ["PICTURES", "Flow", "Pair"]

PICTURES = 16
"""Pictures that go along, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A layer's input codes ``(n, K)`` in integers, and its real outputs ``(n, O)`` in floats.

    ``damping``: of the change of its weights (:func:`~.rounding.compensated`).
    """

    seen: Floats
    wanted: Floats
    damping: float


@dataclass(kw_only=True, eq=False)
class _Recorder:
    """Float tensors by site, a list of one or as many as tasks; ``residual`` by what gave it."""

    found: dict[str, list[Floats]] = field(default_factory=dict)
    last: str = "embed"

    def __call__(self, name: str, rows: Any) -> None:
        if name == "residual":
            name = self.last
        elif name.startswith("blocks."):
            index, site = name.split(".")[1:3]
            self.last = f"blocks.{index}." + ("proj" if site == "attention" else "mlp")
        elif name == "entry":
            self.last = "entered"
        self.found.setdefault(name, []).append(rows)


class Flow:
    """The residual stream of each lane: one for all tasks up to the first mixture, then a task's.

    ``x`` ``(lanes * images, tokens, D)`` are integers, in steps of ``step``.
    """

    def __init__(self, network: FloatNetwork, pictures: Ints, step: float) -> None:
        self.net, self.step = network, step
        self.pictures = np.asarray(pictures)[:PICTURES]
        recorder = _Recorder()
        network.run(self.pictures, observe=recorder)
        self.found = recorder.found
        self.lanes: Sequence[str] = ("",)
        self.x: Ints = np.zeros(0, np.int64)
        self.before = self.x

    def floats(self, name: str) -> Floats:
        """A site's rows in floats, lane by lane."""
        found = self.found[name]
        copies = len(self.lanes) // len(found)  # of what was computed once for all tasks
        return np.concatenate(found * copies).astype(np.float64)

    def embed(self, embedding: Ints, linear: Linear) -> None:
        """Pictures to the residual stream."""
        g = self.net.geometry
        pixels = patchify(self.pictures.astype(np.int64) - PIXEL_OFFSET, g.patch)
        self.x = np.repeat(embedding[None].astype(np.int64), len(pixels), axis=0)
        self.x[:, g.front :] = linear.add(self.x[:, g.front :], pixels)

    def enter(self, entry: Entry) -> None:
        """The norm in front of the blocks."""
        self.x = entry.linear.add(np.zeros_like(self.x), entry.norm.compute(self.x))

    def normed(self, norm: LayerNorm | Rescale, x: Ints | None = None) -> Ints:
        """Codes ``(n, D)`` of a norm's outputs."""
        codes: Ints = norm.compute(self.x if x is None else x)
        return codes.reshape(-1, codes.shape[-1])

    def missing(self, site: str) -> Floats:
        """What the residual stream lacks ``(n, D)`` beside the float one after ``site``."""
        return self.floats(site) - self.x.reshape(-1, self.x.shape[-1]) * self.step

    def attended(self, q: Linear, k: Linear, v: Linear, softmax: Softmax, codes: Ints) -> Ints:
        """Codes ``(n, D)`` of attention's outputs, of those of the norm in front."""
        y, heads = codes.reshape(self.x.shape), self.net.geometry.heads
        queries, keys = to_activation(q.values(y)), to_key_value(k.values(y))
        out = attend(softmax, heads, queries, keys, to_key_value(v.values(y)))
        return out.reshape(codes.shape)

    def project(self, proj: Linear, codes: Ints) -> None:
        """Attention onto the residual stream."""
        self.before = self.x
        self.x = proj.add(self.x, codes.reshape(self.x.shape))

    def part(self) -> None:
        """Lanes for each task from here on, where there is one for all."""
        if self.lanes == ("",):
            tasks = self.lanes = self.net.tasks
            self.x = np.concatenate([self.x] * len(tasks))
            self.before = np.concatenate([self.before] * len(tasks))

    def lane(self, task: str) -> slice:
        """A task's rows."""
        number, rows = list(self.lanes).index(task), self.x.shape[0] * self.x.shape[1]
        own = rows // len(self.lanes)
        return slice(number * own, (number + 1) * own)

    def chosen(self, prefix: str) -> Ints:
        """Experts ``(n, k)`` of each row in floats."""
        return np.concatenate([self.found[f"{prefix}routing.{t}"][0] for t in self.lanes])

    def dense(self, mlp: Mlp, codes: Ints) -> None:
        """An MLP onto the residual stream."""
        hidden = mlp.hidden.compute(mlp.fc1.values(codes))
        self.x = mlp.fc2.add(self.x, hidden.reshape(*self.x.shape[:-1], -1))

    def mixture(self, moe: Moe, codes: Ints) -> None:
        """A mixture of experts onto the residual stream, by the integers' own routing."""
        shape = self.x.shape
        x, before = self.x.reshape(codes.shape), self.before.reshape(codes.shape)
        rows = [
            run_experts(moe, t, x[at], codes[at], before[at])[0]
            for t in self.lanes
            for at in (self.lane(t),)
        ]
        self.x = np.concatenate(rows).reshape(shape)
