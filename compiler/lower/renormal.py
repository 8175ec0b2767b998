"""Norms whose outputs become residuals again: in front of the blocks, and behind a mean.

The residual stream can be added to, not replaced: zeros are loaded over rows that have been read,
and a diagonal matrix adds the norm's int8 outputs to them.
"""

from __future__ import annotations

import numpy as np

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Destination, Load, LoadKind
from moevit.quant.network import Entry, Pooled

from ..graph import Op, Operand, Tensor
from ..plan.layout import Matrix, head_index
from .context import Context

__all__ = ["lower_entry", "lower_pooled"]


def lower_entry(c: Context, entry: Entry, residual: Tensor, normed: Tensor, rows: range) -> None:
    """The norm in front of the blocks: ``rows`` of the residual to ``normed``, and back."""
    note = "norm in front of the blocks"
    c.norm(entry.norm, c.entry_parameters(), residual, normed, rows, note)
    matrix = c.matrix(note, entry.linear)
    source = normed.at(rows, range(c.shapes.chunks))
    _replace(c, matrix, source, residual.at(rows), f"{note}, back to the residual")


def lower_pooled(
    c: Context, pooled: Pooled, mean: Operand, residual: Tensor, normed: Tensor
) -> Operand:
    """The mean as a residual of one row, normalised: what the head reads.

    When the mean is there, the residual stream has been read: its first row here is taken.
    """
    row = range(residual.rows.start, residual.rows.start + 1)
    matrix = c.matrix(f"mean to the residual {c.task}", pooled.linear, inputs=head_index(c.shapes))
    _replace(c, matrix, mean, residual.at(row), "mean to the residual")
    number = 2 * len(c.network.blocks) + 1
    c.norm(pooled.norm, c.parameters(number), residual, normed, row, "norm of the mean")
    return normed.at(row, range(c.shapes.chunks))


def _replace(c: Context, matrix: Matrix, source: Operand, target: Operand, note: str) -> None:
    """Residual rows are what a matrix makes of ``source``: zeros, and what is added to them."""
    count = len(target.rows)
    size = c.shapes.words * c.word_bytes(target.tensor.memory)
    name = f"{count} tokens of zeros"
    beats = c.graph.table(name, lambda: np.zeros(count * size, np.uint8)) // BEAT_BYTES
    fields = {"kind": int(LoadKind.RESIDUAL), "beats": beats}
    c.graph.add(Op(kind=Load, note=name, writes=(target,), fields=fields, table=name))
    c.gemms(matrix, source, target, note, mode=Destination.RESIDUAL)
