"""`moevit verify`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moevit.compiler.check import Report
from moevit.errors import UserError
from moevit.programs import load_program

from ..options import Json, Seed

__all__ = ["command"]

File = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="Program of `moevit compile`.", show_default=False),
]
Random = Annotated[
    int | None,
    typer.Option(
        "--random",
        metavar="N",
        min=1,
        help="Instead of a file: N random networks on random accelerators, RTL against "
        "interpreter and golden model, each program proven.",
        show_default=False,
    ),
]
First = Annotated[int, typer.Option(metavar="N", min=0, help="With --random: the first's number.")]
Machines = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="With --random: accelerators, a simulator each.",
        show_default="18",
    ),
]
Jobs = Annotated[
    int,
    typer.Option(metavar="N", min=0, help="With --random: processes; 0: one for each processor."),
]
Record = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="With --random: the record, which a run goes on with; out/verify-SEED.jsonl if not.",
        show_default=False,
    ),
]
One = Annotated[
    str | None,
    typer.Option(
        "--case",
        metavar="JSON",
        help="Instead of a file: one network and accelerator, as a failure of --random prints it.",
        show_default=False,
    ),
]
Coverage = Annotated[
    bool,
    typer.Option(
        "--coverage",
        help="With --random: count with Verilator the lines of the RTL that run; builds take "
        "minutes, and frames several times as long.",
    ),
]
Toggles = Annotated[
    bool, typer.Option("--toggles", help="With --coverage: count the bits that change as well.")
]
Soak = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Instead of a file: N frames on one simulator without a restart, with faults, "
        "aborts and resets between them.",
        show_default=False,
    ),
]


def command(
    file: File = None,
    random: Random = None,
    seed: Seed = 0,
    first: First = 0,
    machines: Machines = None,
    jobs: Jobs = 0,
    output: Record = None,
    case: One = None,
    soak: Soak = None,
    coverage: Coverage = False,
    toggles: Toggles = False,
    as_json: Json = False,
) -> None:
    """Prove a program: no race, no deadlock, every weight used once and in order.

    Reads nothing but the file (docs/verification.md says what is proven, and how). Exit status 1 if
    anything could not be proven. With --random, --case or --soak the accelerator itself is tested,
    and any difference is status 1.
    """
    given = [x is not None for x in (file, random, case, soak)]
    if sum(given) != 1:
        raise UserError("verify: expected one of FILE, --random, --case and --soak")
    if file is not None:
        _prove(file, as_json)
        return
    from .. import campaign

    if coverage and random is None:
        raise UserError("--coverage: only with --random")
    if coverage and random is not None:
        output = output or Path("out") / f"coverage-{seed}.json"
        campaign.coverage(random, seed, first, machines, jobs, output, toggles, as_json)
    elif random is not None:
        output = output or Path("out") / f"verify-{seed}.jsonl"
        campaign.random(random, seed, first, machines, jobs, output, as_json)
    elif case is not None:
        campaign.one(case, as_json)
    elif soak is not None:
        campaign.soak(soak, seed, as_json)


def _prove(file: Path, as_json: bool) -> None:
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
