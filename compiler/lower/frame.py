"""Lowering of a frame's two ends: pixels and tables to tokens; final norm, head, results out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import gcd

import numpy as np

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Destination, Gemm, Load, LoadKind, Store, Sync

from ..plan.layout import Matrix, Shapes, ceil_div, head_index, pack_residual
from ..plan.norms import load_norms, load_scales
from .context import Context
from .decode import lower_maps
from .emit import Semaphore, split
from .mean import lower_mean
from .renormal import lower_entry, lower_pooled

__all__ = [
    "OutputRows",
    "head_matrix",
    "load_patches",
    "lower_input",
    "lower_output",
    "output_credits",
    "output_rows",
    "output_words",
    "strip_groups",
]

MAX_GROUPS = 8
"""Loads of patch strips that a frame begins with: patch embedding starts after the first."""


@dataclass(frozen=True, kw_only=True)
class OutputRows:
    """How a result lies in memory: ``rows`` of ``columns`` numbers, ``pitch`` bytes apart.

    ``grid``: a head's rows down and across the picture.
    """

    rows: int
    columns: int
    item_bytes: int
    pitch: int
    grid: tuple[int, int] = (1, 1)


def strip_groups(shapes: Shapes) -> list[tuple[int, int]]:
    """Strips of patches in groups ``(first, count)``; all but the last hold whole tiles."""
    rows, columns = shapes.geometry.grid
    tokens = shapes.config.array.tokens
    unit = tokens // gcd(tokens, columns)  # strips that make whole tiles
    units = rows // unit
    groups = max(min(units, MAX_GROUPS), 1)
    edges = [round(units * g / groups) * unit for g in range(groups)] + [rows]
    return [(a, b - a) for a, b in pairwise(edges)]


def lower_input(c: Context) -> None:
    """Loads, patch embedding onto the position embedding, and the first norm.

    Strips are loaded in groups; each group gives two credits (its tokens' embeddings, its pixels),
    which its GEMM takes at once. Instructions are handed out in order, so loads stand one group
    ahead of their GEMMs, not all in front. The first norm's parameters come behind the first group,
    so that patch embedding can start: their credit counts like one more residual tile for the first
    NORM. The other norms' come last; the first projection waits for them.

    Weights that the ring cannot hold at once come in parts, each kept until the last group of
    strips; loads go with the first part, residual tiles are complete with the last.
    """
    groups, columns = strip_groups(c.shapes), c.shapes.geometry.grid[1]
    matrix = c.patch_matrix()
    parts = split(matrix, c.config, demand=False)
    _load_group(c, *groups[0])
    load_norms(c, 0, 1, signal=Semaphore.RESIDUAL)
    entry = c.network.entry
    norm = _FirstNorm(c)
    if entry is not None:
        load_scales(c)
        norm.credits += 1
    for part in parts:
        first, last = part == parts[0], part == parts[-1]
        c.code.blocks.append(matrix.block(*part))
        for n, (strip, strips) in enumerate(groups):
            final = n + 1 == len(groups)
            if first and not final:
                _load_group(c, *groups[n + 1])
            _embed(c, strip, strips, part, matrix.depth, first=first, last=last, keep=not final)
            if last:
                tiles = ceil_div(strips * columns, c.config.array.tokens)
                if entry is not None:
                    norm.credits += tiles
                else:
                    norm.piece((strip + strips) * columns, tiles, final=final)
    load_norms(c, 1, c.plan.tiling.norms, signal=Semaphore.PARAMETERS)
    if entry is None:
        load_scales(c)
        return
    s = c.shapes
    lower_entry(
        c,
        residual=c.plan.residual.base,
        target=c.plan.tokens.base,
        stride=s.chunks,
        rows=s.tokens,
        credits=norm.credits,
        name="all tokens",
    )
    c.norm(
        c.network.blocks[0].norm1,
        0,
        tokens=s.tokens,
        wait=Semaphore.RESIDUAL,
        signal=Semaphore.TOKENS,
        note="block 0 norm1",
    )


def _load_group(c: Context, strip: int, strips: int) -> None:
    s, (_, columns) = c.shapes, c.shapes.geometry.grid
    token = s.geometry.front + strip * columns if strip else 0
    load_patches(
        c,
        strip,
        strips,
        residual=c.plan.residual.base + token * s.words,
        pixels=c.plan.work.base + strip * columns * s.patch_chunks,
    )


def load_patches(
    c: Context, strip: int, strips: int, *, residual: int, pixels: int, wait: int = 0
) -> None:
    """LOADs of the position embedding and the pixels of strips of patches, to these words.

    The first strip brings the class token with it. ``wait``: one credit for both.
    """
    s, (_, columns) = c.shapes, c.shapes.geometry.grid
    front = s.geometry.front
    start = front + strip * columns if strip else 0
    rows = front + (strip + strips) * columns - start
    size = s.words * c.config.array.outputs * 2  # bytes of a token
    name = f"embedding {start}:{start + rows}"
    length = c.code.table(name, lambda: pack_residual(c.network, s)[start : start + rows])
    c.code.add(
        Load(
            kind=LoadKind.RESIDUAL,
            target=residual,
            beats=length // BEAT_BYTES,
            wait=wait,
            wait_count=1 if wait else 0,
            signal=Semaphore.LOADED,
        ),
        f"tokens {start}..{start + rows - 1}, {size} bytes each",
        pool=name,
    )
    c.code.add(
        Load(
            kind=LoadKind.PIXELS,
            address=strip * s.geometry.patch * s.image_pitch,
            target=pixels,
            stride=s.patch_chunks,
            strips=strips,
            patches=columns,
            patch_rows=s.geometry.patch,
            patch_bytes=s.patch_bytes,
            pitch=s.image_pitch,
            signal=Semaphore.LOADED,
        ),
        f"pixels of strips {strip}..{strip + strips - 1}",
    )


def _embed(
    c: Context,
    strip: int,
    strips: int,
    part: tuple[int, int],
    depth: int,
    *,
    first: bool,
    last: bool,
    keep: bool,
) -> None:
    s, (_, columns) = c.shapes, c.shapes.geometry.grid
    token = s.geometry.front + strip * columns
    c.code.add(
        Gemm(
            source=c.plan.work.base + strip * columns * s.patch_chunks,
            stride=s.patch_chunks,
            depth=depth,
            tokens=strips * columns,
            keep=int(keep),
            otiles=part[1],
            otile_base=part[0],
            mode=Destination.RESIDUAL,
            target=c.plan.residual.base + token * s.words,
            target_stride=s.words,
            wait=Semaphore.LOADED if first else 0,
            wait_count=2 if first else 0,
            signal=Semaphore.RESIDUAL if last else 0,
        ),
        f"patch embedding of strips {strip}..{strip + strips - 1}",
    )


class _FirstNorm:
    """The first block's first norm, in pieces that follow the groups of strips.

    Patch tiles are one token behind the norm's tiles where there is a class token, so each piece
    takes all credits of its group at once and covers the whole tiles that are then complete. The
    first piece takes one more, of the norm parameters' load. Those are there even if that credit
    came from a patch tile: it is then one of the second group, whose loads stand behind theirs.
    """

    def __init__(self, c: Context) -> None:
        self.c, self.start, self.credits = c, 0, 1

    def piece(self, patches: int, tiles: int, *, final: bool) -> None:
        """``patches`` are complete when ``tiles`` more credits have been given."""
        c, s, t = self.c, self.c.shapes, self.c.config.array.tokens
        self.credits += tiles
        end = s.tokens if final else (patches + s.geometry.front) // t * t
        if end == self.start:
            return
        c.norm(
            c.network.blocks[0].norm1,
            0,
            first=self.start,
            tokens=end - self.start,
            wait=Semaphore.RESIDUAL,
            wait_count=self.credits,
            signal=Semaphore.TOKENS,
            note=f"block 0 norm1 of tokens {self.start}..{end - 1}",
        )
        self.start, self.credits = end, 0


def output_credits(c: Context) -> tuple[Semaphore, int, bool]:
    """Who reads the last residual, how many tiles it takes, and whether they are tokens' tiles."""
    s, head = c.shapes, c.linear_head
    if c.final_norm is None:
        return Semaphore.OUTPUT, s.tiles, True
    if c.task not in c.network.heads or (head and head.class_token):
        return Semaphore.RESIDUAL, s.tiles, True
    tiles = ceil_div(s.geometry.patches, c.config.array.tokens)
    return Semaphore.RESIDUAL, tiles, not s.geometry.front


def output_rows(c: Context) -> OutputRows:
    """How the task's result lies in memory."""
    s, net, array = c.shapes, c.network, c.config.array
    width = s.chunks * array.inputs  # channels of a token, padded
    if c.upsampling is not None:
        last = c.plan.maps[c.task].maps[-1]
        return OutputRows(
            rows=last.height * last.width,
            columns=c.upsampling.channels,
            item_bytes=2,
            pitch=last.words * array.inputs,
            grid=(last.height, last.width),
        )
    if c.final_norm is None:
        return OutputRows(rows=s.tokens, columns=s.geometry.dim, item_bytes=2, pitch=2 * width)
    if c.task not in net.heads:
        pitch = s.stored_words(width) * array.inputs
        return OutputRows(rows=s.tokens, columns=s.geometry.dim, item_bytes=1, pitch=pitch)
    head = net.linear_heads[c.task]
    columns = head.linear.shape[0]
    return OutputRows(
        rows=1 if head.single else s.geometry.patches,
        columns=columns,
        item_bytes=2,
        pitch=s.stored_words(2 * columns) * array.inputs,
        grid=(1, 1) if head.single else s.geometry.grid,
    )


def output_words(c: Context) -> int:
    """Activation words from row to row of the final norm's output."""
    s = c.shapes
    if c.final_norm is None or c.task in c.network.heads:
        return s.chunks
    return s.stored_words(s.chunks * c.config.array.inputs)


def head_matrix(c: Context, out: OutputRows) -> Matrix:
    """The task's head. Padding up to whole beats is computed, so that nothing stale is stored."""
    otiles = out.pitch // (2 * c.config.array.outputs)
    head, s = c.network.linear_heads[c.task], c.shapes
    inputs = None  # in order
    if head.mean is not None and head.pooled is None:
        inputs = head_index(s)
    elif head.tokens > 1:  # each token padded by itself
        width = s.chunks * c.config.array.inputs
        inputs = (np.arange(head.tokens)[:, None] * width + np.arange(s.geometry.dim)).ravel()
    return c.matrix(f"head {c.task}", head.linear, inputs=inputs, otiles=otiles)


def lower_output(c: Context) -> OutputRows:
    """Final norm, head and stores; without a head the tokens themselves are the result."""
    s, net, out = c.shapes, c.network, output_rows(c)
    words = out.pitch // c.config.array.inputs
    if c.final_norm is None:
        _store(c, c.plan.residual.base, s.words, s.words, s.tokens, out.pitch, residual=1)
        return out
    index = 2 * len(net.blocks)
    if c.task not in net.heads:
        c.norm(
            c.final_norm,
            index,
            tokens=s.tokens,
            stride=words,
            wait=Semaphore.RESIDUAL,
            signal=Semaphore.OUTPUT,
            note="final norm",
        )
        _store(c, c.plan.tokens.base, words, words, s.tokens, out.pitch)
        return out
    head, first, tokens = c.linear_head, s.geometry.front, s.geometry.patches
    single = head is not None and head.class_token
    if head is not None and head.class_token:
        first, tokens = 0, head.tokens
    c.norm(
        c.final_norm,
        index,
        first=first,
        skip=first,
        tokens=tokens,
        wait=Semaphore.RESIDUAL,
        wait_count=s.tiles if single else 0,  # so that no credit is left over
        signal=Semaphore.TOKENS,
        note=f"final norm of the {'class token' if single else 'patches'}",
    )
    if c.upsampling is not None:
        tiles = ceil_div(tokens, c.config.array.tokens)
        c.code.add(Sync(wait=Semaphore.TOKENS, wait_count=tiles), "patches are a map")
        lower_maps(c, c.upsampling)
        return out
    head = c.network.linear_heads[c.task]
    source, target, wait = c.plan.tokens.base, c.plan.work.base, Semaphore.TOKENS
    if head.mean is not None:
        source, wait = lower_mean(c, head.mean), Semaphore.ATTENDED
        target += s.mean_words
    if head.pooled is not None:
        source, wait = lower_pooled(c, head.pooled, source, index + 1), Semaphore.TOKENS
    c.code.gemms(
        head_matrix(c, out),
        f"head {c.task}",
        source=source,
        stride=s.chunks,
        tokens=out.rows,
        mode=Destination.ACT16,
        target=target,
        target_stride=words,
        wait=wait,
        wait_count=ceil_div(head.tokens, c.config.array.tokens) if head.class_token else 0,
        signal=Semaphore.OUTPUT,
    )
    _store(c, target, words, words, out.rows, out.pitch)
    return out


def _store(
    c: Context, source: int, stride: int, words: int, rows: int, pitch: int, *, residual: int = 0
) -> None:
    c.code.add(
        Store(
            residual=residual,
            source=source,
            stride=stride,
            words=words,
            rows=rows,
            address=c.output,
            pitch=pitch,
            wait=Semaphore.OUTPUT,
            signal=c.stored,
        ),
        f"{rows} rows of {pitch} bytes",
    )
