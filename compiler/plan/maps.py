"""Where the maps of an upsampling head lie, and in what pieces a stage makes the next map.

A stage (quant/operators/upsampling.py) is a matrix product for each of its windows: pixels with the
same weights. A map whose pixels fit the chip beside the one that it is made of stays there, at the
other end of the activation memory. From the first that does not fit on, maps lie in scratch memory,
and a window is made in tiles: the pixels that a tile reads are loaded, its outputs are stored.
Windows are outside and tiles inside, so that weights come once and stay in the ring for all tiles
of their window (unless even half of it does not hold them); pixels come once for each of the four
phases, which costs next to nothing beside the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from moevit.hw.config import BEAT_BYTES, LimitConfig
from moevit.hw.isa import Gemm, Instruction, Load, Store
from moevit.quant.operators.upsampling import Stage, UpsamplingHead, Window

from .layout import Shapes, ceil_div, round_up
from .tiling import cut

__all__ = ["HeadMaps", "Map", "StageTiles", "Tile", "least_words", "longest_window", "plan_maps"]

_HALO = 2
"""Lines, or columns, that the windows of a tile read beyond its own."""


def _most(instruction: type[Instruction], field: str) -> int:
    """Largest value of an instruction's field."""
    return (1 << instruction.widths()[field][0]) - 1


_LINE = min(_most(Gemm, f) for f in ("line", "source_line", "target_line"))
_ROWS = _most(Gemm, "tokens") + 1
_WORDS = _most(Store, "words")
_PITCH = _most(Store, "pitch")
_BEATS = _most(Load, "beats")


@dataclass(frozen=True, kw_only=True)
class Map:
    """``height`` x ``width`` pixels of ``words`` activation words, line after line.

    ``base``: the first word on the chip, or None where it lies in memory, ``address`` bytes from
    the output base (the last map: from the place of the result).
    """

    height: int
    width: int
    words: int
    base: int | None = None
    address: int = 0

    @property
    def size(self) -> int:
        """Words of the map."""
        return self.height * self.width * self.words

    def pixel(self, y: int, x: int) -> int:
        """Words from the first pixel to another."""
        return (y * self.width + x) * self.words


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Part of a window: ``lines`` x ``columns`` pixels of the map that is read, from (y, x) on."""

    y: int
    x: int
    lines: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class StageTiles:
    """The largest tile of a stage, and its buffers on the chip (none for a map that lies there).

    ``inputs``, ``outputs``: first word of each buffer, used in turn.
    """

    lines: int
    columns: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def of(self, window: Window) -> Iterator[Tile]:
        """The window's tiles."""
        rows, columns = window.rows, window.columns
        for y in cut(rows.count, min(self.lines, rows.count)):
            for x in cut(columns.count, min(self.columns, columns.count)):
                yield Tile(
                    y=rows.start + y.start,
                    x=columns.start + x.start,
                    lines=len(y),
                    columns=len(x),
                )


@dataclass(frozen=True, kw_only=True)
class HeadMaps:
    """The map that a head reads, those between its stages, the result; and each stage's tiles.

    ``scratch``: bytes of memory that the maps in between take.
    """

    maps: tuple[Map, ...]
    tiles: tuple[StageTiles, ...]
    scratch: int


def longest_window(head: UpsamplingHead, s: Shapes, first: int) -> int:
    """Words of the longest contraction; the first map has ``first`` words a pixel."""
    widths = _pixel_words(head, s, first)
    taps = (max(w.taps for w in stage.windows) for stage in head.stages)
    return max(t * words for t, words in zip(taps, widths, strict=False))


def least_words(head: UpsamplingHead, s: Shapes, first: int) -> int:
    """Activation words of the smallest tiles; a pixel of the first map has ``first`` words."""
    widths = _pixel_words(head, s, first)
    return max((_HALO + 1) ** 2 * a + b for a, b in pairwise(widths))


