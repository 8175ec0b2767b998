"""What a frame cost: the performance counters, and the figures that reports draw from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.registers import Counter

__all__ = ["STALLS", "Counters", "Performance", "performance"]

STALLS = (
    Counter.STALL_OPERAND,
    Counter.STALL_WEIGHT,
    Counter.STALL_DRAIN,
    Counter.STALL_SOFTMAX,
    Counter.NO_WORK,
)
"""Why the array did not multiply; with ARRAY_BUSY they divide the cycles of a frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The counters after one frame.

    ``values``: every :class:`~moevit.hw.registers.Counter`. ``expert_tokens[e]``: tokens sent to
    expert
    ``e`` in all layers together. ``seconds``: wall time, of the simulation or of the board.
    """

    values: Mapping[Counter, int]
    expert_tokens: tuple[int, ...]
    seconds: float

    @property
    def cycles(self) -> int:
        """From START to done."""
        return self.values[Counter.CYCLES]

    @property
    def bytes_read(self) -> int:
        """From memory, all ports."""
        beats = self.values[Counter.DATA_READ_BEATS] + self.values[Counter.WEIGHT_BEATS]
        return beats * BEAT_BYTES

    @property
    def bytes_written(self) -> int:
        """To memory."""
        return self.values[Counter.DATA_WRITE_BEATS] * BEAT_BYTES

    @property
    def cycles_per_second(self) -> float:
        """Cycles a second of wall time; 0 where no time was measured."""
        return self.cycles / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: counters by lower-case name, and ``expert_tokens``."""
        values: dict[str, Any] = {c.name.lower(): v for c, v in self.values.items()}
        return {**values, "expert_tokens": list(self.expert_tokens)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """One frame in a reader's units.

    ``ms`` and ``fps`` are at the configuration's target clock. ``mac_utilisation``: the network's
    own products over what the array could have done; padding does not count.
    """

    cycles: int
    ms: float
    fps: float
    mac_utilisation: float
    bytes_read: int
    simulated_cycles_per_s: float


def performance(counters: Counters, config: AcceleratorConfig, useful_macs: int) -> Performance:
    """The figures of one frame of a task with ``useful_macs`` products."""
    seconds = counters.cycles / (config.clock_mhz * 1e6)
    return Performance(
        cycles=counters.cycles,
        ms=1e3 * seconds,
        fps=1 / seconds if seconds else 0.0,
        mac_utilisation=useful_macs / max(counters.cycles * config.array.macs, 1),
        bytes_read=counters.bytes_read,
        simulated_cycles_per_s=counters.cycles_per_second,
    )
