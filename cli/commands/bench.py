"""`moevit bench`."""

from pathlib import Path
from typing import Annotated

import typer

from moevit.cli.files import write_json, write_text
from moevit.cli.options import DEFAULT_SIZE, Model, Size
from moevit.cli.progress import progress

__all__ = ["command"]

Presets = Annotated[
    str, typer.Option(metavar="NAMES", help="Hardware presets, separated by commas.")
]
Images = Annotated[int, typer.Option(metavar="N", min=1, help="Test scenes on each preset's RTL.")]
Validation = Annotated[
    int, typer.Option(metavar="N", min=1, help="Validation scenes for the accuracy.")
]
Results = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Results (JSON).")]
Docs = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Markdown page whose marked part gets the tables, if any."),
]


def command(
    presets: Presets = "default,zcu104",
    size: Size = DEFAULT_SIZE,
    model: Model = None,
    images: Images = 4,
    validation: Validation = 500,
    output: Results = Path("bench/results.json"),
    docs: Docs = Path("docs/benchmarks.md"),
) -> None:
    """Measure everything that the documentation quotes.

    Cycles, utilisation, stalls and bytes of each task on each preset's RTL, the estimate beside
    them, simulated cycles a second, wall time of each stage, and accuracy in float and integer.
    Takes some minutes, more where simulators have to be built.
    """
    with progress("moevit bench") as report:
        from moevit.cli.benchmark import check_presets, insert, measure, tables

        names = check_presets(presets)
        if docs.exists():
            insert(docs, "")  # whether it can be done: before all the work, not after
        found = measure(
            size=size,
            model=model,
            presets=names,
            images=images,
            validation=validation,
            report=report,
        )
    write_json(output, found)
    typer.echo(f"results: {output}")
    if docs.exists():
        write_text(docs, insert(docs, tables(found)))
        typer.echo(f"tables: {docs}")
