"""`moevit verify`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moevit.compiler.check import Report
from moevit.programs import load_program

from ..options import Json

__all__ = ["command"]

File = Annotated[Path, typer.Argument(metavar="FILE", help="Program of `moevit compile`.")]


def command(file: File, as_json: Json = False) -> None:
    """Prove a program: no race, no deadlock, every weight used once and in order.

    Reads nothing but the file (docs/verification.md says what is proven, and how). Exit status 1 if
    anything could not be proven.
    """
    report = load_program(file).proof()
    if as_json:
        typer.echo(json.dumps(_as_data(file, report), indent=2))
    else:
        for entry in report.entries:
            size = f"{entry.instructions} instructions, {entry.operations} operations"
            typer.echo(f"{entry.name}: {'not proven' if entry.findings else 'proven'} ({size})")
            for finding in entry.findings:
                typer.echo(f"  {finding.kind}: {finding.message}")
    report.require(str(file))


def _as_data(file: Path, report: Report) -> dict[str, Any]:
    return {
        "program": str(file),
        "proven": report.proven,
        "entries": [
            {
                "name": entry.name,
                "instructions": entry.instructions,
                "operations": entry.operations,
                "findings": [
                    {
                        "kind": f.kind,
                        "message": f.message,
                        "instructions": list(f.instructions),
                        "memory": f.memory or None,
                        "words": list(f.words) if f.words else None,
                    }
                    for f in entry.findings
                ],
            }
            for entry in report.entries
        ],
    }
