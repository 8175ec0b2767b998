"""`moevit resources`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moevit.boards import platform
from moevit.boards.targets import board as find_board
from moevit.hw.config import preset as hardware_preset

from ..errors import UserError
from ..files import write_text
from ..options import Json, Preset
from ..progress import progress

__all__ = ["command"]

Jobs = Annotated[int, typer.Option(metavar="N", min=1, help="Blocks synthesised at a time.")]
Docs = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Markdown page to write instead.", show_default=False),
]


Board = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Board whose part and multipliers count; the ZCU104 if not given.",
        show_default=False,
    ),
]


def command(
    preset: Preset = "zcu104",
    board: Board = None,
    jobs: Jobs = 2,
    docs: Docs = None,
    as_json: Json = False,
) -> None:
    """Count what the accelerator takes of its board, and its longest paths.

    Yosys maps the real top to the part's primitives, block by block: LUT, FF, DSP, block and ultra
    RAM against the board and the budget, and levels of logic by rules of thumb. It takes minutes,
    but only for blocks that have changed since. All of it is an estimate before place and route.
    """
    if docs is not None and docs.is_dir():
        raise UserError(f"{docs}: is a folder; expected the name of a file")
    config = hardware_preset(preset)
    target = None if board is None else find_board(board)
    with progress("moevit resources", quiet=as_json) as tell:
        from moevit.boards.resources import report

        if target is None:
            found = report(config, jobs=jobs, progress=tell)
        else:
            config = config.but(clock_mhz=min(config.clock_mhz, target.clock_mhz))
            multipliers = platform(target.primitives)
            found = report(config, on=target.part, platform=multipliers, jobs=jobs, progress=tell)
    if docs is not None:
        from moevit.boards.page import page

        write_text(docs, page(found))
        if not as_json:
            typer.echo(f"page: {docs}")
            return
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    from moevit.boards.page import figures, levels

    console = Console()
    for title, rows in (
        (f"preset {found.config.name} on {found.part.device}{found.part.speed}", figures(found)),
        (f"longest paths at {found.config.clock_mhz:g} MHz, estimated", levels(found)),
    ):
        table = Table(title=title, title_justify="left")
        for column, heading in enumerate(rows[0]):
            table.add_column(heading, justify="right" if 0 < column < 6 else "left")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    if found.over:
        typer.echo(f"over the budget: {', '.join(found.over)}")
