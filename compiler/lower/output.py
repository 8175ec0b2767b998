"""Lowering of a frame's end: final norm, head, results; and the mean over patch tokens.

The mean is attention of one query that is zero. All its scores are 0, so all weights are the
largest there is, whatever the keys: none are made. The norm's outputs pass as values through an
identity matrix, the query through a matrix of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moevit.hw import isa
from moevit.hw.isa import Destination
from moevit.quant.formats import Multiplier
from moevit.quant.network import Head, Mlp, Moe
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.linear import Linear
from moevit.quant.operators.rescale import Rescale
from moevit.quant.operators.upsampling import UpsamplingHead

from ..graph import Op, Operand, Tensor
from ..plan.layout import Ints, Matrix, head_index
from ..plan.tensors import outside
from .attention import keys_values, lower_values
from .context import Context
from .renormal import lower_pooled
from .upsampling import lower_upsampling

__all__ = ["Output", "OutputRows", "output_rows"]

_AnyNorm = LayerNorm | Rescale


@dataclass(frozen=True, kw_only=True)
class OutputRows:
    """How a result lies in memory: ``rows`` of ``columns`` numbers, ``pitch`` bytes apart.

    ``grid``: a head's rows down and across the image.
    """

    rows: int
    columns: int
    item_bytes: int
    pitch: int
    grid: tuple[int, int] = (1, 1)


def output_rows(c: Context) -> OutputRows:
    """How the task's result lies in memory."""
    s, inputs = c.shapes, c.shapes.config.array.inputs
    head, dim = c.network.heads.get(c.task), s.geometry.dim
    if c.final_norm is None:
        pitch = 2 * s.chunks * inputs
        return OutputRows(rows=s.tokens, columns=dim, item_bytes=2, pitch=pitch)
    if head is None:
        return OutputRows(rows=s.tokens, columns=dim, item_bytes=1, pitch=s.norm_words * inputs)
    if isinstance(head, Head):
        columns = head.linear.shape[0]
        return OutputRows(
            rows=1 if head.single else s.geometry.patches,
            columns=columns,
            item_bytes=2,
            pitch=s.stored_words(2 * columns) * inputs,
            grid=(1, 1) if head.single else s.geometry.grid,
        )
    last = c.tensors.maps(c.task).maps[-1]
    return OutputRows(
        rows=last.height * last.width,
        columns=head.channels,
        item_bytes=2,
        pitch=last.words * inputs,
        grid=(last.height, last.width),
    )


