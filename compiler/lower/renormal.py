"""Norms whose outputs become residuals again: in front of the blocks, and behind a mean.

The residual stream can be added to, not replaced: zeros are loaded over rows that have been read,
and a diagonal matrix adds the norm's int8 outputs to them.
"""

from __future__ import annotations

import numpy as np

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Destination, Load, LoadKind, Norm, Sync
from moevit.quant.network import Pooled

from ..plan.layout import Matrix, ceil_div
from ..plan.norms import needed
from .context import Context
from .emit import Semaphore, split

__all__ = ["lower_entry", "lower_pooled"]


def lower_entry(
    c: Context,
    *,
    residual: int,
    target: int,
    stride: int,
    rows: int,
    credits: int,
    name: str,
) -> None:
    """The norm in front of the blocks: residual rows to int8 at ``target``, and back.

    Its outputs are added to zeros, which are loaded over the rows when it has read them.
    ``credits`` of RESIDUAL are taken at once; each tile of the new rows gives one.
    """
    s, entry = c.shapes, c.network.entry
    assert entry is not None
    c.code.add(
        Norm(
            source=residual,
            words=s.words,
            tokens=rows,
            target=target,
            stride=stride,
            params=c.plan.scales.base,
            dim=s.geometry.dim,
            eps=entry.norm.eps,
            wait=Semaphore.RESIDUAL,
            wait_count=credits,
            signal=Semaphore.TOKENS,
        ),
        f"norm in front of the blocks, {name}",
    )
    tiles = ceil_div(rows, c.config.array.tokens)
    c.code.add(
        Sync(wait=Semaphore.TOKENS, wait_count=tiles, signal=Semaphore.FREED, count=1),
        f"{name} normalised",
    )
    _load_zeros(c, rows, residual, name)
    _to_residual(
        c,
        c.matrix("norm in front of the blocks", entry.linear),
        f"norm back to the residual, {name}",
        source=target,
        stride=stride,
        tokens=rows,
        target=residual,
    )


def lower_pooled(c: Context, pooled: Pooled, source: int, number: int) -> int:
    """The mean at ``source`` to a residual of one row, and norm ``number`` of that; where it is.

    When the mean is there, the residual stream has been read: its first row is taken.
    """
    s, row = c.shapes, c.plan.residual.base
    needed(c, number)
    c.code.add(
        Sync(wait=Semaphore.ATTENDED, wait_count=1, signal=Semaphore.FREED, count=1),
        "mean complete",
    )
    _load_zeros(c, 1, row, "the mean")
    _to_residual(
        c,
        c.head_inputs(f"mean to residual {c.task}", pooled.linear),
        "mean to the residual",
        source=source,
        stride=s.attention_chunks,
        tokens=1,
        target=row,
    )
    c.norm(
        pooled.norm,
        number,
        tokens=1,
        wait=Semaphore.RESIDUAL,
        signal=Semaphore.TOKENS,
        note="norm of the mean",
    )
    return c.plan.tokens.base


def _load_zeros(c: Context, rows: int, residual: int, name: str) -> None:
    """Zeros over residual rows that have been read (FREED)."""
    size = c.shapes.words * c.config.array.outputs * 2  # bytes of a token
    pool = f"{rows} tokens of zeros"
    length = c.code.table(pool, lambda: np.zeros((rows, size), np.uint8))
    c.code.add(
        Load(
            kind=LoadKind.RESIDUAL,
            target=residual,
            beats=length // BEAT_BYTES,
            wait=Semaphore.FREED,
            wait_count=1,
            signal=Semaphore.LOADED,
        ),
        f"zeros for {name}",
        pool=pool,
    )


def _to_residual(c: Context, matrix: Matrix, note: str, **fields: int) -> None:
    """A matrix onto zeros that have been loaded."""
    groups = split(matrix, c.config, demand=False)
    for n, group in enumerate(groups):
        c.code.gemm(
            matrix,
            note,
            group=group if len(groups) > 1 else None,
            mode=Destination.RESIDUAL,
            target_stride=c.shapes.words,
            wait=Semaphore.LOADED if n == 0 else 0,
            wait_count=int(n == 0),
            signal=Semaphore.RESIDUAL if n == len(groups) - 1 else 0,
            **fields,
        )
