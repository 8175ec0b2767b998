"""Post-training quantisation of norms and heads, with the methods of :mod:`.quantize`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..float.network import FloatHead, FloatLinear, FloatNetwork, FloatNorm
from ..float.upsampling import FloatUpsamplingHead
from ..formats import RESIDUAL, VALUE, Multiplier
from ..network import Head, Pooled
from ..operators.layernorm import EPS, LayerNorm
from ..operators.rescale import Rescale
from ..operators.upsampling import UpsamplingHead
from .calibrate import Calibration
from .layers import Fixed, Layers
from .options import Options
from .ranges import CODES, Encoding, channel_range
from .upsampling import upsampling_stages

__all__ = ["HeadQuantiser", "parts"]

Floats = np.ndarray[Any, np.dtype[Any]]

_MEAN_ROOM = 1.25
"""Range of a mean over tokens, over the largest that calibration saw: there are few of them."""


def parts(head: FloatHead | FloatUpsamplingHead) -> list[FloatLinear]:
    """What of a head reads tokens, as layers on one token each."""
    if isinstance(head, FloatUpsamplingHead):
        return head.stages[0].taps
    weights = np.split(head.linear.weight, head.tokens, axis=1)
    return [FloatLinear(weight=weight, bias=head.linear.bias) for weight in weights]


class HeadQuantiser(Layers):
    """Quantises the norms and heads of ``network``; ``residual``: step of the residual stream."""

    def __init__(
        self,
        network: FloatNetwork,
        calibration: Calibration,
        options: Options,
        fixed: Fixed | None = None,
    ) -> None:
        super().__init__(options, fixed)
        self.net, self.stats = network, calibration
        site = calibration.site("residual")
        peak = max(float(site.high.max()), -float(site.low.min()))
        self.residual = peak * options.headroom / RESIDUAL.max

    def norm(
        self,
        norm: FloatNorm,
        name: str,
        consumers: Sequence[FloatLinear],
        widths: Sequence[int] = (),
        *,
        step: float | None = None,
    ) -> tuple[LayerNorm, Encoding]:
        """LayerNorm to int8, and what its codes mean to the consumers.

        The codes stand for ``x_hat``; the norm's own gain and bias pass on to the consumers, whose
        weights have ``widths`` bits (default: 8). ``step``: of what it reads, the residual stream's
        if None.
        """
        site = self.stats.site(name)
        own = Encoding(scale=norm.gain.astype(np.float64), offset=norm.bias.astype(np.float64))
        folded = [
            FloatLinear(
                weight=c.weight * own.scale, bias=c.bias + (c.weight * own.offset).sum(axis=1)
            )
            for c in consumers
        ]
        inner = self.encodings[name] = self.channels(name, site, folded, widths)
        dim = self.net.geometry.dim
        eps = round(norm.eps * (dim / (step or self.residual)) ** 2)
        layer = LayerNorm.from_affine(
            1 / inner.scale, -inner.offset / inner.scale, min(eps, EPS.max)
        )
        outer = Encoding(
            scale=inner.scale * own.scale, offset=inner.offset * own.scale + own.offset
        )
        return layer, outer

    def final_tokens(self, norm: FloatNorm) -> tuple[LayerNorm, float]:
        """The final norm where its outputs are the result: one step for all channels, and it."""
        centre, half = channel_range(
            self.stats.site("norm"), self.options.clip, self.options.percentile
        )
        reach = np.abs(norm.gain * centre + norm.bias) + np.abs(norm.gain * half)
        step = float(reach.max()) / CODES
        dim = self.net.geometry.dim
        eps = round(norm.eps * (dim / self.residual) ** 2)
        gain, bias = norm.gain.astype(np.float64) / step, norm.bias.astype(np.float64) / step
        used = np.where(gain == 0, 1.0, gain)
        self.encodings["norm"] = Encoding(scale=1 / used, offset=-bias / used)
        return LayerNorm.from_affine(gain, bias, min(eps, EPS.max)), step

    def after(self, name: str, norm: FloatNorm) -> Floats:
        """Calibrated outputs of a LayerNorm, whose site is ``x_hat``."""
        out: Floats = self.stats.site(name).rows * norm.gain + norm.bias
        return out

    def output(
        self, task: str, head: FloatHead | FloatUpsamplingHead, encoding: Encoding | None
    ) -> Head | UpsamplingHead:
        """A task's head; ``encoding``: what the final norm's codes mean, where there is one."""
        if isinstance(head, FloatUpsamplingHead):
            return self.upsampling(f"heads.{task}", head, encoding)
        if head.norm is not None:
            return self.pooled_head(f"heads.{task}", head, head.norm)
        if encoding is None or self.net.norm is None:
            raise ValueError(f"Head {task!r} needs the final norm, which the network lacks")
        return self.linear_head(f"heads.{task}", head, encoding, self.net.norm)

    def pooled_head(self, name: str, head: FloatHead, norm: FloatNorm) -> Head:
        """A head on the mean of the residual stream with ``norm`` behind it.

        The mean is int8 by channel, and becomes a residual of one row, whose step is its own.
        """
        dim, headroom = self.net.geometry.dim, self.options.headroom
        same = FloatLinear(weight=np.eye(dim, dtype=np.float32), bias=np.zeros(dim, np.float32))
        seen = self.channels(f"{name}.rows", self.stats.site(f"{name}.rows"), [same])
        mean, pooled, rows = self.mean_of(f"{name}.mean", seen)
        step = float(np.abs(rows).max()) * headroom * _MEAN_ROOM / RESIDUAL.max
        layer, encoding = self.norm(norm, f"{name}.norm", parts(head), step=step)
        site = self.stats.site(name)
        peak = max(float(np.abs(site.low).max()), float(np.abs(site.high).max()))
        scale = peak * headroom / VALUE.max
        rows = self.after(f"{name}.norm", norm)
        return Head(
            linear=self.linear(head.linear, encoding, scale, name=name, rows=rows),
            channels=head.channels,
            upscale=head.upscale,
            mean=mean,
            pooled=Pooled(
                rescale=Rescale.from_affine(self.residual / seen.scale, -seen.offset / seen.scale),
                linear=self.linear(same, pooled, step, name=f"{name}.pooled"),
                norm=layer,
            ),
        )

    def mean_of(self, name: str, seen: Encoding) -> tuple[Multiplier, Encoding, Floats]:
        """The gain of a mean of codes of ``seen``, what its codes mean, and its rows."""
        site = self.stats.site(name)
        ends = (np.stack([site.low, site.high]) - seen.offset) / seen.scale
        gain = CODES / max(float(np.abs(ends).max()) * _MEAN_ROOM, 1.0)
        out = Encoding(scale=seen.scale / gain, offset=seen.offset)
        return Multiplier.from_scale(gain), out, site.rows

    def upsampling(
        self, name: str, head: FloatUpsamplingHead, encoding: Encoding | None
    ) -> UpsamplingHead:
        """A head on the map of patches, behind the final norm or one of its own."""
        norm = None
        if head.norm is not None:
            norm, encoding = self.norm(head.norm, f"{name}.norm", parts(head))
        if encoding is None:
            raise ValueError(f"{name} needs a norm of its own: the network has none")
        grid = self.net.geometry.grid
        stages = upsampling_stages(self, self.stats, head, name=name, grid=grid, encoding=encoding)
        return UpsamplingHead(norm=norm, stages=stages)

    def linear_head(self, name: str, head: FloatHead, encoding: Encoding, norm: FloatNorm) -> Head:
        """A head that reads what ``norm`` gives, in codes of ``encoding``."""
        site = self.stats.site(name)
        peak = max(float(np.abs(site.low).max()), float(np.abs(site.high).max()))
        scale = peak * self.options.headroom / VALUE.max
        rows, seen, mean = self.after("norm", norm), encoding, None
        if head.tokens > 1:  # as many rows of tokens side by side as there are
            seen = seen.tiled(head.tokens)
            count = len(rows) // head.tokens * head.tokens
            rows = rows[:count].reshape(-1, rows.shape[1] * head.tokens)
        if head.mean:
            mean, seen, rows = self.mean_of(f"{name}.mean", seen)
        return Head(
            linear=self.linear(head.linear, seen, scale, name=name, rows=rows),
            channels=head.channels,
            upscale=head.upscale,
            class_token=head.class_token,
            tokens=head.tokens,
            mean=mean,
        )
