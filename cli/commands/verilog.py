"""`moevit verilog`."""

from pathlib import Path
from typing import Annotated

import typer

from moevit.boards import PRIMITIVES
from moevit.boards import platform as board_platform
from moevit.hw.config import preset as hardware_preset

from ..errors import UserError
from ..files import writable
from ..options import DEFAULT_PRESET, Preset
from ..progress import progress

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
    preset: Preset = DEFAULT_PRESET,
    output: Folder = Path("verilog"),
    primitives: Primitives = PRIMITIVES[0],
) -> None:
    """Write the accelerator's Verilog, and its configuration as JSON.

    The JSON holds every size of the build, the hash that programs must carry, and the clocks that
    the Verilog needs.
    """
    config = hardware_preset(preset)
    writable(output, folder=True)
    try:
        platform = board_platform(primitives)
    except ValueError as error:
        raise UserError(f"--primitives: {error}") from None
    with progress("moevit verilog") as report:
        from moevit.hw.verilog import write

        report("generating", 0.0)
        try:
            written = write(config, output, platform)
        except ValueError as error:
            raise UserError(f"--preset {preset}: {error}") from None
    for path in written:
        typer.echo(f"{path}: {path.stat().st_size:,} bytes")
