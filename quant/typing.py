"""The types that every layer shares: arrays, and who is told of progress.

An array's alias says its type of number; shapes and ranges are told where one is used. `Ints`
and `Floats` leave the width to the reader of the docstring: most operators take several.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = [
    "Array",
    "Bytes",
    "Floats",
    "Floats32",
    "Floats64",
    "Ints",
    "Ints64",
    "Report",
    "part_of",
    "silent",
]

Array = np.ndarray[Any, np.dtype[Any]]
Ints = np.ndarray[Any, np.dtype[Any]]
Floats = np.ndarray[Any, np.dtype[Any]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Ints64 = np.ndarray[Any, np.dtype[np.int64]]
Floats32 = np.ndarray[Any, np.dtype[np.float32]]
Floats64 = np.ndarray[Any, np.dtype[np.float64]]


class Report(Protocol):
    """Whoever wants to know how far work has come. It may raise, which stops the work."""

    def __call__(self, what: str, share: float, /) -> None:
        """`what` is being done, and `share` of the whole, 0 to 1, is finished."""


def silent(_what: str, _share: float, /) -> None:
    """The report of those who do not want to know."""


def part_of(report: Report, start: float, span: float) -> Report:
    """The report for a part of the work that takes `span` of the whole, from `start` on."""

    def within(what: str, share: float, /) -> None:
        report(what, start + span * share)

    return within
