"""`moevit verilog`."""

from pathlib import Path
from typing import Annotated

import typer

from moevit.boards import PRIMITIVES
from moevit.errors import UserError
from moevit.files import writable
from moevit.hardware import write_verilog

from ..options import Config, Preset
from ..progress import progress
from ..workload import hardware

__all__ = ["command"]

Folder = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the two files.")
]
Primitives = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What the array's multipliers are made of: none (plain Verilog, as simulated), "
        "dsp48e2 (slices of UltraScale+ devices, two products each) or dsp48e2x2 (the same at "
        "twice the clock, four products each).",
    ),
]


def command(
    preset: Preset = None,
    config: Config = None,
    output: Folder = Path("verilog"),
    primitives: Primitives = PRIMITIVES[0],
) -> None:
    """Write the accelerator's Verilog, and its configuration as JSON.

    The JSON holds every size of the build, the hash that programs must carry, and the clocks that
    the Verilog needs.
    """
    chosen = hardware(preset, config)
    writable(output, folder=True)
    if primitives not in PRIMITIVES:
        known = ", ".join(PRIMITIVES)
        raise UserError(f"--primitives: Unknown primitives {primitives!r}; expected one of {known}")
    with progress("moevit verilog") as report:
        written = write_verilog(output, chosen, primitives=primitives, report=report)
    for path in written:
        typer.echo(f"{path}: {path.stat().st_size:,} bytes")
