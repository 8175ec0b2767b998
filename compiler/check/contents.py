"""What stands in the memories: a byte must have been written in this frame before it counts.

The instructions are gone through one after another, as the program's order is what all others are
compared with (:mod:`.races`). Bytes that only multiply weights of zero, rows of keys and values
beyond the last key, and parameters of padding may be anything. STORE and a LOAD of what was stored
copy whatever is there; a result must be there when the frame ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.isa import TO_RESIDUAL, Attention, Destination, Gemm, Load, LoadKind, Norm, Store

from ..program import Output
from .accesses import Access, Memory, row_places
from .findings import Finding
from .operands import Inputs
from .steps import Step

__all__ = ["Contents"]

Ints = np.ndarray[Any, np.dtype[Any]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class Contents:
    """Which bytes of every memory have been written (of the residual memory: which words)."""

    def __init__(
        self,
        config: AcceleratorConfig,
        sizes: dict[Memory, int],
        used: dict[int, Inputs],
        describe: Callable[[int], str],
    ) -> None:
        self.config, self.used, self.describe = config, used, describe
        bytes_of = {
            Memory.ACTIVATIONS: config.array.inputs,
            Memory.KEY_VALUES: config.row_bytes,
            Memory.NORMS: config.param_row_bytes,
            Memory.OUTPUT: BEAT_BYTES,
        }
        self.written: dict[Memory, Flags] = {
            memory: np.zeros((size, bytes_of.get(memory, 1)), bool)
            for memory, size in sizes.items()
        }

    def step(self, step: Step, touched: list[Access]) -> Iterator[Finding]:
        """Reads of what is not there; then what the step writes is there."""
        i = step.instruction
        copies = isinstance(i, Store) or (isinstance(i, Load) and i.stored)
        for access in touched:
            if not access.write and not copies:
                yield from self._need(step, access.memory, self._reads(step, access), access.words)
        if isinstance(i, Gemm) and i.mode in TO_RESIDUAL:
            (x,) = (a for a in touched if a.memory is Memory.RESIDUAL)
            yield from self._need(step, x.memory, self.written[x.memory][x.words, 0], x.words)
        if isinstance(i, Store):
            self._store(i)
            return
        for access in touched:
            if access.write:
                self._write(step, access)
        if isinstance(i, Load) and i.stored:
            self._load_stored(i)

    def result(self, task: str, output: Output) -> Iterator[Finding]:
        """Bytes of a task's result that are not there."""
        row = np.arange(output.columns * output.item_bytes)
        places = output.address + np.arange(output.rows)[:, None] * output.pitch + row
        missing = places[~self.written[Memory.OUTPUT].reshape(-1)[places]]
        if len(missing):
            low, high = int(missing.min()) // BEAT_BYTES, int(missing.max()) // BEAT_BYTES
            yield Finding(
                kind="output",
                message=f"{len(missing)} of {places.size} bytes of the result of {task!r} are not "
                f"stored, or nothing has written what is, in output[{low}..{high}]",
                memory=Memory.OUTPUT.value,
                words=(low, high),
            )

    def _need(self, step: Step, memory: Memory, there: Flags, words: Ints) -> Iterator[Finding]:
        """``there``: which of ``words`` hold all that counts."""
        if there.all():
            return
        missing = np.broadcast_to(words, there.shape)[~there]
        low, high = int(missing.min()), int(missing.max())
        yield Finding(
            kind="undefined",
            message=f"{self.describe(step.index)} reads {memory.value}[{low}..{high}], of which "
            "something counts that nothing before it in this frame has written",
            instructions=(step.index,),
            memory=memory.value,
            words=(low, high),
        )

    # Reads -------------------------------------------------------------------------------------
    def _reads(self, step: Step, access: Access) -> Flags:
        """Which of the access's words hold all that counts."""
        i, written = step.instruction, self.written[access.memory]
        if access.memory is Memory.ACTIVATIONS and isinstance(i, Gemm):
            used = self.used[step.index]
            columns = np.flatnonzero(used.any(axis=1))
            needed: Flags = np.tile(used[columns], (access.words.size // max(len(columns), 1), 1))
            found = written[access.words.ravel()] | ~needed
            all_there: Flags = np.all(found, axis=-1)
            return all_there.reshape(access.words.shape)
        if access.memory is Memory.KEY_VALUES and isinstance(i, Attention):
            return self._key_values(i, access.words)
        if access.memory is Memory.NORMS and isinstance(i, Norm):
            size = self.config.param_row_bytes // self.config.array.outputs
            row = np.arange(i.words * self.config.param_row_bytes).reshape(i.words, -1)
            there: Flags = np.all(written[access.words] | (row >= i.dim * size), axis=-1)
            return there
        whole: Flags = np.all(written[access.words], axis=-1)
        return whole

    def _key_values(self, i: Attention, words: Ints) -> Flags:
        """Keys ``[o][i]``, then values ``[i][o]``: those of the first ``keys`` rows count."""
        inputs, outputs = self.config.array.inputs, self.config.array.outputs
        written = self.written[Memory.KEY_VALUES][words]
        tiles = -(-i.keys // outputs)
        split = i.heads * tiles * i.chunks
        row: Ints = np.arange(tiles * outputs).reshape(tiles, 1, outputs, 1)
        shape = (i.heads, tiles, i.chunks, outputs, inputs)
        keys = np.logical_or(written[:split].reshape(shape), row >= i.keys)
        row = np.arange(i.v_tile_pitch * inputs).reshape(1, i.v_tile_pitch, inputs, 1)
        shape = (i.heads, i.v_otiles, i.v_tile_pitch, inputs, outputs)
        values = np.logical_or(written[split:].reshape(shape), row >= i.keys)
        there: Flags = np.concatenate(
            [keys.all(axis=(-1, -2)).ravel(), values.all(axis=(-1, -2)).ravel()]
        )
        return there

    # Writes ------------------------------------------------------------------------------------
    def _write(self, step: Step, access: Access) -> None:
        written, i = self.written[access.memory], step.instruction
        flat = written.reshape(-1)
        if access.memory is Memory.ACTIVATIONS:
            for starts, size in row_places(self.config, step):
                flat[starts[..., None] + np.arange(size)] = True
        elif access.memory is Memory.KEY_VALUES and isinstance(i, Gemm):
            self._write_heads(i)
        elif access.memory is Memory.NORMS and isinstance(i, Load):
            start = i.target * self.config.param_row_bytes
            flat[start : start + i.beats * BEAT_BYTES] = True
        else:
            written[access.words] = True

    def _store(self, i: Store) -> None:
        """Rows as they are."""
        output = self.written[Memory.OUTPUT].reshape(-1)
        words = i.source + np.arange(i.rows)[:, None] * i.stride + np.arange(i.words)
        if i.residual:
            rows = self.written[Memory.RESIDUAL][words, 0].repeat(2 * self.config.array.outputs, 1)
        else:
            rows = self.written[Memory.ACTIVATIONS][words].reshape(i.rows, -1)
        to = i.address + np.arange(i.rows)[:, None] * i.pitch + np.arange(rows.shape[1])
        output[to] = rows

    def _load_stored(self, i: Load) -> None:
        """Bytes as they are; words of the residual memory that are there as a whole."""
        stored = self.written[Memory.OUTPUT].reshape(-1)[i.address :][: i.beats * BEAT_BYTES]
        if i.kind == LoadKind.RESIDUAL:
            words: Flags = np.all(stored.reshape(-1, 2 * self.config.array.outputs), axis=1)
            self.written[Memory.RESIDUAL][i.target : i.target + len(words), 0] = words
            return
        norms = i.kind == LoadKind.NORM
        memory = Memory.NORMS if norms else Memory.ACTIVATIONS
        flat = self.written[memory].reshape(-1)
        start = i.target * (self.config.param_row_bytes if norms else self.config.array.inputs)
        flat[start : start + len(stored)] = stored

    def _write_heads(self, i: Gemm) -> None:
        """Bytes of keys or values."""
        inputs, outputs = self.config.array.inputs, self.config.array.outputs
        row = np.arange(i.tokens)[:, None]
        h, j = np.divmod(i.otile_base + np.arange(i.otiles), i.head_otiles)
        if i.mode == Destination.KEY:
            wide = inputs // outputs
            at = i.target + h * i.head_pitch + row // outputs * i.tile_pitch + j // wide
            byte = row % outputs * inputs + j % wide * outputs
        else:
            at = i.target + h * i.head_pitch + j * i.tile_pitch + row // inputs
            byte = row % inputs * outputs
        flat = self.written[Memory.KEY_VALUES].reshape(-1)
        starts = at * self.config.row_bytes + byte
        flat[starts[..., None] + np.arange(outputs)] = True
