"""What programs and frames exercise: every instruction by mode and flag, stalls, queues, rings."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from moevit.compiler.program import Program
from moevit.hw.config import AcceleratorConfig
from moevit.hw.isa import (
    ACTIVATED,
    TO_BYTES,
    TO_KEY_VALUE,
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
    Sync,
)
from moevit.hw.registers import Counter, Error
from moevit.sim.counters import Counters
from moevit.sim.interpreter import Outcome

__all__ = ["POINTS", "of_counters", "of_outcome", "of_program"]

_ROWS = ("all rows", "a queue's rows")
_GEMM = (*_ROWS, "gather", "scatter", "demand", "keep", "lines", "spans", "further columns")
_TILES = ("one tile", "several tiles")
_LENGTHS = ("0", "1", "below a tile", "a tile", "more", "all tokens", "the limit")
_RINGS = ("weights", "parameters", "demand weights", "demand parameters")


def _gemm_points() -> Iterator[str]:
    queues = {*ACTIVATED, Destination.EXPERT}
    for mode in Destination:
        for flag in _GEMM:
            if flag in ("a queue's rows", "gather", "scatter", "demand") and mode not in queues:
                continue  # nothing else has experts' rows
            if mode == Destination.EXPERT and flag in ("all rows", "gather"):
                continue  # weighed by the score of a queue's slot, and read where fc1 wrote it
            if mode in ACTIVATED and flag == "scatter":
                continue  # experts' hidden values lie by slot
            if flag == "keep" and mode not in (
                Destination.ACT8,
                Destination.ACT16,
                Destination.RESIDUAL,
            ):
                continue  # one product with each matrix; tiles of maps and of residuals share one
            if flag in ("lines", "spans") and mode not in (Destination.ACT8, Destination.ACT16):
                continue  # maps are activations; tests/hw/bench_windows.py has the others
            if flag == "further columns" and mode in (*TO_KEY_VALUE, Destination.GATE):
                continue  # 0 there
            yield f"GEMM {mode.name}: {flag}"
        yield from (f"GEMM {mode.name}: {t}" for t in _TILES)
    yield from (f"GEMM {m.name}: zero point" for m in TO_BYTES)
    yield from (
        f"GEMM GATE: {flag}"
        for flag in ("one expert", "top 1", "top 2", "more", "renormalise", "least score", "window")
    )


def _points() -> Iterator[str]:
    yield from _gemm_points()
    yield from (f"LOAD {kind.name}" for kind in LoadKind)
    yield from ("LOAD RESIDUAL: stored", "LOAD ACTIVATION: stored")
    yield from (f"LOAD PIXELS: {s}" for s in ("one strip", "several strips"))
    yield from (f"NORM{p}: {t}" for p in ("", " plain") for t in _TILES)
    yield from (f"ATTENTION: {h}" for h in ("one head", "several heads"))
    yield from (f"ATTENTION: {k}" for k in ("one tile of keys", "several tiles of keys"))
    yield from (f"ATTENTION: queries, {t}" for t in _TILES)
    yield from (f"STORE of {m}: {t}" for m in ("activations", "residuals") for t in _TILES)
    yield from (f"FETCH{p}" for p in ("", " packed"))
    yield from ("FETCH: carried out", "FETCH: skipped")
    yield from (f"SYNC: {s}" for s in ("takes", "gives", "both"))
    yield "HALT"
    for name in ("LOAD", "NORM", "GEMM", "ATTENTION", "STORE", "FETCH", "SYNC"):
        yield f"{name}: takes"
        yield f"{name}: gives"
    for name in ("NORM", "GEMM", "ATTENTION", "STORE"):
        yield from (f"{name}: takes {n}" for n in ("a tile's", "all at once"))
    yield from (f"queue of {n}" for n in _LENGTHS)
    yield from (f"ring of {r}: wraps" for r in _RINGS)
    yield from (f"misses: {n}" for n in ("none", "one", "several"))
    yield from (f"empty queues: {n}" for n in ("none", "some"))
    yield from (f"counter {c.name}" for c in Counter)
    yield from (f"error {e.name}" for e in Error if e != Error.NONE)
    yield from ("frames waiting: none", "frames waiting: one", "frames waiting: full")
    yield from ("frame of one task", "frame of all tasks")


POINTS = tuple(dict.fromkeys(_points()))
"""Everything that a campaign is to have exercised, by name."""


def of_program(program: Program, entries: list[str]) -> Tally[str]:
    """Points of the instructions and weight streams of these entries."""
    found: Tally[str] = Tally()
    config = program.config
    for entry in entries:
        for i in program.instructions(entry):
            found.update(_of_instruction(i, config))
        blocks = program.blocks(entry)
        memory = config.memory
        found["ring of weights: wraps"] += sum(b.weight_rows for b in blocks) > memory.ring_rows
        found["ring of parameters: wraps"] += sum(b.param_rows for b in blocks) > memory.param_rows
    return +found


def _of_instruction(i: Instruction, config: AcceleratorConfig) -> Iterator[str]:
    tokens = config.array.tokens
    name = type(i).__name__.upper()
    if isinstance(i, Halt):
        yield "HALT"
        return
    if i.wait:
        yield f"{name}: takes"
        if isinstance(i, Norm | Gemm | Attention | Store):
            how = "all at once" if i.wait_count else "a tile's"
            yield f"{name}: takes {how}"
    if i.signal:
        yield f"{name}: gives"
    if isinstance(i, Gemm):
        yield from _of_gemm(i, tokens)
    elif isinstance(i, Load):
        kind = LoadKind(i.kind)
        yield f"LOAD {kind.name}"
        if i.stored:
            yield f"LOAD {kind.name}: stored"
        if kind == LoadKind.PIXELS:
            yield f"LOAD PIXELS: {'several strips' if i.strips > 1 else 'one strip'}"
    elif isinstance(i, Norm):
        yield f"NORM{' plain' if i.plain else ''}: {_tiles(i.tokens, tokens)}"
    elif isinstance(i, Attention):
        yield f"ATTENTION: {'several heads' if i.heads > 1 else 'one head'}"
        keys = _tiles(i.keys, config.array.outputs)
        yield f"ATTENTION: {keys} of keys"
        yield f"ATTENTION: queries, {_tiles(i.queries, tokens)}"
    elif isinstance(i, Store):
        what = "residuals" if i.residual else "activations"
        yield f"STORE of {what}: {_tiles(i.rows, tokens)}"
    elif isinstance(i, Fetch):
        yield f"FETCH{' packed' if i.packed else ''}"
    elif isinstance(i, Sync):
        both = i.wait and i.signal
        yield f"SYNC: {'both' if both else 'takes' if i.wait else 'gives'}"


def _of_gemm(i: Gemm, tokens: int) -> Iterator[str]:
    mode = Destination(i.mode)
    flags = {
        "gather": i.gather,
        "scatter": i.scatter,
        "demand": i.demand,
        "keep": i.keep,
        "lines": i.line,
        "spans": i.span,
        "further columns": i.otile_base,
        "zero point": i.zero_point,
    }
    yield f"GEMM {mode.name}: {_ROWS[i.use_queue]}"
    if not i.use_queue:
        yield f"GEMM {mode.name}: {_tiles(i.tokens, tokens)}"
    yield from (f"GEMM {mode.name}: {name}" for name, value in flags.items() if value)
    if mode == Destination.GATE:
        yield "GEMM GATE: " + ("top 1" if i.top_k == 1 else "top 2" if i.top_k == 2 else "more")
        also = {
            "one expert": i.experts == 1,
            "renormalise": i.renormalise,
            "least score": i.mult,
            "window": i.shift,
        }
        yield from (f"GEMM GATE: {name}" for name, value in also.items() if value)


def _tiles(rows: int, tokens: int) -> str:
    return _TILES[rows > tokens]


def of_outcome(program: Program, entry: str, outcome: Outcome) -> Tally[str]:
    """Points of what the interpreter saw in a frame."""
    found: Tally[str] = Tally()
    config = program.config
    tokens, limit = config.array.tokens, config.limits.routed
    code = program.instructions(entry)
    gates = [i for i in code if isinstance(i, Gemm) and i.mode == Destination.GATE]
    for lengths, gate in zip(outcome.queues, gates, strict=True):
        seen = lengths[gate.shift : gate.shift + gate.experts]
        for n in seen:
            found[f"queue of {_length(n, tokens)}"] += 1
            found["queue of all tokens"] += n == gate.tokens
            found["queue of the limit"] += n == limit
        for i in _experts_gemms(code, gate):
            found[f"GEMM {Destination(i.mode).name}: {_tiles(lengths[i.queue], tokens)}"] += (
                lengths[i.queue] > 0
            )
    found[f"misses: {_few(outcome.misses)}"] += 1
    found[f"empty queues: {'some' if outcome.empty_queues else 'none'}"] += 1
    fetches = sum(isinstance(i, Fetch) for i in code)
    found["FETCH: carried out"] += outcome.misses
    found["FETCH: skipped"] += fetches - outcome.misses
    rows = [(i.weight_rows, i.param_rows) for i in code if isinstance(i, Fetch)]
    if rows and outcome.misses == fetches:
        memory = config.memory
        found["ring of demand weights: wraps"] += sum(w for w, _ in rows) > memory.demand_rows
        found["ring of demand parameters: wraps"] += (
            sum(p for _, p in rows) > memory.demand_param_rows
        )
    return +found


def _experts_gemms(code: list[Instruction], gate: Gemm) -> Iterator[Gemm]:
    """The GEMMs of queues that this gate filled: those up to the next gate."""
    start = next(n for n, i in enumerate(code) if i is gate)
    for i in code[start + 1 :]:
        if isinstance(i, Gemm):
            if i.mode == Destination.GATE:
                return
            if i.use_queue:
                yield i


def _length(n: int, tokens: int) -> str:
    if n <= 1:
        return str(n)
    return "below a tile" if n < tokens else "a tile" if n == tokens else "more"


def _few(n: int) -> str:
    return "none" if n == 0 else "one" if n == 1 else "several"


def of_counters(counters: Counters) -> Tally[str]:
    """Points of a frame's performance counters."""
    values = counters.values
    return Tally(f"counter {c.name}" for c in Counter if values[c])
