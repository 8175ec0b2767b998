"""Single layers to integers, whatever network they are of: weights, biases, scales of their inputs.

The methods are those of :mod:`.quantize`, which says where each is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..float.network import FloatLinear
from ..formats import ACCUMULATOR, ACTIVATION, WEIGHT, Multiplier, weight_max
from ..operators.linear import Linear
from ..reproducible import power, product
from .calibrate import Site
from .flow import Pair
from .options import Options
from .ranges import CODES, LEVELS, Encoding, channel_range, quantise_rows, rectified_range
from .rounding import Rounding, compensated, diffused, moment, round_weights, seeks

__all__ = ["Fixed", "Layers"]

Floats = np.ndarray[Any, np.dtype[Any]]

_TRIAL_ROWS = 512
_TINY = 1e-30
_HARDLY = 1 / 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Fixed:
    """What is decided already, by a training that saw it: ``encodings`` of sites, and the ``steps``
    ``(O,)`` of the rows of layers, whose weights are those of their codes, to be rounded to the
    nearest."""

    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    steps: Mapping[str, Floats] = field(default_factory=dict)


class Layers:
    """Quantises layers and remembers what their integers stand for.

    ``layers``: real layers by name, with the weights and biases that the integers have; ``inputs``:
    what the codes mean that they read; ``steps`` ``(O,)``: of their weights on such codes;
    ``encodings``: of sites (:meth:`~..float.network.FloatNetwork.run`), what their codes mean.
    """

    def __init__(self, options: Options, fixed: Fixed | None = None) -> None:
        self.options, self.fixed = options, fixed or Fixed()
        self.layers: dict[str, FloatLinear] = {}
        self.inputs: dict[str, Encoding] = {}
        self.steps: dict[str, Floats] = {}
        self.encodings: dict[str, Encoding] = {}

    def linear(
        self,
        layer: FloatLinear,
        encoding: Encoding,
        out_scale: float | Floats,
        out_offset: float | Floats = 0.0,
        *,
        name: str = "",
        bits: int | None = None,
        rows: Floats | None = None,
        prior: Floats | None = None,
        pivot: float | Floats = 0.0,
        taps: int = 1,
        pair: Pair | None = None,
        rounding: Rounding | None = None,
    ) -> Linear:
        """Integers of ``layer`` on encoded inputs; one output step is ``out_scale``, 0 is
        ``out_offset``. The accumulator's bound holds by construction.

        ``rows`` ``(n, K)`` are real inputs of the layer, for rounding and bias correction, and
        ``prior`` more of them where they are few (:func:`~.rounding.moment`). Inputs of the code
        ``pivot`` meet no error of the weights: their zero point. ``taps`` pixels are read side by
        side. ``pair``: what the layer will read in integers and should give, for compensation.
        ``rounding``: instead of the options'. Under ``name`` the real layer that
        the integers stand for is kept in :attr:`layers`; ``bits`` are by default what the options
        say of it.
        """
        outputs, depth = layer.weight.shape
        bits = bits or self.options.bits(name)
        weight = layer.weight.astype(np.float64) * encoding.scale
        bias = layer.bias + _applied(layer.weight, encoding.offset) - out_offset
        top = weight_max(bits)
        known = self.fixed.steps.get(name)
        if pair is not None and len(pair.seen) and known is None:
            weight, bias = compensated(
                weight, bias, pair.seen, pair.wanted - out_offset, pair.damping
            )
        if known is None:
            codes, step = quantise_rows(weight, clip=self.options.clip, bits=bits)
        else:
            step, rows = known, None
            codes = np.clip(np.round(weight / step[:, None]), -top, top)
        rounding = rounding or self.options.rounding
        if rows is not None and seeks(rounding, top):
            codes = self.rounded(
                weight / step[:, None], encoding, top, rows, prior, pivot, pair, rounding
            )
        elif rows is not None and taps > 1 and rounding == "auto":
            inputs = encoding.encode(rows.astype(np.float64)) - pivot
            codes = diffused(weight / step[:, None], taps, inputs, top)
        room = ACCUMULATOR.max - top * -ACTIVATION.min * depth - 1
        if room <= 0:  # not for any weights, but for these perhaps
            room = ACCUMULATOR.max + ACTIVATION.min * int(np.abs(codes).sum(axis=1).max()) - 1
        if room <= 0:
            raise ValueError(f"A layer with {depth} inputs does not fit the accumulator")
        bias = self.corrected(weight, codes * step[:, None], bias, encoding, rows, pivot)
        tight = np.abs(bias) > room * step  # next to no weights beside a bias
        step = np.where(tight, np.abs(bias) / room, step)
        codes = np.where(tight[:, None], np.round(weight / step[:, None]), codes)
        real = codes * step[:, None] / encoding.scale
        self.inputs[name], self.steps[name] = encoding, step
        self.layers[name] = FloatLinear(
            weight=real.astype(np.float32),
            bias=(bias + out_offset - _applied(real, encoding.offset)).astype(np.float32),
        )
        scales = np.broadcast_to(step / out_scale, (outputs,))
        multipliers = [Multiplier.from_scale(float(s)) for s in scales]
        return Linear(
            weight=codes.astype(np.int8),
            bias=np.round(bias / step).astype(np.int32),
            mult=np.array([m.mult for m in multipliers], np.uint16),
            shift=np.array([m.shift for m in multipliers], np.uint8),
            scale=float(out_scale) if np.ndim(out_scale) == 0 else 1.0,
            weight_bits=bits,
        )

    def rounded(
        self,
        weight: Floats,
        encoding: Encoding,
        top: int,
        rows: Floats,
        prior: Floats | None,
        pivot: float | Floats,
        pair: Pair | None,
        rounding: Rounding,
    ) -> Floats:
        """Codes of ``weight`` (in steps) with little error on ``rows``."""
        if pair is not None and len(pair.seen):
            codes = pair.seen.astype(np.float64)
        else:
            codes = encoding.encode(rows.astype(np.float64))
        # What bias correction takes away need not be small.
        centre = codes.mean(axis=0) if self.options.bias_correction else pivot
        other = None if prior is None else encoding.encode(prior.astype(np.float64))
        second = moment(codes, centre=centre, prior=other)
        return round_weights(weight, second, top, rounding)

    def corrected(
        self,
        weight: Floats,
        got: Floats,
        bias: Floats,
        encoding: Encoding,
        rows: Floats | None,
        pivot: float | Floats,
    ) -> Floats:
        """``bias`` for weights ``got`` in place of ``weight``, both on codes."""
        fixed: Floats
        if rows is not None and self.options.bias_correction:
            real = rows.astype(np.float64)
            exact = ((real - encoding.offset) / encoding.scale).mean(axis=0)
            seen = encoding.encode(real).mean(axis=0)
            fixed = bias + _applied(weight, exact) - _applied(got, seen)
        else:
            fixed = bias + _applied(weight - got, np.broadcast_to(pivot, weight.shape[1]))
        return fixed

    def channels(
        self, name: str, site: Site, consumers: Sequence[FloatLinear], widths: Sequence[int] = ()
    ) -> Encoding:
        """Per-channel scale and centre for the site ``name`` with the least error at the consumers.

        ``widths``: bits of each consumer's weights (default: 8).
        """
        if name in self.fixed.encodings:
            return self.fixed.encodings[name]
        options = self.options
        widths = widths or [8] * len(consumers)
        centre, half = channel_range(site, options.clip, options.percentile)
        half = half * options.margin
        rows = site.sample(_TRIAL_ROWS).astype(np.float64)
        trials = []
        share = _influence(half, consumers) if options.balance else None
        for exponent in options.migrate:
            if share is None:
                scale = _between(half, exponent) / CODES
            else:
                scale = half * power(share.max() / share, 1 - exponent) / CODES
            encoding = Encoding(scale=scale, offset=centre)
            error = 0.0
            if len(options.migrate) > 1:
                error = self.trial(rows, encoding, consumers, widths)
            trials.append((error, encoding))
        return min(trials, key=lambda trial: trial[0])[1]

    def rectified(
        self, name: str, site: Site, consumer: FloatLinear, rows: Floats, taps: int
    ) -> Encoding:
        """Scale a channel for the site ``name``, outputs of a ReLU: the lowest code is 0.

        It is the one with the least error at ``consumer``, which reads ``taps`` pixels side by side
        like ``rows`` ``(n, taps * C)``; biases make up for the mean of that error.
        """
        if name in self.fixed.encodings:
            return self.fixed.encodings[name]
        options = self.options
        high = rectified_range(site, options.clip, options.percentile)
        rows = rows[:_TRIAL_ROWS].astype(np.float64)
        exact, trials = product(rows, consumer.weight), []
        for exponent in options.migrate:
            scale = _between(high, exponent) / LEVELS
            encoding = Encoding(scale=scale, offset=-ACTIVATION.min * scale)
            seen = encoding.tiled(taps)
            codes, weight = seen.encode(rows), consumer.weight * seen.scale
            got, step = quantise_rows(weight)
            if options.rounding != "nearest":
                got = diffused(weight / step[:, None], taps, codes - codes.mean(axis=0), WEIGHT.max)
            errors = product(codes, got * step[:, None]) - exact
            trials.append((float(np.sum(errors.var(axis=0))), encoding))
        best = self.encodings[name] = min(trials, key=lambda trial: trial[0])[1]
        return best

    def trial(
        self,
        rows: Floats,
        encoding: Encoding,
        consumers: Sequence[FloatLinear],
        widths: Sequence[int],
    ) -> float:
        """Mean over consumers of the squared error over the variance of their outputs."""
        codes = encoding.encode(rows)
        total = 0.0
        for consumer, bits in zip(consumers, widths, strict=True):
            # At 8 bits a row's clipping hardly matters to the choice; at 4 it is half of it.
            clip = self.options.clip if bits < 8 else "minmax"
            exact = product(rows, consumer.weight)
            weight, step = quantise_rows(consumer.weight * encoding.scale, clip=clip, bits=bits)
            got = product(codes, weight * step[:, None])
            got += _applied(consumer.weight, encoding.offset)
            total += float(np.mean((got - exact) ** 2) / max(float(np.var(exact)), 1e-12))
        return total


def _applied(matrix: Floats, vector: Floats) -> Floats:
    """``matrix (O, K) @ vector (K,)`` with sums in a fixed order."""
    out: Floats = np.multiply(matrix, vector, dtype=np.float64).sum(axis=1)
    return out


def _influence(widths: Floats, consumers: Sequence[FloatLinear]) -> Floats:
    """How far each channel's interval of half width ``widths`` moves the consumers' outputs.

    Unlike widths and weights it is the same whatever a channel's scale, if the weights make up for
    it. Channels that hardly matter count as if they mattered a little.
    """
    total = np.zeros_like(widths)
    for consumer in consumers:
        reach = np.square(consumer.weight * widths).sum(axis=0)
        total += reach / max(float(reach.sum()), _TINY)
    share = np.sqrt(total)
    out: Floats = np.maximum(share, share.max() * _HARDLY)
    return out if out.max() > 0 else np.ones_like(out)


def _between(widths: Floats, exponent: float) -> Floats:
    """Geometric means of each channel's width, with weight ``exponent``, and the widest one."""
    return power(widths, exponent) * power(widths.max(keepdims=True), 1 - exponent)
