"""What every backend looks like: load a program, run images, read the counters.

>>> with open_device("sim", sources) as device:  # doctest: +SKIP
...     device.load(program)
...     result = device.run(image, "depth")

The backends are in :mod:`.backends` and :mod:`.rtl`; a user changes one for another by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from moevit.compiler.program import Program
from moevit.hw.registers import Error, damaged
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.golden import unshuffle
from moevit.quant.typing import Floats32

from .counters import Counters
from .errors import DeviceError

__all__ = ["Device", "DeviceError", "Progress", "Result", "failure", "planes"]

Progress = Callable[[int], None]
"""Told the cycles that have passed in this frame."""


def failure(code: int, detail: str, *, damage: int = 0) -> DeviceError:
    """The exception for an ERROR register's ``code``; ``detail`` says what was being done, and
    ``damage`` is DAMAGE's value."""
    try:
        error = Error(code)
    except ValueError:
        return DeviceError(Error.HANG, f"unknown error code {code}; {detail}")
    place = damaged(error, damage)
    return DeviceError(
        error, "; ".join(part for part in (error.meaning, place, detail) if part), damage=damage
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """One image under one task.

    ``output``: the integers in memory, ``(rows, columns)`` int16 (see
    :class:`~moevit.compiler.program.Output`), None from a device that computes in floats.
    ``planes``: the head's output as floats ``(channels, height, width)``, in the units of
    :mod:`moevit.model.tasks`; None where the network has no head. ``counters``: None from a device
    that has none.
    """

    task: str
    output: np.ndarray[Any, np.dtype[Any]] | None
    planes: Floats32 | None
    counters: Counters | None


class Device(Protocol):
    """Anything that runs programs."""

    @property
    def name(self) -> str:
        """The backend's name."""

    @property
    def counters(self) -> Counters | None:
        """Of the last frame that was finished."""

    def load(self, program: Program) -> None:
        """Make ``program`` the one that is run. ``DeviceError`` if it is for another device."""

    def run(
        self,
        image: Any,
        task: str,
        *,
        dial: Dial = AS_COMPILED,
        progress: Progress | None = None,
    ) -> Result:
        """One image ``(height, width, channels)`` uint8; ``dial``: fewer experts a token.

        Raises ``ValueError`` for an image of another shape, an unknown task, no program, or a dial
        that asks for more than it was compiled for, and ``DeviceError`` where the device gave up.
        """

    def run_all(
        self, image: Any, *, dial: Dial = AS_COMPILED, progress: Progress | None = None
    ) -> dict[str, Result]:
        """One image under all tasks of the program: in one run where the device can, and one by one
        in software. Raises as :meth:`run`, and ``ValueError`` for a program compiled without it.
        """

    def close(self) -> None:
        """Give everything back; the device cannot be used any more."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def planes(program: Program, task: str, output: Any) -> Floats32 | None:
    """Floats ``(channels, height, width)`` of a task's integers; None where there is no head."""
    about = program.task(task).output
    if not about.channels:
        return None
    return unshuffle(
        np.asarray(output),
        channels=about.channels,
        upscale=about.upscale,
        scale=about.scale,
        grid=about.grid,
    )