def plan_maps(
    head: UpsamplingHead, s: Shapes, first: Map, *, room: int, scratch: int
) -> HeadMaps | None:
    """Places in ``room`` words from 0 on, of which ``first`` has the lowest if it is there.

    Maps in memory lie ``scratch`` bytes from the output base on. None if not even the smallest
    tiles fit.
    """
    maps, tiles, address = [first], [], scratch
    widths = _pixel_words(head, s, first.words)
    for n, stage in enumerate(head.stages):
        source, last = maps[-1], n + 1 == len(head.stages)
        size = {"height": stage.factor * stage.height, "width": stage.factor * stage.width}
        target = Map(**size, words=widths[n + 1], address=0 if last else address)
        taken = source.size if source.base is not None else 0
        beside = 0 if last else widths[n + 2]  # of the next stage
        fits = source.base is not None and target.size + max(taken, beside) <= room
        if fits and _kept(target, s, last=last):
            base = room - target.size if source.base == 0 else 0
            target = Map(**size, words=target.words, base=base)
        elif not last:
            address = round_up(address + target.size * s.config.array.inputs, 64)
        free = [0, room]
        for here in (source, target):
            if here.base == 0:
                free[0] = here.size
            elif here.base is not None:
                free[1] = here.base
        found = _tiles(stage, source, target, s, (free[0], free[1]))
        if found is None:
            return None
        maps.append(target)
        tiles.append(found)
    return HeadMaps(maps=tuple(maps), tiles=tuple(tiles), scratch=address - scratch)


def _pixel_words(head: UpsamplingHead, s: Shapes, first: int) -> list[int]:
    """Words of a pixel of every map: int8 between stages, 16 bits in the result; whole beats."""
    return [first] + [
        s.stored_words(stage.outputs * (1 if stage.relu else 2)) for stage in head.stages
    ]


def _kept(target: Map, s: Shapes, *, last: bool) -> bool:
    """Whether instructions can address a map on the chip, and store it if it is the result."""
    line = target.width * target.words
    stored = line <= _WORDS and line * s.config.array.inputs <= _PITCH and target.height < _ROWS
    return target.width <= _LINE and (stored or not last)


def _tiles(
    stage: Stage, source: Map, target: Map, s: Shapes, free: tuple[int, int]
) -> StageTiles | None:
    """As much of what a tile loads as possible is its own; two buffers if that does not hurt."""
    best: tuple[float, int, int, int] | None = None
    loads, stores = source.base is None, target.base is None
    for buffers in (2, 1):
        for parts in range(1, stage.width + 1):
            columns = ceil_div(stage.width, parts)
            lines = _lines(stage, source, target, s, (free[1] - free[0]) // buffers, columns)
            if lines < 1:
                continue
            share = lines * columns / ((lines + _HALO) * (columns + _HALO)) if loads else 1 / parts
            if best is None or share > best[0] * (1.5 if buffers < best[1] else 1.0):
                best = (share, buffers, lines, columns)
    if best is None:
        return None
    _, buffers, lines, columns = best
    inputs = (lines + _HALO) * (columns + _HALO) * source.words if loads else 0
    outputs = lines * columns * target.words if stores else 0
    starts = [free[0] + n * (inputs + outputs) for n in range(buffers)]
    return StageTiles(
        lines=lines,
        columns=columns,
        inputs=tuple(starts) if loads else (),
        outputs=tuple(start + inputs for start in starts) if stores else (),
    )


def _lines(stage: Stage, source: Map, target: Map, s: Shapes, words: int, columns: int) -> int:
    """Lines of a tile of so many columns in so many words."""
    limits: LimitConfig = s.config.limits
    read = columns + _HALO if source.base is None else source.width
    written = columns if target.base is None else target.width
    if max(read, written, columns) > _LINE:
        return 0
    most = [stage.height, limits.tokens // columns]
    most += [(_ROWS - columns) // line + 1 for line in (read, written)]
    loaded = read * source.words if source.base is None else 0
    stored = columns * target.words if target.base is None else 0
    if loaded + stored:
        most.append((words - _HALO * loaded) // (loaded + stored))
    if loaded:
        beats = loaded * s.config.array.inputs // BEAT_BYTES
        most.append(_BEATS // beats - _HALO)
    return min(most)
