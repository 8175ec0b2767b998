"""Names of tasks, as an argument and as the value of an option."""

from __future__ import annotations

from collections.abc import Sequence

from moevit.quant.errors import UserError

__all__ = ["ALL_TASKS", "selected"]

ALL_TASKS = "all"


def selected(
    given: str | Sequence[str], available: Sequence[str], where: str = "tasks"
) -> list[str]:
    """The tasks that `given` names, each once, in its order: "all", names with commas, or a list.

    Raises
    ------
    UserError
        For a task that is not `available`, or none; `where` says what was wrong.
    """
    if given == ALL_TASKS:
        return list(available)
    parts = given.split(",") if isinstance(given, str) else list(given)
    names = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    for name in names or [given if isinstance(given, str) else ""]:
        if name not in available:
            raise UserError(
                f"{where}: unknown task {name!r}; expected {', '.join([*available, ALL_TASKS])}"
            )
    return names
