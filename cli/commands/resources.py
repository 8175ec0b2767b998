"""`moevit resources`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moevit.errors import UserError
from moevit.files import write_text
from moevit.hardware import resources

from ..options import Config, Json
from ..progress import progress
from ..workload import hardware

__all__ = ["command"]

_PRESET = "zcu104"

Jobs = Annotated[int, typer.Option(metavar="N", min=1, help="Blocks synthesised at a time.")]
Docs = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Markdown page to write instead.", show_default=False),
]


Board = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="Hardware preset.", show_default=_PRESET),
]


def command(
    preset: Board = None,
    config: Config = None,
    jobs: Jobs = 2,
    docs: Docs = None,
    as_json: Json = False,
) -> None:
    """Count what the accelerator takes of its board, and its longest paths.

    Yosys maps the real top to UltraScale+, block by block: LUT, FF, DSP, block and ultra RAM
    against the board and the budget, levels of logic by rules of thumb, and the nets that drive
    most. It takes minutes, but only for blocks that have changed since. All of it is an estimate
    before place and route.
    """
    if docs is not None and docs.is_dir():
        raise UserError(f"{docs}: is a folder; expected the name of a file")
    chosen = hardware(preset, config, _PRESET)
    with progress("moevit resources", quiet=as_json) as report:
        found = resources(chosen, jobs=jobs, report=report)
    if docs is not None:
        from moevit.boards.page import page

        write_text(docs, page(found))
        if not as_json:
            typer.echo(f"page: {docs}")
            return
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    from moevit.boards.page import fan_out, figures, levels

    console = Console()
    for title, rows in (
        (f"preset {found.config.name} on {found.part.device}{found.part.speed}", figures(found)),
        (f"longest paths at {found.config.clock_mhz:g} MHz, estimated", levels(found)),
        ("nets of highest fan-out", fan_out(found)),
    ):
        table = Table(title=title, title_justify="left")
        for column, heading in enumerate(rows[0]):
            number = rows[-1][column][:1] in "+-0123456789"
            table.add_column(heading, justify="right" if number else "left")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    if found.over:
        typer.echo(f"over the budget: {', '.join(found.over)}")
