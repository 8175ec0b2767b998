"""What a training shows while it runs."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Watch"]


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class Watch:
    """Shows a training to people, to programs or to no one.

    ``how`` is ``people``: on standard error a bar with loss, learning rate and the time that is
    left, or where that is no terminal, a line for each entry of the log; ``json``: each entry of
    the log as a line of JSON on standard output; or ``none``.
    """

    def __init__(self, how: str) -> None:
        self._how = how
        console = Console(stderr=True)
        self._lines = how == "people" and not console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=how != "people" or self._lines,
        )
        self._name, self._total = "", 0
        self._first, self._began = 0, 0.0

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, name: str, step: int, total: int) -> None:
        """``step`` of ``total`` steps of the model ``name`` are done."""
        self._name, self._total = name, total
        self._first, self._began = step, time.monotonic()
        self._task = self._bar.add_task(f"Training {name}", total=total, completed=step, figures="")

    def step(self, step: int, report: dict[str, float]) -> None:
        """A step is done."""
        figures = f"loss {report['total']:.4g}  lr {report['rate']:.2e}"
        self._bar.update(
            self._task,
            completed=step,
            figures=figures,
            description=f"Training {self._name}",
        )

    def validating(self, done: int, count: int) -> None:
        """``done`` of at most ``count`` images are scored."""
        self._bar.update(self._task, description=f"Validating {done}/{count}")

    def record(self, record: dict[str, Any]) -> None:
        """There is a new entry in the log."""
        if self._how == "json":
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()
        elif self._lines:
            sys.stderr.write(self._line(record) + "\n")

    def _line(self, record: dict[str, Any]) -> str:
        step = record["step"]
        if "validation" in record:
            scores = (
                f"{task} " + " ".join(f"{name} {value}" for name, value in metrics.items())
                for task, metrics in record["validation"].items()
            )
            return f"step {step}/{self._total}: validation: {'; '.join(scores)}"
        each = (time.monotonic() - self._began) / max(step - self._first, 1)
        return (
            f"step {step}/{self._total}: loss {record['total']:.4g}, lr {record['rate']:.2e}, "
            f"{_left(each * (self._total - step))} left"
        )
