"""Which instruction each unit is on, from the handshakes between the units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moevit.compiler.timeline import Frame, Work
from moevit.hw.codes import Destination
from moevit.hw.isa import Attention, Fetch, Gemm, Instruction, Load, Norm, Store, Sync

from .recording import Cycles, Recording, Wave

__all__ = ["COMPUTE", "inside", "works"]

COMPUTE = (Gemm, Attention, Sync)
"""Instructions of the compute engine."""


def inside(cycles: Cycles, frame: Frame) -> Cycles:
    """Those of a frame."""
    return cycles[(cycles >= frame.start) & (cycles < frame.end)]


def works(
    recording: Recording, frame: Frame, number: int, code: Sequence[Instruction]
) -> dict[str, list[Work]]:
    """For each unit the instructions of a frame, the first of its program at first."""
    r = recording
    compute = _indices(code, *COMPUTE)
    found = {
        "load": _by_head(r, frame, "load_unit.i", _indices(code, Load)),
        "store": _by_head(r, frame, "store_unit.i", _indices(code, Store)),
        "fetch": _by_head(r, frame, "weights.i", _indices(code, Fetch)),
        "norm": _accepted(r, frame, "norm", r.wave("norm.busy"), _indices(code, Norm)),
        "loader": _accepted(
            r, frame, "loader", r.combine(lambda ready: ready == 0, "loader.i.ready"), compute
        ),
        "array": _by_last(r, frame, "array", "array.i.payload.drain.last", compute),
        "epilogue": _by_last(r, frame, "epilogue", "epilogue.i.payload.last", compute),
        **_sides(r, frame, _indices(code, Load)),
    }
    attention = [w for w in found["array"] if isinstance(code[w[2]], Attention)]
    routers = [w for w in found["epilogue"] if _routes(code[w[2]])]
    found["softmax"] = _runs(r, frame, "softmax.busy", attention)
    found["gate"] = _runs(r, frame, "gate.busy", routers)
    return {
        unit: [Work(int(start), int(end), number, int(index)) for start, end, index in spans]
        for unit, spans in found.items()
    }


def _routes(instruction: Instruction) -> bool:
    return isinstance(instruction, Gemm) and instruction.mode == Destination.GATE


def _indices(code: Sequence[Instruction], *kinds: type[Instruction]) -> list[int]:
    return [n for n, each in enumerate(code) if isinstance(each, kinds)]


Spans = list[tuple[Any, Any, int]]


def _spans(what: str, starts: Any, ends: Any, indices: Sequence[int]) -> Spans:
    if not len(starts) == len(ends) == len(indices):
        raise RuntimeError(
            f"The recording has {len(ends)} instructions of the {what}, the program {len(indices)}"
        )
    return list(zip(starts, ends, indices, strict=True))


def _first(wave: Wave, after: Any, end: int) -> Cycles:
    """The first cycle from each of ``after`` on in which a wave is not 0."""
    starts, ends = wave.runs(end)
    cycles: Cycles = np.asarray(after, np.int64)
    if not len(starts):
        return cycles
    at = np.minimum(np.searchsorted(ends, cycles, side="right"), len(starts) - 1)
    found: Cycles = np.maximum(cycles, starts[at])
    return found


def _by_head(r: Recording, frame: Frame, stream: str, indices: Sequence[int]) -> Spans:
    """Instructions that leave their queue when they are done."""
    return _heads(r, frame, stream, inside(r.fires(stream), frame), indices)


def _heads(r: Recording, frame: Frame, stream: str, done: Cycles, indices: Sequence[int]) -> Spans:
    ends = done + 1
    starts = _first(r.wave(f"{stream}.valid"), np.append(frame.start, ends[:-1]), r.end)
    return _spans(stream, starts[: len(ends)], ends, indices)


def _by_last(r: Recording, frame: Frame, unit: str, last: str, indices: Sequence[int]) -> Spans:
    """Instructions that end with their last descriptor, and what it left to do."""
    done = inside(r.fires(f"{unit}.i", last), frame)
    ends = done + 1
    if unit == "array":
        ends = _first(r.combine(lambda pending: pending == 0, "array.pending"), ends, r.end)
    starts = _first(r.wave(f"{unit}.i.valid"), np.append(frame.start, ends[:-1]), r.end)
    return _spans(unit, starts[: len(ends)], ends, indices)


def _accepted(r: Recording, frame: Frame, unit: str, busy: Wave, indices: Sequence[int]) -> Spans:
    """Instructions that leave their queue when they begin."""
    starts = inside(r.fires(f"{unit}.i"), frame)
    free = Wave(busy.times, (busy.values == 0).astype(np.int64))
    return _spans(unit, starts, _first(free, starts + 1, r.end), indices)


def _sides(r: Recording, frame: Frame, indices: Sequence[int]) -> dict[str, Spans]:
    """LOADs once they have been asked for, on the side that writes them."""
    handed = inside(r.fires("order.i"), frame)
    sides = r.wave("order.i.payload").at(handed)
    found = {}
    for n in range(2):
        stream = f"handed_{n}.o"
        if r.has(f"{stream}.valid"):
            mine = [i for i, side in zip(indices, sides, strict=True) if side == n]
            found[f"load side {n}"] = _heads(r, frame, stream, inside(r.fires(stream), frame), mine)
    return found


def _runs(r: Recording, frame: Frame, busy: str, owners: Spans) -> Spans:
    """A unit's busy stretches belong to the last of ``owners`` that has begun."""
    starts, ends = r.wave(busy).runs(r.end)
    begun = np.array([start for start, _, _ in owners], np.int64)
    found: Spans = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if not frame.start <= start < frame.end or not len(begun):
            continue
        owner = max(int(np.searchsorted(begun, start, side="right")) - 1, 0)
        found.append((start, end, owners[owner][2]))
    return found
