"""Lowering of an upsampling head: products over all tiles of all windows (plan: `..plan.maps`).

Where maps lie in memory, the pixels that a tile reads come in front of its product, and its outputs
go behind it; :mod:`..passes.order` moves both behind other tiles' products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moevit.hw.isa import Destination
from moevit.quant.operators.linear import Linear
from moevit.quant.operators.upsampling import Stage, UpsamplingHead, Window

from ..graph import Memory, Operand, Tensor, Weights
from ..plan.layout import Ints, Matrix
from ..plan.maps import Map, StageTiles, Tile
from ..plan.rings import split
from ..plan.tensors import outside
from .context import Context

__all__ = ["lower_upsampling"]


def lower_upsampling(c: Context, head: UpsamplingHead, result: Tensor) -> None:
    """Every stage of the task's ``head``, and its result, a pixel a row.

    The first map is made of the norm's outputs, on the chip or in memory.
    """
    maps = c.tensors.maps(c.task)
    for n, stage in enumerate(head.stages):
        source, target = maps.maps[n : n + 2]
        last = n + 1 == len(head.stages)
        _Stage(c, stage, n, source, target, maps.tiles[n], result if last else None).lower()
    final = maps.maps[-1]
    if final.base is not None:  # a line a row
        chip, words = _map(c, "result", final), range(final.width * final.words)
        lines = range(final.height)
        line = len(words)
        rows = Tensor(
            name="result",
            memory=Memory.ACTIVATIONS,
            region=chip.region,
            pitch=line,
            rows=lines,
            offset=chip.offset,
        )
        start = result.offset * 16
        stored = outside("result", "results", result.pitch * 16 * final.width, lines, start)
        c.store(rows.at(lines), stored.at(lines))


def _map(c: Context, name: str, place: Map) -> Tensor:
    """A map, a pixel a row, on the chip or in memory."""
    pixels = range(place.height * place.width)
    if place.base is None:
        size = place.words * c.shapes.config.array.inputs
        return outside(name, "scratch", size, pixels, place.address)
    return Tensor(
        name=name,
        memory=Memory.ACTIVATIONS,
        region="activations",
        pitch=place.words,
        rows=pixels,
        offset=place.base,
    )


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """One tile of one window; ``first``, ``last`` of those that share the weights in the ring."""

    number: int
    window: Window
    matrix: Matrix
    tile: Tile
    first: bool
    last: bool


class _Stage:
    """One stage in the making."""

    def __init__(
        self,
        c: Context,
        stage: Stage,
        number: int,
        source: Map,
        target: Map,
        tiles: StageTiles,
        result: Tensor | None,
    ) -> None:
        self.c, self.stage, self.tiles = c, stage, tiles
        self.name = f"head {c.task} stage {number}"
        self.source, self.target = source, target
        self.read = _map(c, f"map {number}", source)
        self.made = (
            result
            if result is not None and target.base is None
            else (_map(c, f"map {number + 1}", target))
        )

    def lower(self) -> None:
        """All tiles of all windows."""
        number = 0
        for n, (window, linear) in enumerate(self.stage.pieces):
            matrix = self.matrix(n, window, linear)
            kept = len(split(matrix, self.c.shapes.config, demand=False)) == 1
            tiles = list(self.tiles.of(window))
            for tile in tiles:
                self.visit(
                    _Visit(
                        number=number,
                        window=window,
                        matrix=matrix,
                        tile=tile,
                        first=not kept or tile is tiles[0],
                        last=not kept or tile is tiles[-1],
                    )
                )
                number += 1

    def matrix(self, number: int, window: Window, linear: Linear) -> Matrix:
        """A tap's channels begin at whole words; outputs fill the words of the target's pixels."""
        array, words = self.c.shapes.config.array, self.source.words
        tap, channel = np.divmod(np.arange(linear.shape[1]), self.stage.channels)
        inputs: Ints = tap * words * array.inputs + channel
        values = self.target.words * array.inputs // (1 if self.stage.relu else 2)
        return self.c.matrix(
            f"{self.name} window {number}", linear, inputs=inputs, otiles=values // array.outputs
        )

    def visit(self, v: _Visit) -> None:
        """The pixels of a tile, its products, its outputs."""
        window, tile, stage = v.window, v.tile, self.stage
        source, source_line = self.reads(v)
        target, target_line = self.writes(v)
        for group in split(v.matrix, self.c.shapes.config, demand=False):
            self.c.gemm(
                Weights(matrix=v.matrix, otiles=group, fresh=v.first),
                source,
                target,
                f"{self.name} lines {tile.y}..{tile.y + tile.lines - 1}, "
                f"columns {tile.x}..{tile.x + tile.columns - 1}, "
                f"phase {window.rows.phase},{window.columns.phase}",
                rows=tile.lines * tile.columns,
                keep=int(not v.last),
                mode=Destination.ACT8 if stage.relu else Destination.ACT16,
                zero_point=stage.zero_point if stage.relu else 0,
                line=tile.columns,
                source_line=source_line,
                target_line=target_line,
                span=window.columns.taps * self.source.words,
                stride=self.source.words,
                target_stride=self.target.words * (1 if self.tiles.outputs else stage.factor),
            )
        if self.tiles.outputs:
            self.store(v, target.tensor)

    def reads(self, v: _Visit) -> tuple[Operand, int]:
        """What a tile reads, and pixels from line to line; loaded if its map lies in memory."""
        window, tile, source = v.window, v.tile, self.source
        y, x = tile.y + window.rows.first, tile.x + window.columns.first
        lines = tile.lines + window.rows.taps - 1
        columns = tile.columns + window.columns.taps - 1
        if source.base is not None:
            first, last = y * source.width + x, (y + lines - 1) * source.width + x + columns
            return self.read.at(range(first, last), whole=True), source.width
        place = self.buffer("pixels", self.tiles.inputs, v.number, lines * columns, source.words)
        pieces, size = lines, columns
        if columns == source.width:  # they lie together
            pieces, size = 1, columns * lines
        for n in range(pieces):
            first = (y + n) * source.width + x
            self.c.load(
                self.read.at(range(first, first + size)),
                place.at(range(n * size, (n + 1) * size)),
                f"{self.name} pixels of lines {y + n}..",
            )
        return place.at(place.rows, whole=True), columns

    def writes(self, v: _Visit) -> tuple[Operand, int]:
        """Where a tile's outputs go, and outputs from line to line."""
        tile, target = v.tile, self.target
        if self.tiles.outputs:
            size = tile.lines * tile.columns
            place = self.buffer("outputs", self.tiles.outputs, v.number, size, target.words)
            return place.at(place.rows, whole=True), tile.columns
        first, last = self.pixel(v, 0), self.pixel(v, tile.lines - 1)
        end = last + self.stage.factor * (tile.columns - 1) + 1
        return self.made.at(range(first, end), whole=True), target.width

    def pixel(self, v: _Visit, line: int) -> int:
        """The first output of a line of a tile in the map that is made."""
        f = self.stage.factor
        y = f * (v.tile.y + line) + v.window.rows.phase
        return y * self.target.width + f * v.tile.x + v.window.columns.phase

    def buffer(
        self, name: str, places: tuple[int, ...], number: int, rows: int, words: int
    ) -> Tensor:
        """A tile's place among those that are used in turn."""
        return Tensor(
            name=f"{name} {number % len(places)}",
            memory=Memory.ACTIVATIONS,
            region="activations",
            pitch=words,
            rows=range(rows),
            offset=places[number % len(places)],
        )

    def store(self, v: _Visit, made: Tensor) -> None:
        """STOREs of a tile's outputs, a line each: they are every ``factor``-th of the map."""
        columns, f = v.tile.columns, self.stage.factor
        for n in range(v.tile.lines):
            first = self.pixel(v, n)
            self.c.store(
                made.at(range(n * columns, (n + 1) * columns)),
                self.made.at(range(first, first + f * (columns - 1) + 1, f)),
                f"{self.name} outputs of line {v.tile.y + n}",
            )
