"""The table of timm's names in docs/importing.md: which are imported, and why the others are not.

``python -m moevit.model.importers.timm_table`` prints it; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterable

from .timm_support import FAMILIES, state_of

# isort: split
import timm

__all__ = ["names", "rows", "table"]


def names() -> list[str]:
    """timm's names of the families that we look at, in order."""
    return [name for name in timm.list_models() if name.startswith(FAMILIES)]


def rows(chosen: Iterable[str]) -> list[str]:
    """A line of the table for each name."""
    lines = []
    for name in chosen:
        good, text = state_of(name)
        lines.append(f"| `{name}` | {'yes' if good else 'no'} | {text} |")
    return lines


def table() -> str:
    """The whole table, with how many of how many are imported."""
    lines = rows(names())
    good = sum("| yes |" in line for line in lines)
    head = f"{good} of the {len(lines)} names of timm {timm.__version__}:"
    return "\n".join(
        [head, "", "| name | imported | result, or why not |", "|---|---|---|", *lines]
    )


if __name__ == "__main__":
    print(table())  # noqa: T201
