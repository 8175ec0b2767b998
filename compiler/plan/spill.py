"""The plan for networks whose tokens do not fit the chip: they lie in memory and are streamed.

Norm outputs, attention outputs and the residual stream have rows in scratch memory behind the
output base. Each block has two phases.

Attention, one group of heads after another: norm outputs come in, ``rows`` tokens at a time, and
become the group's keys, values and queries; when all have, attention replaces the queries and is
stored. The data engine fetches the next rows meanwhile, also of the next group.

Feed-forward, ``dense`` or ``routed`` tokens at a time: residuals and attention outputs come in;
projection, norm, feed-forward part and the next block's norm follow as they would on the chip, and
residuals and norm outputs go out. Both move in pieces, so that the array works on some while others
come and go. A gate that reads the residual in front of its block gets it between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from .buffers import Buffers
from .layout import ceil_div, round_up
from .tiling import Tiling, even

__all__ = ["Scratch", "Spill", "least_words", "plan_spill"]

_INPUTS = 128
"""Norm outputs that come at a time, and tokens embedded at a time, are about so many: enough that
their weights, which come once for each, cost less time than the products."""


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Rows of norm outputs, attention outputs and residuals: bytes from the output base."""

    norm: int
    norm_pitch: int
    attention: int
    attention_pitch: int
    residual: int
    residual_pitch: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Spill:
    """What is on the chip at a time, beside :class:`~.tiling.Tiling`.

    ``strips`` of patches are embedded at a time, in ``inputs`` buffers. ``rows`` norm outputs come
    at a time for attention, in ``buffers`` buffers; ``queries`` groups have queries. ``group``:
    words of a token's attention output in one group; ``row``: in all groups; ``norm``: words of a
    norm output. ``mean``: activation words of the mean of the patches and what a head makes of it,
    at the memory's end.
    """

    strips: int
    inputs: int
    rows: int
    buffers: int
    queries: int
    group: int
    row: int
    norm: int
    mean: int
    scratch: Scratch


def least_words(b: Buffers) -> tuple[int, int]:
    """Activation and residual words of the smallest tiles, and no less will do."""
    s, n = b.shapes, b.shapes.tokens
    unit = lcm(s.config.array.tokens, s.config.array.inputs)
    first = s.geometry.front + s.geometry.grid[1]
    norm, group = b.shapes.norm_words, _group_words(b, 1)
    tile = min(s.config.array.tokens, n)
    activations = max(
        s.geometry.grid[1] * s.patch_chunks + first * norm,
        n * group + min(unit, n) * norm + _mean_words(b),
        tile * (b.heads * group + max(b.hidden, b.expert + b.gate_row, b.head_row + b.gate_row)),
        b.map_tile,
    )
    return activations, max(first, tile) * s.words


def plan_spill(b: Buffers) -> tuple[Tiling, Spill] | None:
    """Tiles as large as memories allow, or None."""
    for queries, buffers in ((2, 2), (1, 2), (2, 1), (1, 1)):
        for groups in range(ceil_div(b.heads, b.heads_at_a_time), b.heads + 1):
            heads = ceil_div(b.heads, groups)
            if ceil_div(b.heads, heads) == groups:
                found = _fit(b, heads, min(queries, groups), buffers)
                if found is not None:
                    return found
    return None


def _mean_words(b: Buffers) -> int:
    return b.shapes.mean_words + b.head_row if b.means else 0


def _group_words(b: Buffers, heads: int) -> int:
    return b.shapes.stored_words(heads * b.shapes.head_chunks * b.config.array.inputs)


def _fit(b: Buffers, heads: int, queries: int, least: int) -> tuple[Tiling, Spill] | None:
    """Tiles with ``heads`` at a time, ``queries`` groups' queries and ``least`` buffers."""
    s, memory, array = b.shapes, b.config.memory, b.config.array
    n, unit, norm = s.tokens, array.tokens, b.shapes.norm_words
    group = _group_words(b, heads)
    row = group * ceil_div(b.heads, heads)

    # Norm outputs for attention.
    step = lcm(unit, array.inputs)
    room = (memory.activation_words - _mean_words(b) - queries * n * group) // norm
    rows = min(room // least // step * step, round_up(_INPUTS, step), n) if n > step else n
    if not 0 < rows <= room:
        return None
    buffers = min(room // rows, 4, ceil_div(n, rows))

    # Tokens of a feed-forward part.
    space = memory.activation_words
    rest = memory.residual_words // s.words
    dense = even(n, min(space // (row + max(b.hidden, b.head_row)), rest), unit)
    pieces = {
        h: even(
            n,
            min(
                space // (row + max(h * b.expert, b.head_row) + b.gate_row),
                rest,
                b.config.limits.routed,
            ),
            unit,
        )
        for h in (2, 1)
    }
    halves = 2 if pieces[2] and ceil_div(n, pieces[2]) == ceil_div(n, pieces[1]) else 1
    strips = _strips(b, norm)
    if not dense or not pieces[halves] or strips is None:
        return None
    tiling = Tiling(
        heads=heads,
        dense=dense,
        routed=pieces[halves],
        halves=halves,
        norms=min(b.norms, memory.norm_rows // s.words - b.scales),
    )
    spill = Spill(
        strips=strips[0],
        inputs=strips[1],
        rows=rows,
        buffers=buffers,
        queries=queries,
        group=group,
        row=row,
        norm=norm,
        mean=_mean_words(b),
        scratch=_scratch(b, norm, row),
    )
    return tiling, spill


def _strips(b: Buffers, norm: int) -> tuple[int, int] | None:
    """Strips of patches at a time, and buffers for them."""
    s, memory = b.shapes, b.config.memory
    rows, columns = s.geometry.grid
    front = s.geometry.front
    for inputs in (2, 1):
        words = memory.activation_words // inputs - front * norm
        tokens = memory.residual_words // inputs // s.words - front
        most = min(words // (columns * (s.patch_chunks + norm)), tokens // columns, rows)
        if most > 0:
            return max(min(most, _INPUTS // columns), 1), inputs
    return None


def _scratch(b: Buffers, norm: int, row: int) -> Scratch:
    s, inputs = b.shapes, b.config.array.inputs
    pitches = (norm * inputs, row * inputs, s.words * 2 * b.config.array.outputs)
    starts = [0]
    for pitch in pitches:
        starts.append(round_up(starts[-1] + s.tokens * pitch, 64))
    return Scratch(
        norm=starts[0],
        norm_pitch=pitches[0],
        attention=starts[1],
        attention_pitch=pitches[1],
        residual=starts[2],
        residual_pitch=pitches[2],
        size=round_up(starts[3], 4096),
    )
