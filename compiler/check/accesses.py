"""Which words of which memory every operation reads and writes (the text of ``hw/isa.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.isa import (
    TO_KEY_VALUE,
    TO_RESIDUAL,
    Attention,
    Destination,
    Fetch,
    Gemm,
    Load,
    LoadKind,
    Norm,
    Store,
)

from .operands import Inputs
from .steps import Stage, Step

__all__ = ["Access", "Memory", "accesses", "memory_words", "row_places", "spread"]

Words = np.ndarray[Any, np.dtype[np.int64]]


class Memory(Enum):
    """What instructions read and write; the value is its name in messages."""

    ACTIVATIONS = "A"
    RESIDUAL = "X"
    KEY_VALUES = "KV"
    NORMS = "N"
    QUEUES = "queue"
    """a word an expert: its length and its entries"""
    ROUTER = "router"
    """one word, from a router's first logits until its queues are complete"""
    OUTPUT = "output"
    """beats from the output base on"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """``words (operations, n)`` of an operation each, or ``(n,)`` that any of them may touch.

    It begins with the operations of stage ``begin`` and is over with those of ``end``. ``early``:
    before credits are taken.
    """

    memory: Memory
    begin: Stage
    end: Stage
    write: bool
    words: Words
    early: bool = False


def memory_words(config: AcceleratorConfig, output_bytes: int) -> dict[Memory, int]:
    """Words of each memory."""
    m = config.memory
    return {
        Memory.ACTIVATIONS: m.activation_words,
        Memory.RESIDUAL: m.residual_words,
        Memory.KEY_VALUES: m.kv_rows,
        Memory.NORMS: m.norm_rows,
        Memory.QUEUES: config.limits.experts,
        Memory.ROUTER: 1,
        Memory.OUTPUT: -(-output_bytes // BEAT_BYTES),
    }


def spread(starts: Any, count: int) -> Words:
    """``starts (..., )`` to words ``(..., count)`` from each of them on."""
    words: Words = np.asarray(starts, np.int64)[..., None] + np.arange(count)
    return words


def accesses(config: AcceleratorConfig, step: Step, used: Inputs | None = None) -> Iterator[Access]:
    """What a step's operations touch; reads before writes of the same memory.

    ``used``: of a GEMM the inputs that count; words without any are not read.
    """
    i = step.instruction
    if isinstance(i, Load):
        yield from _load(config, i)
    elif isinstance(i, Store):
        yield from _store(config, step, i)
    elif isinstance(i, Norm):
        yield from _norm(config, step, i)
    elif isinstance(i, Gemm):
        yield from _gemm(config, step, i, used)
    elif isinstance(i, Attention):
        yield from _attention(config, step, i)
    elif isinstance(i, Fetch):
        yield _read(Memory.QUEUES, Stage.FETCH, np.array([i.queue]))


def _row_words(i: Gemm, rows: Words, used: Inputs | None) -> Words:
    """``(..., words)``: what counts of a GEMM's operand rows ``(...)`` of the source."""
    columns = np.arange(i.depth) if used is None else np.flatnonzero(used.any(axis=1))
    s, u = np.divmod(columns, i.span or i.depth)
    within = s * (i.source_line * i.stride) + u
    words: Words = i.source + np.asarray(rows, np.int64)[..., None] * i.stride + within
    return words


def _read(memory: Memory, stage: Stage, words: Words, end: Stage | None = None) -> Access:
    return Access(memory=memory, begin=stage, end=end or stage, write=False, words=words)


def _write(memory: Memory, stage: Stage, words: Words, end: Stage | None = None) -> Access:
    return Access(memory=memory, begin=stage, end=end or stage, write=True, words=words)


def _tiles(config: AcceleratorConfig, step: Step) -> Words:
    """``(tiles, T)`` rows; the last one again in place of those that are not there."""
    t = config.array.tokens
    rows: Words = np.arange(step.tiles * t).reshape(step.tiles, t)
    return np.minimum(rows, step.rows - 1)


