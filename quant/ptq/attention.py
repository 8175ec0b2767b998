"""Post-training quantisation of attention, and what compensation asks of every layer."""

from __future__ import annotations

from math import log2
from typing import Any

import numpy as np

from ..float.network import FloatAttention, FloatLinear, FloatNorm
from ..formats import LOGIT, Multiplier
from ..network import Attention
from ..operators.linear import Linear
from ..operators.softmax import Softmax
from ..reproducible import product
from .flow import Flow, Pair
from .heads import HeadQuantiser
from .ranges import CODES, SEARCH_ROWS, Encoding, channel_range, search

__all__ = ["AttentionQuantiser"]

Floats = np.ndarray[Any, np.dtype[Any]]


class AttentionQuantiser(HeadQuantiser):
    """Quantises attention; ``flow``: the pictures that go along, with compensation."""

    flow: Flow | None = None

    @staticmethod
    def real(flow: Flow | None, name: str, norm: FloatNorm) -> Floats | None:
        """Outputs of a norm on the pictures that go along."""
        return None if flow is None else flow.floats(name) * norm.gain + norm.bias

    def pair(
        self,
        layer: FloatLinear,
        seen: Floats | None,
        real: Floats | None,
        missing: Floats | float = 0.0,
        *,
        share: float = 1.0,
    ) -> Pair | None:
        """For compensation: codes and real inputs of a layer, and what else it should give.

        ``share``: of the usual damping.
        """
        if seen is None or real is None:
            return None
        wanted = product(real, layer.weight) + layer.bias + missing
        return Pair(seen=seen, wanted=wanted, damping=self.options.compensate * share)

    def attention(
        self, a: FloatAttention, encoding: Encoding, index: int, rows: Floats, seen: Floats | None
    ) -> Attention:
        options, stats, flow, prefix = self.options, self.stats, self.flow, f"blocks.{index}."
        head_dim = self.net.geometry.head_dim
        real = self.real(flow, prefix + "norm1", self.net.blocks[index].norm1)

        def layer(name: str, scale: Floats, offset: float | Floats = 0.0) -> Linear:
            exact = getattr(a, name)
            pair = self.pair(exact, seen, real)
            return self.linear(
                exact, encoding, scale, offset, name=prefix + name, rows=rows, pair=pair
            )

        # Scores: steps of q and k may differ in each channel as long as their product is the same.
        clip, percentile = options.clip, options.percentile
        _, q_half = channel_range(stats.site(prefix + "q"), clip, percentile, centred=False)
        k_centre, k_half = channel_range(stats.site(prefix + "k"), clip, percentile)
        q_half, k_half = q_half * options.margin, k_half * options.margin
        square = float((q_half * k_half).max()) / CODES**2
        balance = np.sqrt(q_half / k_half)
        q_scale, k_scale = np.sqrt(square) * balance, np.sqrt(square) / balance
        self.encodings[prefix + "q"] = Encoding(scale=q_scale, offset=np.zeros_like(q_scale))
        self.encodings[prefix + "k"] = Encoding(scale=k_scale, offset=k_centre)
        q, k = layer("q", q_scale), layer("k", k_scale, k_centre)
        score = square * head_dim**-0.5 * log2(np.e) * (1 << LOGIT.frac)
        # Values: the output is a mean of them, so it has their channels' scales and centres.
        site = stats.site(prefix + "attention")
        width = [options.bits("proj")]
        values = self.channels(prefix + "v", stats.site(prefix + "v"), [a.proj], width)
        self.encodings[prefix + "v"] = values
        v = layer("v", values.scale, values.offset)
        peak = max(
            float(((site.high - values.offset) / values.scale).max()),
            float(((values.offset - site.low) / values.scale).max()),
        )
        if clip == "percentile":
            steps = (site.rows - values.offset) / values.scale
            peak = float(np.percentile(np.abs(steps), percentile))
        elif clip == "mse":
            steps = (site.sample(SEARCH_ROWS) - values.offset) / values.scale
            peak *= float(search(steps.reshape(-1, 1), np.array([peak]))[0])
        gain = CODES / max(peak * options.margin, 1.0)
        out = Encoding(scale=values.scale / gain, offset=values.offset)
        self.encodings[prefix + "attention"] = out
        softmax = Softmax(score=Multiplier.from_scale(score), out=Multiplier.from_scale(gain))
        if flow is None or seen is None:
            proj = self.linear(a.proj, out, self.residual, name=prefix + "proj", rows=site.rows)
            return Attention(q=q, k=k, v=v, softmax=softmax, proj=proj)
        codes = flow.attended(q, k, v, softmax, seen)
        before = "embed" if not index else f"blocks.{index - 1}.mlp"
        if not index and self.net.entry is not None:
            before = "entered"
        pair = self.pair(a.proj, codes, flow.floats(prefix + "attention"), flow.missing(before))
        proj = self.linear(
            a.proj, out, self.residual, name=prefix + "proj", rows=site.rows, pair=pair
        )
        flow.project(proj, codes)
        return Attention(q=q, k=k, v=v, softmax=softmax, proj=proj)
