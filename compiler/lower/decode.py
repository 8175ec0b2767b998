"""Lowering of an upsampling head: GEMMs over all tiles of all windows (plan: :mod:`..plan.maps`).

Between stages the compute engine waits until the whole map is written. Where maps pass through
memory, a tile's pixels come while tiles before it are computed, and its outputs go while those
behind it are: a LOAD takes the credit of a SYNC behind the tile that used its buffer (``FREED``), a
tile that of the STORE that saved its buffer's last outputs (``ATTENDED``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Destination, Gemm, Load, LoadKind, Store, Sync
from moevit.quant.operators.linear import Linear
from moevit.quant.operators.upsampling import Stage, UpsamplingHead, Window

from ..plan.layout import Ints, Matrix
from ..plan.maps import HeadMaps, StageTiles, Tile
from .context import Context
from .emit import Semaphore, split

__all__ = ["lower_maps"]


def lower_maps(c: Context, head: UpsamplingHead) -> None:
    """Every stage of the task's ``head`` and the STOREs of its result, from byte ``c.output`` on.

    The first map is complete, or, where it lies in memory, LOADs of it may take a credit of
    ``FREED``.
    """
    maps = c.plan.maps[c.task]
    for n, stage in enumerate(head.stages):
        _Stage(c, stage, n, maps).lower(last=n + 1 == len(head.stages))


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """One tile of one window; ``first``, ``last`` of those that share the weights in the ring."""

    window: Window
    matrix: Matrix
    tile: Tile
    first: bool
    last: bool


class _Stage:
    """One stage in the making."""

    def __init__(self, c: Context, stage: Stage, number: int, maps: HeadMaps) -> None:
        self.c, self.stage, self.name = c, stage, f"head {c.task} stage {number}"
        self.source, self.target = maps.maps[number : number + 2]
        self.tiles: StageTiles = maps.tiles[number]
        self.visits = [v for k, (w, x) in enumerate(stage.pieces) for v in self.window(k, w, x)]

    def window(self, number: int, window: Window, linear: Linear) -> list[_Visit]:
        """Visits of a window's tiles."""
        matrix = self.matrix(number, window, linear)
        kept = len(split(matrix, self.c.config, demand=False)) == 1
        tiles = list(self.tiles.of(window))
        return [
            _Visit(
                window=window,
                matrix=matrix,
                tile=tile,
                first=not kept or tile is tiles[0],
                last=not kept or tile is tiles[-1],
            )
            for tile in tiles
        ]

    def matrix(self, number: int, window: Window, linear: Linear) -> Matrix:
        """A tap's channels begin at whole words; outputs fill the words of the target's pixels."""
        array, words = self.c.config.array, self.source.words
        tap, channel = np.divmod(np.arange(linear.shape[1]), self.stage.channels)
        inputs: Ints = tap * words * array.inputs + channel
        values = self.target.words * array.inputs // (1 if self.stage.relu else 2)
        return self.c.matrix(
            f"{self.name} window {number}", linear, inputs=inputs, otiles=values // array.outputs
        )

    def lower(self, *, last: bool) -> None:
        """All visits, and what comes next has everything."""
        code, ahead = self.c.code, len(self.tiles.inputs)
        behind, visits = len(self.tiles.outputs), self.visits
        for k in range(min(ahead, len(visits))):
            self.load(k, wait=k == 0)
        # With two buffers what moves for a tile is handed out behind the next one's products: LOADs
        # and STOREs may be more than their queues hold, and the array would wait behind them.
        lag = max(ahead, behind, 1) - 1
        for k in range(len(visits) + lag):
            if k < len(visits):
                if behind and k >= behind:
                    code.add(Sync(wait=Semaphore.ATTENDED, wait_count=1), f"{self.name} stored")
                self.gemm(k)
                if ahead and k + ahead < len(visits):
                    code.add(Sync(signal=Semaphore.FREED, count=1), f"{self.name} tile read")
            done = k - lag
            if behind and done >= 0:
                more = not last or done + behind < len(visits)
                self.store(done, signal=Semaphore.ATTENDED if more else self.end(done))
            if ahead and 0 <= done < len(visits) - ahead:
                self.load(done + ahead, wait=True)
        if last and self.target.base is not None:
            self.store_map(self.target.base)
        elif behind and not last:
            code.add(
                Sync(
                    wait=Semaphore.ATTENDED,
                    wait_count=min(behind, len(visits)),
                    signal=Semaphore.FREED,
                    count=1,
                ),
                f"{self.name} stored",
            )
        elif not last:
            self.written(Semaphore.HIDDEN)
            code.add(Sync(wait=Semaphore.HIDDEN, wait_count=1), f"{self.name} complete")

    def end(self, k: int) -> int:
        """Who is told that visit ``k``, one of the last of all, is stored."""
        return self.c.stored if k + 1 == len(self.visits) else Semaphore.NONE

    def written(self, signal: Semaphore) -> None:
        """A credit when everything so far is written."""
        self.c.code.add(Sync(signal=signal, count=1), f"{self.name} written")

    # Instructions ------------------------------------------------------------------------------
    def load(self, k: int, *, wait: bool) -> None:
        """LOADs of the pixels of visit ``k``: one if they are whole lines of the map."""
        window, tile, source = self.visits[k].window, self.visits[k].tile, self.source
        y, x = tile.y + window.rows.first, tile.x + window.columns.first
        lines = tile.lines + window.rows.taps - 1
        columns = tile.columns + window.columns.taps - 1
        target = self.tiles.inputs[k % len(self.tiles.inputs)]
        pieces = lines
        if columns == source.width:
            pieces, columns = 1, columns * lines
        size = columns * source.words  # of a LOAD
        inputs = self.c.config.array.inputs
        for n in range(pieces):
            self.c.code.add(
                Load(
                    kind=LoadKind.ACTIVATION,
                    stored=1,
                    address=source.address + source.pixel(y + n, x) * inputs,
                    target=target + n * size,
                    beats=size * inputs // BEAT_BYTES,
                    wait=Semaphore.FREED if wait and n == 0 else 0,
                    wait_count=int(wait and n == 0),
                    signal=Semaphore.LOADED if n + 1 == pieces else 0,
                ),
                f"{self.name} pixels of lines {y + n}..",
            )

    def gemm(self, k: int) -> None:
        """The products of visit ``k``."""
        visit, stage = self.visits[k], self.stage
        window, tile, matrix = visit.window, visit.tile, visit.matrix
        rows = tile.lines * tile.columns
        source, line = self.reads(k)
        target, step, target_line = self.writes(k)
        wait = {"wait": Semaphore.LOADED, "wait_count": 1} if self.tiles.inputs else {}
        signal = Semaphore.OUTPUT if self.tiles.outputs else Semaphore.NONE
        groups = split(matrix, self.c.config, demand=False)
        for group in groups:
            if visit.first:
                self.c.code.blocks.append(matrix.block(*group))
            self.c.code.add(
                Gemm(
                    source=source,
                    stride=self.source.words,
                    depth=matrix.depth,
                    tokens=rows,
                    keep=int(not visit.last),
                    otile_base=group[0],
                    otiles=group[1],
                    mode=Destination.ACT8 if stage.relu else Destination.ACT16,
                    target=target,
                    target_stride=step,
                    zero_point=stage.zero_point if stage.relu else 0,
                    line=tile.columns,
                    source_line=line,
                    target_line=target_line,
                    span=window.columns.taps * self.source.words,
                    signal=signal if group == groups[-1] else 0,
                    **wait,
                ),
                f"{self.name} lines {tile.y}..{tile.y + tile.lines - 1}, "
                f"columns {tile.x}..{tile.x + tile.columns - 1}, "
                f"phase {window.rows.phase},{window.columns.phase}",
            )
            wait = {}

    def reads(self, k: int) -> tuple[int, int]:
        """First word of what visit ``k`` reads, and pixels from line to line."""
        window, tile, source = self.visits[k].window, self.visits[k].tile, self.source
        if source.base is None:
            line = tile.columns + window.columns.taps - 1
            return self.tiles.inputs[k % len(self.tiles.inputs)], line
        offset = source.pixel(tile.y + window.rows.first, tile.x + window.columns.first)
        return source.base + offset, source.width

    def writes(self, k: int) -> tuple[int, int, int]:
        """First word of visit ``k``'s outputs, words from one to the next, outputs a line."""
        tile, target = self.visits[k].tile, self.target
        if target.base is None:
            first = self.tiles.outputs[k % len(self.tiles.outputs)]
            return first, target.words, tile.columns
        return target.base + self.offset(k), self.stage.factor * target.words, target.width

    def offset(self, k: int, line: int = 0) -> int:
        """Words from the target's first pixel to the first output of a line of visit ``k``."""
        window, tile, f = self.visits[k].window, self.visits[k].tile, self.stage.factor
        y = f * (tile.y + line) + window.rows.phase
        return self.target.pixel(y, f * tile.x + window.columns.phase)

    def store(self, k: int, *, signal: int) -> None:
        """STOREs of visit ``k``'s outputs, a line each: they are every ``factor``-th of the map."""
        tile, target, array = self.visits[k].tile, self.target, self.c.config.array
        base = self.address()
        for n in range(tile.lines):
            self.c.code.add(
                Store(
                    source=self.tiles.outputs[k % len(self.tiles.outputs)]
                    + n * tile.columns * target.words,
                    stride=target.words,
                    words=target.words,
                    rows=tile.columns,
                    address=base + self.offset(k, n) * array.inputs,
                    pitch=self.stage.factor * target.words * array.inputs,
                    wait=Semaphore.OUTPUT if n == 0 else 0,
                    wait_count=-(-tile.lines * tile.columns // array.tokens) if n == 0 else 0,
                    signal=signal if n + 1 == tile.lines else 0,
                ),
                f"{self.name} outputs of line {tile.y + n}",
            )

    def address(self) -> int:
        """Byte offset of the target in memory."""
        return self.target.address if self.stage.relu else self.c.output

    def store_map(self, base: int) -> None:
        """STORE of the result, which lies from word ``base`` on, a line a row."""
        target, inputs = self.target, self.c.config.array.inputs
        line = target.width * target.words
        self.written(Semaphore.OUTPUT)
        self.c.code.add(
            Store(
                source=base,
                stride=line,
                words=line,
                rows=target.height,
                address=self.c.output,
                pitch=line * inputs,
                wait=Semaphore.OUTPUT,
                wait_count=1,
                signal=self.c.stored,
            ),
            f"{target.height} lines of {line * inputs} bytes",
        )