def _lines(i: Gemm, rows: Words, pitch: int) -> Words:
    if not i.line:
        return rows
    y, c = np.divmod(rows, i.line)
    at: Words = y * pitch + c
    return at


# Data engine -----------------------------------------------------------------------------------
def _load(config: AcceleratorConfig, i: Load) -> Iterator[Access]:
    inputs = config.array.inputs
    if i.kind == LoadKind.PIXELS:
        patches = np.arange(i.strips * i.patches) * i.stride
        words = -(-i.patch_rows * i.patch_bytes // inputs)
        at = i.target + patches
        yield _write(Memory.ACTIVATIONS, Stage.LOAD, spread(at, words).ravel())
        return
    size = i.beats * BEAT_BYTES
    memory, word = {
        LoadKind.RESIDUAL: (Memory.RESIDUAL, 2 * config.array.outputs),
        LoadKind.ACTIVATION: (Memory.ACTIVATIONS, inputs),
        LoadKind.NORM: (Memory.NORMS, config.param_row_bytes),
    }[LoadKind(i.kind)]
    if i.stored:
        beats = spread(i.address // BEAT_BYTES, i.beats)
        yield _read(Memory.OUTPUT, Stage.ASK, beats, Stage.LOAD)
    yield _write(memory, Stage.LOAD, spread(i.target, -(-size // word)))


def _store(config: AcceleratorConfig, step: Step, i: Store) -> Iterator[Access]:
    rows = _tiles(config, step)
    memory = Memory.RESIDUAL if i.residual else Memory.ACTIVATIONS
    word = 2 * config.array.outputs if i.residual else config.array.inputs
    words = spread(i.source + rows * i.stride, i.words).reshape(step.tiles, -1)
    beats = spread((i.address + rows * i.pitch) // BEAT_BYTES, i.words * word // BEAT_BYTES)
    # The answer is an operation of its own, which touches nothing new.
    yield _read(memory, Stage.STORE, np.concatenate([words, words[-1:]]))
    yield _write(Memory.OUTPUT, Stage.STORE, beats.ravel())


# Norm engine -----------------------------------------------------------------------------------
def _norm(config: AcceleratorConfig, step: Step, i: Norm) -> Iterator[Access]:
    rows = _tiles(config, step)
    size = -(-i.words * config.array.outputs // config.array.inputs)
    read = spread(i.source + rows * i.words, i.words).reshape(step.tiles, -1)
    yield _read(Memory.RESIDUAL, Stage.SUMS, read)
    yield _read(Memory.NORMS, Stage.SUMS, spread(i.params, i.words), Stage.NORM)
    written = spread(i.target + rows * i.stride, size).reshape(step.tiles, -1)
    yield _write(Memory.ACTIVATIONS, Stage.NORM, written)


# Compute engine --------------------------------------------------------------------------------
def _gemm(config: AcceleratorConfig, step: Step, i: Gemm, used: Inputs | None) -> Iterator[Access]:
    tiles = step.tiles
    rows = _tiles(config, step)
    if step.queue:
        yield Access(  # the loader looks at the length when it decodes
            memory=Memory.QUEUES,
            begin=Stage.LOADER,
            end=Stage.LOADER,
            write=False,
            words=np.array([i.queue]),
            early=True,
        )
    if step.queue and i.gather:
        source: Words = _row_words(i, np.arange(step.rows), used).ravel()
    else:
        source = _row_words(i, _lines(i, rows, i.source_line), used).reshape(tiles, -1)
    if source.size:
        yield _read(Memory.ACTIVATIONS, Stage.LOADER, source)
    if i.mode == Destination.GATE:
        yield _write(Memory.ROUTER, Stage.EPILOGUE, np.array([0]), Stage.GATE)
        yield _write(Memory.QUEUES, Stage.GATE, np.arange(config.limits.experts))
        return
    at = _lines(i, rows, i.target_line)
    if i.mode in TO_KEY_VALUE:
        heads = _key_values(config, i, at).reshape(tiles, -1)
        yield _write(Memory.KEY_VALUES, Stage.EPILOGUE, heads)
        return
    if step.queue and i.scatter:
        at = np.arange(step.rows)
    first, last = _columns(config, i)
    places = spread(i.target + at * i.target_stride + first, last + 1 - first)
    words: Words = places.ravel() if places.ndim == 2 else places.reshape(tiles, -1)
    to_x = i.mode in TO_RESIDUAL
    yield _write(Memory.RESIDUAL if to_x else Memory.ACTIVATIONS, Stage.EPILOGUE, words)


def _columns(config: AcceleratorConfig, i: Gemm) -> tuple[int, int]:
    """First and last word of a row that a GEMM writes."""
    first, end = i.otile_base, i.otile_base + i.otiles
    if i.mode in TO_RESIDUAL:
        return first, end - 1
    size = config.array.outputs * (2 if i.mode == Destination.ACT16 else 1)
    return first * size // config.array.inputs, (end * size - 1) // config.array.inputs


def _key_values(config: AcceleratorConfig, i: Gemm, rows: Words) -> Words:
    """``(..., otiles)`` rows of the key/value memory."""
    inputs, outputs = config.array.inputs, config.array.outputs
    h, j = np.divmod(i.otile_base + np.arange(i.otiles), i.head_otiles)
    at = rows[..., None]
    head: Words = i.target + h * i.head_pitch
    if i.mode == Destination.KEY:
        key: Words = head + at // outputs * i.tile_pitch + j // (inputs // outputs)
        return key
    value: Words = head + j * i.tile_pitch + at // inputs
    return value


def _attention(config: AcceleratorConfig, step: Step, i: Attention) -> Iterator[Access]:
    inputs, outputs = config.array.inputs, config.array.outputs
    rows = _tiles(config, step)[:, None, :]  # (tiles, 1, T)
    heads = np.arange(i.heads)[:, None]
    q = spread(i.source + rows * i.stride + heads * i.chunks, i.chunks)
    yield _read(Memory.ACTIVATIONS, Stage.LOADER, q.reshape(step.operations, -1))
    h = heads.ravel()
    keys = spread(i.k_base + h * i.k_pitch, -(-i.keys // outputs) * i.chunks)
    values = spread(i.v_base + h * i.v_pitch, i.v_otiles * i.v_tile_pitch)
    kv = np.concatenate([keys.ravel(), values.ravel()])
    yield _read(Memory.KEY_VALUES, Stage.ARRAY, kv)
    size = i.v_otiles * outputs  # bytes of a head
    first, last = heads * size // inputs, ((heads + 1) * size - 1) // inputs
    count = int((last - first).max()) + 1
    words = spread(i.target + rows * i.target_stride + first, count)
    words = np.minimum(words, (i.target + rows * i.target_stride + last)[..., None])
    yield _write(Memory.ACTIVATIONS, Stage.EPILOGUE, words.reshape(step.operations, -1))


def row_places(config: AcceleratorConfig, step: Step) -> Iterator[tuple[Words, int]]:
    """Bytes of the activation memory that a step writes: first bytes of runs, and their length."""
    i, inputs, outputs = step.instruction, config.array.inputs, config.array.outputs
    if isinstance(i, Load) and i.kind == LoadKind.PIXELS:
        patch = i.target + np.arange(i.strips * i.patches) * i.stride
        yield patch * inputs, i.patch_rows * i.patch_bytes
    elif isinstance(i, Load) and i.kind == LoadKind.ACTIVATION:
        yield np.array([i.target * inputs]), i.beats * BEAT_BYTES
    elif isinstance(i, Norm):
        yield (i.target + np.arange(i.tokens) * i.stride) * inputs, i.words * outputs
    elif isinstance(i, Attention):
        row = i.target + np.arange(i.queries) * i.target_stride
        yield row * inputs, i.heads * i.v_otiles * outputs
    elif isinstance(i, Gemm):
        row = i.target + _lines(i, np.arange(step.rows), i.target_line) * i.target_stride
        size = outputs * (2 if i.mode == Destination.ACT16 else 1)
        yield row * inputs + i.otile_base * size, i.otiles * size
