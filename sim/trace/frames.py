"""The frames of a recording, and what its signals add up to in each."""

from __future__ import annotations

import numpy as np

from moevit.compiler.timeline import Frame
from moevit.hw.registers import Counter

from .recording import Recording, Wave

__all__ = ["array_states", "frames"]

_READS = ("rvalid", "rready")


def array_states(recording: Recording) -> dict[Counter, Wave]:
    """What the array does, or why it does nothing: one of these is 1 in each cycle."""
    stall = "array.stall"
    idle = recording.combine(
        lambda stall, loading, waiting: (stall & 1) & (loading == 0) & (waiting == 0),
        stall,
        "loader.busy",
        "compute_queue.o.valid",
    )
    operand = recording.combine(
        lambda stall, loading, waiting: (stall & 1) & ((loading != 0) | (waiting != 0)),
        stall,
        "loader.busy",
        "compute_queue.o.valid",
    )
    bits = {Counter.STALL_WEIGHT: 1, Counter.STALL_DRAIN: 2, Counter.STALL_SOFTMAX: 3}
    return {
        Counter.ARRAY_BUSY: recording.wave("array.step"),
        Counter.STALL_OPERAND: operand,
        Counter.NO_WORK: idle,
        **{
            counter: recording.combine(lambda stall, bit=bit: stall >> bit & 1, stall)
            for counter, bit in bits.items()
        },
    }


def frames(recording: Recording) -> list[Frame]:
    """The frames that ended, in order, each in the cycles that its counters count.

    A counter of the hardware sees in a cycle what happened in the one before, and is read out in
    the cycle in which the frame ends: of frames in a row each begins where the one before ends.
    Before a frame that finds the device idle the engines are reset, and their counters with them.
    """
    ends = np.union1d(recording.pulses("sequencer.done"), recording.pulses("sequencer.failed"))
    begins, idle = recording.wave("sequencer.busy").runs(recording.end)
    counts = _counts(recording)
    found: list[Frame] = []
    for number, end in enumerate((ends - 1).tolist()):
        start = int(begins[np.searchsorted(idle, end, side="right")])
        if number and start <= found[-1].end + 1:
            start = found[-1].end
        counters = {
            counter.name.lower(): sum(_area(wave, start, end) for wave in waves)
            for counter, waves in counts.items()
        }
        counters[Counter.CYCLES.name.lower()] = end - start
        found.append(Frame(task=recording.tasks[number], start=start, end=end, counters=counters))
    return found


def _counts(recording: Recording) -> dict[Counter, list[Wave]]:
    def both(first: str, second: str) -> Wave:
        return recording.combine(lambda a, b: a & b, first, second)

    masters = [
        f"data_engine.axi_r.{n}"
        for n in range(2)
        if recording.has(f"data_engine.axi_r.{n}.{_READS[0]}")
    ]
    return {
        **{counter: [wave] for counter, wave in array_states(recording).items()},
        Counter.NORM_BUSY: [both("norm.o.valid", "norm.o.ready")],
        Counter.GATE_BUSY: [recording.wave("gate.busy")],
        Counter.SOFTMAX_BUSY: [recording.wave("softmax.busy")],
        Counter.DATA_READ_BEATS: [
            both(*(f"{master}.{name}" for name in _READS)) for master in masters
        ],
        Counter.DATA_WRITE_BEATS: [both("store_unit.axi.wvalid", "store_unit.axi.wready")],
        Counter.WEIGHT_BEATS: [recording.wave("weights.beats_read")],
        Counter.DEMAND_BEATS: [recording.wave("weights.demand_read")],
        Counter.MISSES: [recording.wave("weights.misses")],
        Counter.EMPTY_QUEUES: [recording.wave("loader.skipped")],
    }


def _area(wave: Wave, start: int, end: int) -> int:
    """The sum of a wave's values over some cycles."""
    inner = (wave.times > start) & (wave.times < end)
    times = np.concatenate(([start], wave.times[inner], [end]))
    values = np.concatenate((wave.at(np.array([start])), wave.values[inner]))
    return int((values * np.diff(times)).sum())
