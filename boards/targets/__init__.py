"""The boards that a bitstream can be built for: one module each, found by its name.

A module ``boards/targets/<name>.py`` (hyphens become underscores) holds ``BOARD``, a
:class:`~.base.Board` or :class:`~.base.OpenBoard` with all that is the board's own. docs/build.md
says how to add one.
"""

from __future__ import annotations

import importlib
import pkgutil

from .base import Board, MissingFlowError, OpenBoard

__all__ = ["Board", "MissingFlowError", "OpenBoard", "board", "names", "open_board"]

_SHARED = ("base", "processors")
"""Modules of this package that are no boards."""


def names() -> list[str]:
    """All boards by name, those without a flow included."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in found if name not in _SHARED)


def _find(name: str) -> Board | OpenBoard:
    if name not in names():
        raise ValueError(f"Unknown board {name!r}; expected one of {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    found: Board | OpenBoard = module.BOARD
    return found


def board(name: str) -> Board:
    """The board called ``name``, of a vendor's flow.

    Raises
    ------
    ValueError
        If there is none of this name; the message lists those there are.
    MissingFlowError
        If the board is one of the open tools, of which `moevit build` alone knows.
    """
    found = _find(name)
    if isinstance(found, OpenBoard):
        raise MissingFlowError(
            f"Board {name!r}: has no vendor's flow; its resources and clock are in the build.json "
            f"of `moevit build --board {name}`"
        )
    return found


def open_board(name: str) -> OpenBoard | None:
    """The board called ``name`` if it is one of the open tools. ``ValueError`` as of
    :func:`board`."""
    found = _find(name)
    return found if isinstance(found, OpenBoard) else None
