"""Lowering of attention: keys, values and queries, weighted sums, projection."""

from __future__ import annotations

import numpy as np

from moevit.hw import isa
from moevit.hw.isa import Destination
from moevit.quant.network import Attention
from moevit.quant.operators.linear import Linear

from ..graph import Memory, Op, Operand, Tensor, Weights
from ..plan.layout import Matrix, Shapes, head_index
from .context import Context

__all__ = ["keys_values", "lower_attention", "lower_projection", "lower_values"]


def keys_values(s: Shapes, heads: int, *, tokens: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values of some heads, a row of words a head; values of ``tokens`` (0: all)."""
    pitch = s.head_otiles * -(-tokens // s.config.array.inputs) if tokens else s.value_rows
    rows = range(heads)
    return (
        Tensor(name="keys", memory=Memory.KEYS_VALUES, region="keys", pitch=s.key_pitch, rows=rows),
        Tensor(name="values", memory=Memory.KEYS_VALUES, region="values", pitch=pitch, rows=rows),
    )


def lower_attention(c: Context, index: int, source: Tensor | None) -> None:
    """Attention of all tokens, heads whose keys and values fit the chip together at a time.

    ``source``: where the norm outputs lie in memory, if they do. Keys and values come first: they
    leave the activation memory to the norm, which is still writing.
    """
    s, tensors, a = c.shapes, c.tensors, c.network.blocks[index].attention
    number = 0
    for group, heads in enumerate(tensors.head_groups()):
        keys, values = keys_values(s, len(heads))
        queries, words = tensors.queries(group), tensors.head_words(heads)
        for rows in tensors.inputs():
            place = tensors.input(number, rows)
            x = c.bring(source, place, rows, f"block {index} norm1").at(rows, range(s.chunks))
            _lower_keys(c, f"block {index} keys", a.k, heads, x, keys)
            lower_values(c, f"block {index} values", a.v, heads, x, values)
            _lower_queries(c, f"block {index} queries", a.q, heads, x, queries.at(rows, words))
            number += 1
        attended = tensors.attended(group)
        c.graph.add(
            Op(
                kind=isa.Attention,
                note=f"block {index} attention of heads {heads.start}..{heads.stop - 1}",
                reads=(
                    queries.at(tensors.everyone, words),
                    keys.at(keys.rows, whole=True),
                    values.at(values.rows, whole=True),
                ),
                writes=(attended.at(tensors.everyone, words),),
                rows=s.tokens,
                fields={
                    "chunks": s.head_chunks,
                    "heads": len(heads),
                    "keys": s.tokens,
                    "v_otiles": s.head_otiles,
                    "v_tile_pitch": s.value_pitch,
                    **softmax_fields(a),
                },
            )
        )
        stored = tensors.stored_attention()
        if stored is not None:
            pitch = tensors.group_words()
            beats = pitch * stored.pitch // tensors.attended_rows(tensors.everyone).pitch
            c.store(
                attended.at(tensors.everyone, range(pitch)),
                stored.at(tensors.everyone, range(group * beats, (group + 1) * beats)),
                f"block {index} attention of heads {heads.start}..{heads.stop - 1}",
            )


def softmax_fields(a: Attention) -> dict[str, int]:
    """Scales of scores and outputs."""
    score, out = a.softmax.score, a.softmax.out
    return {
        "score_mult": score.mult,
        "score_shift": score.shift,
        "out_mult": out.mult,
        "out_shift": out.shift,
    }


def _lower_keys(
    c: Context, name: str, linear: Linear, heads: range, x: Operand, keys: Tensor
) -> None:
    s = c.shapes
    matrix, outputs = c.head_outputs(name, linear), s.config.array.outputs
    tiles = range(x.rows.start // outputs, -(-x.rows.stop // outputs))
    words = range(tiles.start * s.head_chunks, tiles.stop * s.head_chunks)
    for part, rows in _heads(c, matrix, heads):
        c.gemm(
            Weights(matrix=matrix, otiles=part),
            x,
            keys.at(rows, words, whole=True),
            name,
            otile_base=0,
            mode=Destination.KEY,
            head_otiles=s.head_otiles,
            tile_pitch=s.head_chunks,
            head_pitch=keys.pitch,
        )


def lower_values(
    c: Context,
    name: str,
    linear: Linear,
    heads: range,
    x: Operand,
    values: Tensor,
    *,
    first: int | None = None,
) -> None:
    """Values of some heads and tokens, from row ``first`` of the values on (default: ``x``'s)."""
    s = c.shapes
    matrix, pitch = c.head_outputs(name, linear), values.pitch // s.head_otiles
    first = x.rows.start if first is None else first
    words = range(first // s.config.array.inputs, values.pitch)
    for part, rows in _heads(c, matrix, heads):
        c.gemm(
            Weights(matrix=matrix, otiles=part),
            x,
            values.at(rows, words, whole=True),
            name,
            otile_base=0,
            mode=Destination.VALUE,
            head_otiles=s.head_otiles,
            tile_pitch=pitch,
            head_pitch=values.pitch,
        )


def _heads(c: Context, matrix: Matrix, heads: range) -> list[tuple[range, range]]:
    """Parts of a matrix, and the rows of keys or values that they make: whole heads."""
    unit = c.shapes.head_otiles
    return [
        (part, range(part.start // unit - heads.start, part.stop // unit - heads.start))
        for part in c.head_parts(matrix, heads)
    ]


def _lower_queries(
    c: Context, name: str, linear: Linear, heads: range, x: Operand, queries: Operand
) -> None:
    matrix = c.head_outputs(name, linear)
    for part in c.head_parts(matrix, heads):
        c.gemm(
            Weights(matrix=matrix, otiles=part),
            x,
            queries,
            name,
            otile_base=part.start - heads.start * c.shapes.head_otiles,
            mode=Destination.ACT8,
        )


def lower_projection(
    c: Context, index: int, chunk: range, pieces: list[range], *, residual_here: bool
) -> None:
    """Attention outputs onto the residual stream; pieces of both come if they lie in memory."""
    s, tensors = c.shapes, c.tensors
    linear = c.network.blocks[index].attention.proj
    # The matrix has its inputs where groups of heads lie in a row, each head padded.
    per_group = c.shapes.config.array.inputs * s.head_chunks * c.tensors.plan.tiling.heads
    group, rest = np.divmod(head_index(s), per_group)
    inputs = group * tensors.group_words() * s.config.array.inputs + rest
    matrix = c.matrix(f"block {index} projection", linear, inputs=inputs)
    residual, source = c.residual(chunk), tensors.attended_rows(chunk)
    stored = tensors.stored_attention()
    items = [
        (
            source.at(rows, range(matrix.depth)),
            residual.at(rows),
            f"block {index} projection of tokens {rows.start}..{rows.stop - 1}",
            {"mode": int(Destination.RESIDUAL)},
        )
        for rows in pieces
    ]

    def ready(n: int) -> None:
        if not residual_here:
            c.bring(tensors.stored_residual(), residual, pieces[n], "residual")
        c.bring(stored, source, pieces[n], f"block {index} attention")

    c.batch(matrix, items, ready)
