"""The accelerator itself: its Verilog, and what it takes of a board."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from moevit.quant.typing import Report, silent

from .configurations import DEFAULT_PRESET, PresetLike, configuration
from .errors import documented
from .files import writable

if TYPE_CHECKING:
    from moevit.boards.resources import Report as Resources

__all__ = ["resources", "write_verilog"]


def write_verilog(
    folder: str | os.PathLike[str],
    preset: PresetLike = DEFAULT_PRESET,
    *,
    primitives: str = "none",
    report: Report = silent,
) -> list[Path]:
    """Writes the accelerator's Verilog and its configuration as JSON; returns both files.

    `primitives` are what the multipliers are made of: "none" (plain Verilog, as simulated),
    "dsp48e2" or "dsp48e2x2", whose slices run at twice the clock.

    Raises
    ------
    UserError
        For an unknown preset or primitives.
    """
    from moevit.boards import platform
    from moevit.hw.verilog import write

    config, place = configuration(preset), Path(folder)
    writable(place, folder=True)
    with documented():
        board = platform(primitives)
        report("generating", 0.0)
        return write(config, place, board)


def resources(
    preset: PresetLike = "zcu104", *, jobs: int = 2, report: Report = silent
) -> Resources:
    """LUT, FF, DSP, RAM and levels of logic by Yosys, `jobs` blocks at a time; takes minutes.

    An estimate before place and route.
    """
    from moevit.boards.resources import report as synthesise

    config = configuration(preset)
    with documented():
        return synthesise(config, jobs=jobs, progress=report)
