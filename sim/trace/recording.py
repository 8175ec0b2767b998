"""What a device recorded: changes of signals, from which every signal at every cycle is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from moevit.compiler.program import Program
from moevit.hw.watch import Field

from ..counters import Counters
from ..native_library import CHANGE, WATCHED
from .places import EVENTS, LEVELS

__all__ = ["PERIOD", "Recorder", "Recording", "Watchable", "Wave"]

PERIOD = 64
"""Cycles between two looks at levels: ring fill, queue lengths, bytes a port."""

Cycles = np.ndarray[Any, np.dtype[np.int64]]


class Watchable(Protocol):
    """What recording needs of :class:`~..native.NativeSim`."""

    def watch(self, period: int) -> None: ...
    def changes(self) -> Any: ...
    @property
    def port_names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Wave:
    """A number over time: ``values[i]`` from cycle ``times[i]`` on; 0 before."""

    times: Cycles
    values: Cycles

    def at(self, cycles: Any) -> Cycles:
        """The values in some cycles."""
        found = np.searchsorted(self.times, cycles, side="right") - 1
        if not len(self.values):
            return np.zeros(np.shape(cycles), np.int64)
        return np.where(found >= 0, self.values[found], 0)

    def runs(self, end: int) -> tuple[Cycles, Cycles]:
        """First cycle, and the one behind the last, of each run of values other than 0."""
        true = np.concatenate(([0], self.values != 0, [0])).astype(np.int8)
        edges = np.diff(true)
        times = np.append(self.times, end)
        return times[np.flatnonzero(edges == 1)], times[np.flatnonzero(edges == -1)]


@dataclass(kw_only=True, eq=False)
class Recording:
    """One device's frames. ``tasks``: entries of the program in the order of their start."""

    program: Program
    fields: dict[str, list[Field]]
    ports: tuple[str, ...]
    tasks: list[str] = field(default_factory=list)
    counted: list[Counters] = field(default_factory=list)
    _parts: list[Any] = field(default_factory=list)
    _words: dict[int, Wave] = field(default_factory=dict)
    _waves: dict[str, Wave] = field(default_factory=dict)

    def take(self, simulator: Watchable) -> None:
        """Fetches what the simulator has recorded."""
        self._parts.append(simulator.changes())
        self._words.clear()
        self._waves.clear()

    @property
    def end(self) -> int:
        """Behind the last change."""
        return max((int(part["cycle"][-1]) + 1 for part in self._parts if len(part)), default=0)

    def wave(self, name: str) -> Wave:
        """A field of :mod:`.places`, or a port's counter as in ``m_axi_0.read_bytes``."""
        if name not in self._waves:
            word, offset, width = self._place(name)
            whole = self._word(word)
            values = whole.values >> offset & (1 << width) - 1
            changed = np.append(True, values[1:] != values[:-1])[: len(values)]
            self._waves[name] = Wave(whole.times[changed], values[changed])
        return self._waves[name]

    def combine(self, rule: Callable[..., Any], *names: str) -> Wave:
        """``rule`` of the waves' values, element by element."""
        times = self.times(*names)
        values = np.asarray(rule(*(self.wave(name).at(times) for name in names)), np.int64)
        changed = np.append(True, values[1:] != values[:-1])[: len(values)]
        return Wave(times[changed], values[changed])

    def times(self, *names: str) -> Cycles:
        """Cycles in which one of the waves changes."""
        if not names:
            return np.zeros(0, np.int64)
        return np.unique(np.concatenate([self.wave(name).times for name in names]))

    def fires(self, stream: str, *also: str) -> Cycles:
        """The cycles in which a stream's valid and ready are both 1, and ``also`` others are."""
        both = self.combine(
            lambda *values: np.logical_and.reduce(values),
            f"{stream}.valid",
            f"{stream}.ready",
            *also,
        )
        return self.pulses(both)

    def pulses(self, wave: Wave | str) -> Cycles:
        """Every cycle in which a wave is not 0."""
        starts, ends = (self.wave(wave) if isinstance(wave, str) else wave).runs(self.end)
        if not len(starts):
            return np.zeros(0, np.int64)
        return np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])

    def has(self, name: str) -> bool:
        """Whether the accelerator has a field; some depend on its configuration."""
        return any(each.name == name for fields in self.fields.values() for each in fields)

    def _place(self, name: str) -> tuple[int, int, int]:
        """Word, first bit and width of a field."""
        first = 0
        for port in (EVENTS, LEVELS):
            for each in self.fields[port]:
                if each.name == name:
                    return first + each.offset // 32, each.offset % 32, each.width
            last = self.fields[port][-1]
            first += -(-(last.offset + last.width) // 32)
        port, _, counter = name.rpartition(".")
        number = self.ports.index(port) * len(WATCHED) + WATCHED.index(counter)
        return first + number, 0, 32

    def _word(self, word: int) -> Wave:
        if not self._words:
            found = np.concatenate(self._parts) if self._parts else np.empty(0, CHANGE)
            order = np.argsort(found["word"], kind="stable")
            words, starts = np.unique(found["word"][order], return_index=True)
            for number, part in zip(words, np.split(order, starts[1:]), strict=True):
                self._words[int(number)] = Wave(
                    found["cycle"][part].astype(np.int64), found["value"][part].astype(np.int64)
                )
        return self._words.get(word, Wave(np.zeros(0, np.int64), np.zeros(0, np.int64)))


@dataclass(eq=False)
class Recorder:
    """Given to devices, makes them record; one recording for each program that they load."""

    recordings: list[Recording] = field(default_factory=list)

    def start(self, simulator: Any, program: Program, fields: dict[str, list[Field]]) -> Recording:
        """A simulator begins to record."""
        simulator.watch(PERIOD)
        made = Recording(program=program, fields=fields, ports=simulator.port_names)
        self.recordings.append(made)
        return made
