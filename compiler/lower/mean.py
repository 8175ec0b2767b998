"""Lowering of the mean over patch tokens: attention of one query that is zero.

All its scores are 0, so all weights are the largest there is, whatever the keys: none are made. The
norm's outputs pass as values through an identity matrix, the query through a matrix of zeros.
"""

from __future__ import annotations

import numpy as np

from moevit.hw import isa
from moevit.hw.isa import Destination
from moevit.quant.formats import Multiplier
from moevit.quant.operators.linear import Linear

from ..plan.layout import Ints, Matrix, Shapes, ceil_div
from ..plan.tiling import cut
from .context import Context
from .emit import Semaphore

__all__ = ["lower_mean"]


def lower_mean(c: Context, gain: Multiplier) -> int:
    """Patch rows from the word of ``tokens`` on to their mean; the word of the result.

    Its tile is signalled as attended. ``tokens`` has a row for each patch, whose tiles have been
    signalled.
    """
    s, plan, patches = c.shapes, c.plan, c.shapes.geometry.patches
    query, result = plan.work.base, plan.work.base + s.attention_chunks
    dim, pitch = s.geometry.dim, _pitch(s)
    identity = _constant(c, "identity", np.eye(dim, dtype=np.int8))
    zeros = _constant(c, "zero query", np.zeros((dim, 1), np.int8))
    groups = cut(s.geometry.heads, plan.tiling.heads)
    wait = {"wait": Semaphore.TOKENS}
    for heads in groups:
        for first, count in c.head_groups(identity, heads):
            place = (first // s.head_otiles - heads[0]) * s.head_otiles
            c.code.gemm(
                identity,
                "patches as values",
                group=(first, count) if count < identity.otiles else None,
                otile_base=0,
                source=plan.tokens.base,
                stride=s.chunks,
                tokens=patches,
                mode=Destination.VALUE,
                target=plan.values.base + place * pitch,
                tile_pitch=pitch,
                head_pitch=s.head_otiles * pitch,
                head_otiles=s.head_otiles,
                **wait,
            )
            wait = {}
        c.code.gemms(  # behind the values, which are complete when it is
            zeros,
            "a query of zeros",
            source=query,  # anything
            stride=1,
            tokens=1,
            mode=Destination.ACT8,
            target=query,
            target_stride=s.attention_chunks,
            signal=Semaphore.QUERIES,
        )
        _attend(c, heads, gain, query, result, last=heads == groups[-1])
    return result


def _pitch(s: Shapes) -> int:
    """Value rows of an output tile; no more than all tokens have."""
    return ceil_div(s.geometry.patches, s.config.array.inputs)


def _constant(c: Context, name: str, weight: Ints) -> Matrix:
    """A matrix of as many outputs as channels, whose sums pass as they are."""
    dim = len(weight)
    one = Multiplier.from_scale(1.0)
    return c.head_outputs(
        name,
        Linear(
            weight=weight,
            bias=np.zeros(dim, np.int32),
            mult=np.full(dim, one.mult, np.uint16),
            shift=np.full(dim, one.shift, np.uint8),
        ),
    )


def _attend(
    c: Context, heads: tuple[int, int], gain: Multiplier, query: int, result: int, *, last: bool
) -> None:
    """The weighted sum of some heads."""
    s, plan = c.shapes, c.plan
    c.code.add(
        isa.Attention(
            source=query + heads[0] * s.head_chunks,
            stride=s.attention_chunks,
            chunks=s.head_chunks,
            heads=heads[1],
            queries=1,
            keys=s.geometry.patches,
            k_base=plan.keys.base,
            k_pitch=s.key_pitch,
            v_base=plan.values.base,
            v_pitch=s.head_otiles * _pitch(s),
            v_otiles=s.head_otiles,
            v_tile_pitch=_pitch(s),
            target=result + heads[0] * s.head_chunks,
            target_stride=s.attention_chunks,
            score_mult=0,
            score_shift=0,
            out_mult=gain.mult,
            out_shift=gain.shift,
            wait=Semaphore.QUERIES,
            signal=Semaphore.ATTENDED if last else Semaphore.NONE,
        ),
        "mean of the patches",
    )
