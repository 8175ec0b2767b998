"""Timelines of what the accelerator does, and their files for Perfetto's viewer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from moevit.compiler.cost.timeline import estimated_timeline
from moevit.compiler.timeline import Timeline
from moevit.sim.trace.recording import Recorder

from .files import write_bytes

__all__ = ["Recorder", "Timeline", "save_trace", "timelines"]


def timelines(recorder: Recorder) -> list[Timeline]:
    """What each recorded device did, and behind it what the cycle model expects of those frames.

    Every expected frame begins where the real one did, or where the expected one before it ends.
    """
    from moevit.sim.rtl import board_memory
    from moevit.sim.trace.build import timeline

    found = []
    for number, recording in enumerate(recorder.recordings):
        which = f" {number + 1}" if number else ""
        real = timeline(recording, f"RTL{which}")
        expected = estimated_timeline(
            recording.program,
            [frame.task for frame in real.frames],
            board_memory(recording.program.config),
            starts=[frame.start for frame in real.frames],
            title=f"estimate{which}",
        )
        found += [real, expected]
    return found


def save_trace(path: str | os.PathLike[str], timelines: Sequence[Timeline]) -> None:
    """Writes a trace that Perfetto's viewer opens, whole or not at all."""
    from moevit.sim.trace.perfetto import encode

    write_bytes(Path(path), encode(timelines))
