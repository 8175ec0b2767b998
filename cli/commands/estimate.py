"""`moevit estimate`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moevit.cli.errors import UserError
from moevit.cli.files import readable
from moevit.cli.options import (
    ALL_TASKS,
    DEFAULT_PRESET,
    DEFAULT_SIZE,
    Experts,
    Json,
    Method,
    Model,
    Preset,
    Size,
    Task,
    chosen_tasks,
)
from moevit.cli.progress import Report, progress
from moevit.cli.workload import Workload
from moevit.compiler import Program
from moevit.compiler.estimate import estimate
from moevit.hw.config import preset as hardware_preset
from moevit.sim.rtl import board_memory

__all__ = ["command"]

File = Annotated[
    Path | None,
    typer.Option(
        "--program",
        metavar="FILE",
        help="Program of `moevit compile` instead of a model.",
        show_default=False,
    ),
]


def command(
    size: Size = DEFAULT_SIZE,
    model: Model = None,
    experts: Experts = None,
    method: Method = None,
    preset: Preset = DEFAULT_PRESET,
    task: Task = ALL_TASKS,
    program: File = None,
    as_json: Json = False,
) -> None:
    """Predict cycles, utilisation and bytes of a program, without simulating it.

    Tokens go to experts as in calibration; memory is the board's DDR4. Cycles of an engine are
    those in which it works. With several tasks the figures of --json are those of all together,
    and `tasks` has each.
    """
    with progress("moevit estimate", quiet=as_json) as report:
        compiled = _program(size, model, preset, experts, method, program, report)
        tasks = chosen_tasks(task, list(compiled.tasks))
        timing = board_memory(compiled.config)
        found = {name: estimate(compiled, name, timing) for name in tasks}
    if as_json:
        cycles = sum(e.cycles for e in found.values())
        macs = sum(compiled.task(name).useful_macs for name in tasks)
        engines = {engine for e in found.values() for engine in e.by_engine}
        total = {
            "cycles": cycles,
            "mac_utilisation": macs / (cycles * compiled.config.array.macs),
            "bytes_read": sum(e.bytes_read for e in found.values()),
            "by_engine": {
                name: sum(e.by_engine.get(name, 0) for e in found.values())
                for name in sorted(engines)
            },
            "tasks": {name: e.to_dict() for name, e in found.items()},
        }
        typer.echo(json.dumps(total, indent=2))
        return
    clock = compiled.config.clock_mhz
    table = Table(
        title=f"estimate for preset {compiled.config.name}",
        caption=f"ms at the target clock of {clock:g} MHz",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("task")
    for heading in ("cycles", "ms", "MAC util.", "bytes read"):
        table.add_column(heading, justify="right")
    for name, e in found.items():
        ms = e.cycles / clock / 1e3
        table.add_row(
            name, f"{e.cycles:,}", f"{ms:.3f}", f"{e.mac_utilisation:.1%}", f"{e.bytes_read:,}"
        )
    Console().print(table)


def _program(
    size: str,
    model: Path | None,
    preset: str,
    experts: str | None,
    method: str | None,
    file: Path | None,
    report: Report,
) -> Program:
    if file is None:
        return Workload(
            size=size, model=model, preset=preset, experts=experts, method=method, report=report
        ).program
    for option, value in (("--model", model), ("--experts", experts), ("--method", method)):
        if value is not None:
            raise UserError(f"--program: cannot be given together with {option}")
    hardware_preset(preset)
    return Program.load(readable(file, "a program of `moevit compile`"))
