"""`moevit disasm`."""

from pathlib import Path
from typing import Annotated

import typer

from moevit.programs import load_program

from ..options import ALL_TASKS, Task, chosen_tasks

__all__ = ["command"]

File = Annotated[Path, typer.Argument(metavar="FILE", help="Program of `moevit compile`.")]


def command(file: File, task: Task = ALL_TASKS) -> None:
    """List a program: instructions with their shapes and addresses, and the expert schedule.

    Addresses on the chip are words of their memory (A activations, X residual, KV keys and values),
    addresses in memory are bytes.
    """
    program = load_program(file)
    for line in program.listing(chosen_tasks(task, program.tasks)):
        typer.echo(line)
