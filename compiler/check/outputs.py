"""Results: every byte that a caller reads has been stored when the frame ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.isa import Store

from ..program import Output, Program, TaskProgram
from .accesses import Memory, accesses
from .findings import Finding
from .steps import Step

__all__ = ["check_outputs"]


def check_outputs(
    config: AcceleratorConfig, steps: Sequence[Step], program: Program, name: str
) -> Iterator[Finding]:
    """Beats of an entry's results that no STORE writes."""
    entry = program.entry(name)
    outputs = {name: entry.output} if isinstance(entry, TaskProgram) else entry.outputs
    stored = np.zeros(-(-program.output_bytes // BEAT_BYTES), bool)
    for step in steps:
        if isinstance(step.instruction, Store):
            for access in accesses(config, step):
                if access.memory is Memory.OUTPUT:
                    stored[access.words] = True
    for task, output in outputs.items():
        beats = _beats(output)
        missing = beats[~stored[beats]]
        if len(missing):
            low, high = int(missing.min()), int(missing.max())
            yield Finding(
                kind="output",
                message=f"{len(missing)} of {len(beats)} beats of the result of {task!r} are not "
                f"stored, among them output[{low}..{high}]",
                memory=Memory.OUTPUT.value,
                words=(low, high),
            )


def _beats(output: Output) -> np.ndarray:
    """Beats of 16 bytes that hold a result."""
    row = output.columns * output.item_bytes
    first = (output.address + np.arange(output.rows) * output.pitch) // BEAT_BYTES
    return np.unique(first[:, None] + np.arange(-(-row // BEAT_BYTES)))
