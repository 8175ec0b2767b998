"""`moevit disasm`."""

from pathlib import Path
from typing import Annotated

import typer

from moevit.compiler import Program
from moevit.compiler.disasm import disassemble

from ..files import readable
from ..options import ALL_TASKS, Task, chosen_tasks

__all__ = ["command"]

File = Annotated[Path, typer.Argument(metavar="FILE", help="Program of `moevit compile`.")]


def command(file: File, task: Task = ALL_TASKS) -> None:
    """List a program: instructions with their shapes and addresses, and the expert schedule.

    Addresses on the chip are words of their memory (A activations, X residual, KV keys and values),
    addresses in memory are bytes.
    """
    program = Program.load(readable(file, "a program of `moevit compile`"))
    for line in disassemble(program, chosen_tasks(task, list(program.tasks))):
        typer.echo(line)
