"""The boards that a bitstream can be built for: one module each, found by its name.

A module ``boards/targets/<name>.py`` (hyphens become underscores) holds ``BOARD``, a
:class:`~.base.Board` with all that is the board's own. docs/build.md says how to add one.
"""

from __future__ import annotations

import importlib
import pkgutil

from .base import Board, MissingFlowError

__all__ = ["Board", "MissingFlowError", "board", "names"]

_SHARED = ("base", "processors")
"""Modules of this package that are no boards."""


def names() -> list[str]:
    """All boards by name, those without a flow included."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in found if name not in _SHARED)


def board(name: str) -> Board:
    """The board called ``name``.

    Raises
    ------
    ValueError
        If there is none of this name; the message lists those there are.
    MissingFlowError
        If the board is known but its bitstream cannot be built yet.
    """
    if name not in names():
        raise ValueError(f"Unknown board {name!r}; expected one of {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    found: Board | str = module.BOARD
    if isinstance(found, str):
        raise MissingFlowError(f"Board {name!r}: {found}")
    return found
