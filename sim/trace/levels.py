"""Numbers over time: how full rings and queues are, and the bytes that ports move."""

from __future__ import annotations

from typing import Any

import numpy as np

from moevit.compiler.timeline import Frame, Level
from moevit.hw.control.sequencer import QUEUES
from moevit.hw.interfaces import POINTER_BITS

from .places import RINGS
from .recording import PERIOD, Recording

__all__ = ["levels"]

_RATES = {
    "read_bytes": ("read", "bytes a cycle"),
    "write_bytes": ("written", "bytes a cycle"),
    "read_waits": ("waits for memory", "share of cycles"),
    "read_stalls": ("data waits for the accelerator", "share of cycles"),
}


def _level(name: str, unit: str, times: Any, values: Any) -> Level:
    """Without what says nothing new."""
    changed = np.append(True, values[1:] != values[:-1])[: len(values)]
    return Level(name, unit, times[changed].tolist(), values[changed].tolist())


def levels(recording: Recording, frames: list[Frame], experts: int) -> list[Level]:
    """Queues of instructions at every change, all else every ``PERIOD`` cycles, and rates as their
    mean from there on until the next."""
    start, end = frames[0].start, frames[-1].end
    grid = np.arange(-(-start // PERIOD) * PERIOD, end + PERIOD, PERIOD)
    found = []
    for port in recording.ports:
        for counter, (what, unit) in _RATES.items():
            totals = recording.wave(f"{port}.{counter}").at(grid)
            if not totals.any():
                continue
            rate = (np.diff(totals) % (1 << 32)) / PERIOD
            found.append(_level(f"{port} {what}", unit, grid[:-1], rate))
    for ring, name in RINGS.items():
        filled, released = (recording.wave(f"weights.{ring}_{e}") for e in ("filled", "released"))
        rows = (filled.at(grid) - released.at(grid)) % (1 << POINTER_BITS)
        if rows.any():
            found.append(_level(name, "rows", grid, rows))
    for queue in QUEUES:
        into, out = (recording.fires(f"{queue}_queue.{side}") for side in ("i", "o"))
        times = np.concatenate((into, out + 1))
        steps = np.concatenate((np.ones_like(into), -np.ones_like(out)))
        order = np.argsort(times, kind="stable")
        times, lengths = times[order], np.cumsum(steps[order])
        last = np.append(times[1:] != times[:-1], True)[: len(times)]
        inner = last & (times >= start) & (times <= end)
        if inner.any():
            found.append(_level(f"queue of {queue}", "instructions", times[inner], lengths[inner]))
    for expert in range(experts):
        lengths = recording.wave(f"lengths.{expert}").at(grid)
        if lengths.any():
            found.append(_level(f"queue of expert {expert}", "tokens", grid, lengths))
    return found