class Output:
    """The end of a task's frame; its result goes ``address`` bytes behind the results' first."""

    def __init__(self, c: Context, address: int) -> None:
        self.c, self.rows = c, output_rows(c)
        self.head, self.address = c.network.heads.get(c.task), address
        self.result = outside("result", "results", self.rows.pitch, range(self.rows.rows), address)
        self.mlp: Mlp | Moe = c.network.blocks[-1].mlp

    @property
    def words(self) -> int:
        """Activation words of a row of the result."""
        return self.rows.pitch // self.c.shapes.config.array.inputs

    def lower(self, chunk: range, residual: Tensor) -> None:
        """The last tokens of ``chunk``; behind those of the last chunk, what reads all of them."""
        c, norm, head = self.c, self.c.final_norm, self.head
        if norm is None:
            c.store(residual.at(chunk), self.result.at(chunk), "tokens")
        elif head is None:
            normed = c.tensors.normed(chunk, 0 if c.tensors.streamed else self.words)
            self._norm(norm, residual, normed, chunk)
            c.store(normed.at(chunk, range(self.words)), self.result.at(chunk), "tokens")
        elif isinstance(head, Head) and head.class_token:
            if chunk.start == 0:  # read side by side
                normed = c.tensors.normed(chunk, c.shapes.chunks)
                self._norm(norm, residual, normed, range(head.tokens))
                words = range(head.tokens * c.shapes.chunks)
                self._linear(head, normed.at(range(1), words), range(1))
        else:
            self._patches(norm, head, chunk, residual)

    def _patches(
        self, norm: _AnyNorm, head: Head | UpsamplingHead, chunk: range, residual: Tensor
    ) -> None:
        c, s, tensors = self.c, self.c.shapes, self.c.tensors
        front = s.geometry.front
        rows = range(max(chunk.start, front), chunk.stop)
        linear = isinstance(head, Head) and head.mean is None
        if len(rows):
            normed = tensors.patch_norms(chunk)
            self._norm(norm, residual, normed, rows)
            if isinstance(head, Head) and linear:
                patches = range(rows.start - front, rows.stop - front)
                self._linear(head, normed.at(rows, range(s.chunks)), patches)
            else:
                c.keep(normed, tensors.stored_norms(), [rows])
        if linear or chunk.stop < s.tokens:
            return
        if isinstance(head, UpsamplingHead):
            lower_upsampling(c, head, self.result)
        elif head.mean is not None:
            source = self._mean(head.mean)
            if head.pooled is not None:
                normed = tensors.normed(chunk)
                source = lower_pooled(c, head.pooled, source, residual, normed)
            self._linear(head, source, range(1))

    def _norm(self, norm: _AnyNorm, source: Tensor, target: Tensor, rows: range) -> None:
        parameters = self.c.parameters(2 * len(self.c.network.blocks))
        self.c.norm(norm, parameters, source, target, rows, "final norm")

    # Linear heads ------------------------------------------------------------------------------
    def _linear(self, head: Head, source: Operand, rows: range) -> None:
        """The head's products for some rows of the result, and their STORE."""
        c = self.c
        words = self.words
        if head.mean is not None:
            made = c.tensors.mean_rows(words, 2)
        else:
            made = c.tensors.outputs(self.mlp, words, rows, range(self.rows.rows))
        note = f"head {c.task}"
        c.gemms(self._matrix(head), source, made.at(rows), note, mode=Destination.ACT16)
        c.store(made.at(rows), self.result.at(rows), f"{note} rows {rows.start}..{rows.stop - 1}")

    def _matrix(self, head: Head) -> Matrix:
        """Padding up to whole beats is computed, so that nothing stale is stored."""
        c, s, array = self.c, self.c.shapes, self.c.shapes.config.array
        inputs = None  # in order
        if head.mean is not None and head.pooled is None:
            inputs = head_index(s)
        elif head.tokens > 1:  # each token padded by itself
            width = s.chunks * array.inputs
            inputs = (np.arange(head.tokens)[:, None] * width + np.arange(s.geometry.dim)).ravel()
        otiles = self.rows.pitch // (2 * array.outputs)
        return c.matrix(f"head {c.task}", head.linear, inputs=inputs, otiles=otiles)

    # Mean --------------------------------------------------------------------------------------
    def _mean(self, gain: Multiplier) -> Operand:
        """The mean of all patches, which the norm has made."""
        c, s, tensors = self.c, self.c.shapes, self.c.tensors
        dim, patches = s.geometry.dim, s.geometry.patches
        identity = np.eye(dim, dtype=np.int8)
        zeros = c.head_outputs("zero query", _unscaled(np.zeros((dim, 1), np.int8)))
        query, result = (tensors.mean_rows(s.attention_chunks, n) for n in (0, 1))
        number = 0
        for heads in tensors.head_groups():
            keys, values = keys_values(s, len(heads), tokens=patches)
            for rows in tensors.patch_inputs():
                place = tensors.patch_input(number, rows)
                x = c.bring(tensors.stored_norms(), place, rows, "patches")
                operand, first = x.at(rows, range(s.chunks)), rows.start - s.geometry.front
                linear = _unscaled(identity)
                lower_values(c, "identity", linear, heads, operand, values, first=first)
                number += 1
            one = range(1)
            c.gemms(
                zeros,
                query.at(one, one),  # anything
                query.at(one),
                "a query of zeros",
                mode=Destination.ACT8,
            )
            words = range(heads.start * s.head_chunks, heads.stop * s.head_chunks)
            c.graph.add(
                Op(
                    kind=isa.Attention,
                    note="mean of the patches",
                    reads=(
                        query.at(one, words),
                        keys.at(keys.rows, whole=True),
                        values.at(values.rows, whole=True),
                    ),
                    writes=(result.at(one, words),),
                    fields={
                        "chunks": s.head_chunks,
                        "heads": len(heads),
                        "keys": patches,
                        "v_otiles": s.head_otiles,
                        "v_tile_pitch": values.pitch // s.head_otiles,
                        "out_mult": gain.mult,
                        "out_shift": gain.shift,
                    },
                )
            )
        return result.at(range(1))


def _unscaled(weight: Ints) -> Linear:
    """A layer whose sums are its values."""
    one, outputs = Multiplier.from_scale(1.0), len(weight)
    return Linear(
        weight=weight,
        bias=np.zeros(outputs, np.int32),
        mult=np.full(outputs, one.mult, np.uint16),
        shift=np.full(outputs, one.shift, np.uint8),
    )
