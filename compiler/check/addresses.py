"""Fields that engines refuse, and bytes outside the image, the program and the result's area.

Words of the on-chip memories are checked where they are accessed (:mod:`.prove`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.isa import (
    TO_KEY_VALUE,
    TO_RESIDUAL,
    TOKEN_BITS,
    WITH_LINES,
    Attention,
    Destination,
    Fetch,
    Gemm,
    Halt,
    Instruction,
    Load,
    LoadKind,
    Norm,
    Store,
)
from moevit.quant.dial import NEVER
from moevit.quant.formats import SCORE

from .findings import Finding

__all__ = ["Areas", "check_fields"]

_NORM_CHANNELS = 1023


@dataclass(frozen=True, kw_only=True)
class Areas:
    """Bytes from each base on: the image, the result, and the program from this entry on.

    ``reserved``: ranges of the program's memory, counted like addresses, that hold headers,
    instructions and streams, and no data to load or fetch.
    """

    image: int
    output: int
    program: int
    reserved: tuple[range, ...]


def check_fields(
    config: AcceleratorConfig, code: Sequence[Instruction], areas: Areas
) -> Iterator[Finding]:
    """Instructions that an engine would refuse, and accesses outside their area."""
    window = range(0)
    for index, i in enumerate(code):
        problem = None
        if isinstance(i, Halt):
            problem = None if index + 1 == len(code) else "HALT before the end"
        elif isinstance(i, Load):
            problem = _load(config, i, areas)
        elif isinstance(i, Store):
            problem = _store(config, i, areas)
        elif isinstance(i, Norm):
            problem = _norm(config, i)
        elif isinstance(i, Gemm):
            problem = _gemm(config, i, window)
            if i.mode == Destination.GATE:
                window = range(i.shift, i.shift + i.experts)
        elif isinstance(i, Attention):
            problem = _attention(config, i)
        elif isinstance(i, Fetch):
            problem = _fetch(config, i, areas, window)
        if problem:
            name = type(i).__name__.upper()
            yield Finding(
                kind="address" if "outside" in problem else "field",
                message=f"instruction {index} ({name}): {problem}",
                instructions=(index,),
            )
    if not code or not isinstance(code[-1], Halt):
        yield Finding(kind="field", message="the program does not end with HALT")


def _within(what: str, start: int, size: int, area: int) -> str | None:
    if start + size <= area:
        return None
    return f"bytes {start}..{start + size - 1} lie outside the {what}'s {area}"


def _program(start: int, size: int, areas: Areas) -> str | None:
    """Problem of data that are read at ``program_base + start``."""
    if problem := _within("program", start, size, areas.program):
        return problem
    for taken in areas.reserved:
        if start < taken.stop and taken.start < start + size:
            return (
                f"bytes {start}..{start + size - 1} lie outside the data: {taken.start}.."
                f"{taken.stop - 1} are a header, instructions or a stream"
            )
    return None


def _load(config: AcceleratorConfig, i: Load, areas: Areas) -> str | None:
    if i.address % BEAT_BYTES:
        return f"address {i.address} is no multiple of {BEAT_BYTES}"
    if i.kind == LoadKind.PIXELS:
        if min(i.strips, i.patches, i.patch_rows, i.patch_bytes) == 0:
            return "no pixels"
        if i.patch_bytes % config.piece_bytes:
            return f"{i.patch_bytes} bytes are no whole pieces of {config.piece_bytes}"
        if i.pitch % BEAT_BYTES:
            return f"pitch {i.pitch} is no multiple of {BEAT_BYTES}"
        size = (i.strips * i.patch_rows - 1) * i.pitch + i.patches * i.patch_bytes
        return _within("image", i.address, size, areas.image)
    size = i.beats * BEAT_BYTES
    if not size:
        return "no beats"
    word = {
        LoadKind.RESIDUAL: 2 * config.array.outputs,
        LoadKind.ACTIVATION: config.array.inputs,
        LoadKind.NORM: 1,
    }[LoadKind(i.kind)]
    if size % word:
        return f"{size} bytes are no whole words of {word}"
    if i.stored:
        return _within("result", i.address, size, areas.output)
    return _program(i.address, size, areas)


def _store(config: AcceleratorConfig, i: Store, areas: Areas) -> str | None:
    row = i.words * (2 * config.array.outputs if i.residual else config.array.inputs)
    if not i.rows or not i.words:
        return "no rows"
    if row % BEAT_BYTES or i.address % BEAT_BYTES or i.pitch % BEAT_BYTES:
        return f"rows, address or pitch are no multiple of {BEAT_BYTES} bytes"
    if i.rows > 1 and i.pitch < row:
        return f"rows of {row} bytes overlap with a pitch of {i.pitch}"
    return _within("result", i.address, (i.rows - 1) * i.pitch + row, areas.output)


def _norm(config: AcceleratorConfig, i: Norm) -> str | None:
    width = i.words * config.array.outputs
    longest = min(config.limits.depth, _NORM_CHANNELS + 1)
    if not i.tokens or not i.words or width > longest:
        return f"{i.tokens} rows of {width} channels, at least 1 of at most {longest} expected"
    if not 0 < i.dim <= min(width, _NORM_CHANNELS):
        return f"dim {i.dim} of {width} channels"
    return None


def _gemm(config: AcceleratorConfig, i: Gemm, window: range) -> str | None:
    limits, array = config.limits, config.array
    lines = bool(i.line or i.source_line or i.target_line or i.span)
    if not i.otiles or not i.depth or i.depth * array.inputs > limits.depth:
        return f"{i.otiles} output tiles of depth {i.depth}"
    if not i.use_queue and not 0 < i.tokens <= limits.tokens:
        return f"{i.tokens} rows, 1..{limits.tokens} expected"
    if i.use_queue and i.queue not in window:
        return f"queue {i.queue}, which the router before it does not fill"
    if i.demand and not i.use_queue:
        return "weights that are fetched for a queue, and rows of no queue"
    if i.mode not in set(Destination):
        return f"destination {i.mode}"
    if lines and (i.use_queue or i.mode not in WITH_LINES):
        return f"lines or spans with a queue or destination {Destination(i.mode).name}"
    if i.line:
        y, c = divmod(i.tokens - 1, i.line)
        row = max(y * i.source_line, y * i.target_line) + min(c if not y else i.line - 1, i.line)
        if row >> TOKEN_BITS:
            return f"row {row} of a map lies outside the {1 << TOKEN_BITS} that can be counted"
    if i.mode in TO_KEY_VALUE:
        if not i.head_otiles:
            return "heads of no output tiles"
        if i.otile_base:
            return "keys or values from an output tile other than the first"
    if i.mode == Destination.EXPERT and not i.use_queue:
        return "EXPERT without a queue"
    if i.mode in TO_RESIDUAL:
        return _adds(i)
    if i.mode == Destination.GATE:
        return _gate(config, i)
    return None


def _adds(i: Gemm) -> str | None:
    """Read-modify-write must not meet a word twice in one instruction."""
    rows = i.tokens if not i.use_queue else 2
    if rows > 1 and i.target_stride < i.otiles:
        return f"adds to rows of {i.otiles} words that are {i.target_stride} apart"
    if i.line and i.target_line < min(i.line, i.tokens):
        return f"adds to lines of {i.line} rows that are {i.target_line} apart"
    return None


def _gate(config: AcceleratorConfig, i: Gemm) -> str | None:
    limits = config.limits
    if i.use_queue:
        return "a router of a queue"
    if not 0 < i.experts or i.shift + i.experts > limits.experts or i.mult > SCORE.max:
        return f"experts {i.shift}..{i.shift + i.experts - 1}, scores from {i.mult}"
    if i.target > NEVER:
        return f"scores up to {i.target}"
    if not 0 < i.top_k <= min(i.experts, limits.top_k) or i.tokens > limits.routed:
        return f"top {i.top_k} of {i.experts} experts for {i.tokens} tokens"
    if i.otiles != -(-i.experts // config.array.outputs):
        return f"{i.otiles} output tiles of logits for {i.experts} experts"
    return None


def _attention(config: AcceleratorConfig, i: Attention) -> str | None:
    limits, inputs = config.limits, config.array.inputs
    if not min(i.heads, i.chunks, i.v_otiles) or i.chunks * inputs > limits.depth:
        return f"{i.heads} heads of {i.chunks} words and {i.v_otiles} output tiles"
    if not 0 < i.queries <= limits.tokens or not 0 < i.keys <= limits.tokens:
        return f"{i.queries} queries and {i.keys} keys, 1..{limits.tokens} expected"
    if i.v_tile_pitch != -(-i.keys // inputs):
        return f"{i.v_tile_pitch} value rows an output tile for {i.keys} keys"
    return None


def _fetch(config: AcceleratorConfig, i: Fetch, areas: Areas, window: range) -> str | None:
    memory = config.memory
    if i.queue not in window:
        return f"queue {i.queue}, which the router before it does not fill"
    if i.address % BEAT_BYTES:
        return f"address {i.address} is no multiple of {BEAT_BYTES}"
    if not 0 < i.param_rows <= memory.demand_param_rows or not (
        0 < i.weight_rows <= memory.demand_rows
    ):
        return f"{i.param_rows} parameter rows and {i.weight_rows} weight rows"
    beats = i.param_rows * config.param_row_beats
    beats += i.weight_rows * config.row_beats >> i.packed
    return _program(i.address, beats * BEAT_BYTES * memory.ports, areas)
