# amaranth: UnusedElaboratable=no
"""What the cycle model knows of the hardware: latencies and the speed of the memory.

Every constant of the model is here, in cycles. Units in ``hw/`` that state their latency are asked
for it; the others were read from their state machines and checked against the verilated hardware.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig

__all__ = ["Latencies", "MemorySpeed", "Timing", "pixel_cycles"]


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Cycles from one event to the next."""

    start: int = 10
    """START to the header's read address"""
    code: int = 12
    """header to the first instruction, beside one read"""
    halt: int = 18
    """the last engine's idle to DONE"""
    queue: int = 2
    """dispatch of an instruction to its engine's first look at it"""
    credit: int = 3
    """a credit given to its taker's next step"""
    loader_start: int = 6
    """an instruction to its first operand word"""
    loader_tile: int = 3
    """between the tiles of an instruction"""
    loader_row: int = 3
    """the least for a row: its token is looked up"""
    loader_done: int = 3
    """last operand word to the array's first step"""
    array: int
    """last step of a tile to the finished tile"""
    epilogue: int
    """row of sums to its write and credit"""
    weight_row: int = 5
    """last beat of a row to its first use"""
    release: int = 3
    """a released row to the port's next beat into its place"""
    norm_start: int = 4
    """an instruction to its first read"""
    norm: int
    """last word of a token read to its first word written"""
    softmax_in: int = 8
    """last key tile taken to the first exponential"""
    softmax: int
    """last key tile taken to the weights in the array's reach, beside the exponentials"""
    softmax_scale: int = 14
    """weights in the array's reach to their rows' scales in the epilogue"""
    gate: int
    """a token's last logits to its place in the queues"""
    load: int = 8
    """LOAD taken to its first address, and last write to its credit"""
    store: int = 8
    """first word read to the first write beat"""
    fetch: int = 8
    """FETCH taken to its first address"""

    @classmethod
    def of(cls, config: AcceleratorConfig) -> Self:
        """Latencies of a build."""
        # These import Amaranth.
        from moevit.hw.compute import dot, epilogue, gate, norm, softmax
        from moevit.hw.control import semaphore

        units = cls(
            array=4 + dot.Pipeline(inputs=config.array.inputs).latency,
            epilogue=epilogue.Epilogue.latency + semaphore.Semaphores.latency,
            norm=0,
            softmax=softmax.Softmax(config).latency,
            gate=gate.Gate(config).latency,
        )
        return replace(units, norm=norm.NormEngine(config).latency(0) - units.norm_start)


class Timing(Protocol):
    """The memory behind the ports, as ``moevit.sim.memory_timing.MemoryTiming`` describes it."""

    @property
    def bytes_per_cycle(self) -> float: ...
    @property
    def read_latency(self) -> int: ...
    @property
    def write_latency(self) -> int: ...
    @property
    def refresh_period(self) -> int: ...
    @property
    def refresh_cycles(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class MemorySpeed:
    """Cycles of reads at the rate that ports and memory allow, refresh included on average."""

    latency: int
    write_latency: int
    beat: float
    """cycles of a beat of data alone"""
    weight_beat: float
    """cycles of a beat on every weight port, all at work"""
    shared_beat: float
    """cycles of a beat of data while weights come through all ports"""
    pixel_beat: float
    """cycles of a beat of pixels while weights leave the first and the last port to them"""

    @classmethod
    def of(cls, config: AcceleratorConfig, timing: Timing) -> MemorySpeed:
        """Speed of ``timing`` for a configuration's ports."""
        stretch = 1.0
        if timing.refresh_period:
            stretch = timing.refresh_period / (timing.refresh_period - timing.refresh_cycles)
        beat = max(1.0, BEAT_BYTES / timing.bytes_per_cycle)
        together = max(1.0, config.memory.ports * BEAT_BYTES / timing.bytes_per_cycle)
        fewer = max(1.0, (config.memory.ports - 1) * BEAT_BYTES / timing.bytes_per_cycle)
        every = max(1.0, (config.memory.ports + 1) * BEAT_BYTES / timing.bytes_per_cycle)
        return cls(
            latency=timing.read_latency,
            write_latency=timing.write_latency,
            beat=beat * stretch,
            weight_beat=together * stretch,
            shared_beat=every * stretch,
            pixel_beat=(fewer if config.memory.ports > 2 else every) * stretch,
        )


def pixel_cycles(config: AcceleratorConfig, patches: int, patch_bytes: int, row: int) -> int:
    """Cycles to unpack pixel row ``row`` of a strip: as ``hw/transfer/pixels.py`` cuts it up."""
    word = config.array.inputs
    cycles, at = 1, 0  # position in the pixel row
    for _ in range(patches):
        left, place = patch_bytes, row * patch_bytes
        while left:
            size = min(left, BEAT_BYTES - at % BEAT_BYTES, word - place % word)
            left, at, place, cycles = left - size, at + size, place + size, cycles + 1
    return cycles
