"""`moevit verilog`."""

from pathlib import Path
from typing import Annotated

import typer

from moevit.boards import PRIMITIVES
from moevit.boards import platform as board_platform
from moevit.errors import UserError
from moevit.files import writable

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
        help="What the array's multipliers are made of: none (plain Verilog, as simulated) or "
        "dsp48e2 (slices of UltraScale+ devices, two products each).",
    ),
]


def command(
    preset: Preset = None,
    config: Config = None,
    output: Folder = Path("verilog"),
    primitives: Primitives = PRIMITIVES[0],
) -> None:
    """Write the accelerator's Verilog, and its configuration as JSON.

    The JSON holds every size of the build and the hash that programs must carry.
    """
    chosen = hardware(preset, config)
    writable(output, folder=True)
    try:
        platform = board_platform(primitives)
    except ValueError as error:
        raise UserError(f"--primitives: {error}") from None
    with progress("moevit verilog") as report:
        from moevit.hw.verilog import write

        report("generating", 0.0)
        written = write(chosen, output, platform)
    for path in written:
        typer.echo(f"{path}: {path.stat().st_size:,} bytes")
