"""Progress on standard error, for whatever takes longer than a moment."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from moevit.quant.typing import Report, silent

from .console import plain_console

__all__ = ["Report", "progress"]


#: A log or a pipe is told of what is done only after so long.
_PATIENCE_S = 2.0


@contextlib.contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Report]:
    """A bar on standard error while the block runs, gone when it ends.

    The block calls the report that it gets; if it never does, no bar appears. Where standard error
    is no terminal (a log, a pipe) each new text is a line instead, once the block has run for a
    while. `quiet` shows nothing.
    """
    console = plain_console(stderr=True)
    if quiet:
        yield silent
        return
    if not console.is_terminal:
        yield _lines(console, what)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(what, total=1.0)

    def report(text: str, share: float) -> None:
        bar.update(task, description=f"{what}: {text}" if text else what, completed=share)
        bar.start()

    try:
        yield report
    finally:
        bar.stop()


def _lines(console: Console, what: str) -> Report:
    last = ""
    began = time.monotonic()

    def report(text: str, share: float) -> None:
        nonlocal last
        if time.monotonic() - began < _PATIENCE_S:
            return
        # Counters such as (3/17) change too often to be lines of a log.
        heading = text.split(" (", 1)[0]
        if heading and heading != last:
            console.print(f"{what}: {heading}", highlight=False)
        last = heading or last

    return report
