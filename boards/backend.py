"""A board as a device: the backend ``board``, which :mod:`moevit.sim.backends` finds by its name.

It runs on the machine that the board is: where its Linux runs Python 3.11 and moevit. Boards with
less run the driver alone (docs/boards.md). MOEVIT_BUNDLE names the bundle, MOEVIT_TRANSPORT how to
reach the board (:data:`.driver.session.TRANSPORTS`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from moevit.compiler.program import Program
from moevit.hw.registers import Error
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.sim.backends import Sources
from moevit.sim.counters import Counters
from moevit.sim.device import Progress, Result, failure, planes
from moevit.sim.errors import DeviceError

from .driver.bundle import Bundle
from .driver.device import Accelerator
from .driver.errors import DriverError, FrameError, IdentityError, TimeOutError
from .driver.program import Program as BoardProgram
from .driver.session import open_accelerator

__all__ = ["BUNDLE", "TRANSPORT", "BoardDevice", "open_board"]

BUNDLE, TRANSPORT = "MOEVIT_BUNDLE", "MOEVIT_TRANSPORT"
"""Environment variables."""


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors as those of every backend; what no frame is to blame for as OSError."""
    try:
        yield
    except FrameError as error:
        raise failure(error.code, str(error)) from error
    except IdentityError as error:
        raise DeviceError(Error.HASH, str(error)) from error
    except TimeOutError as error:
        raise DeviceError(Error.ABORTED, str(error)) from error
    except DriverError as error:
        raise OSError(str(error)) from error


class BoardDevice:
    """The accelerator of a bundle on this board.

    ``time_out``: seconds for a frame. Raises ``OSError`` where the board cannot be reached, is
    driven by another process, or lacks memory, and ``DeviceError`` as every backend.
    """

    name = "board"

    def __init__(self, bundle: Bundle, transport: str = "auto", *, time_out: float = 2.0) -> None:
        with _translated():
            self._accelerator = open_accelerator(bundle, transport, time_out=time_out)
        self._program: Program | None = None
        self._counters: Counters | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the board back."""
        self._accelerator.close()

    @property
    def accelerator(self) -> Accelerator:
        """The driver's device."""
        return self._accelerator

    @property
    def counters(self) -> Counters | None:
        """Of the last frame that was finished."""
        return self._counters

    def load(self, program: Program) -> None:
        """Puts a program into the board's memory."""
        with _translated():
            self._accelerator.load(BoardProgram.from_bytes(program.to_bytes()))
        self._program = program

    def run(
        self,
        image: Any,
        task: str,
        *,
        dial: Dial = AS_COMPILED,
        progress: Progress | None = None,
    ) -> Result:
        """One image; see :class:`~moevit.sim.device.Device`. A board is too fast for progress."""
        with _translated():
            found = self._accelerator.run(image, task, dial=dial)
        program = self._program
        assert program is not None and found.counters is not None
        assert found.expert_tokens is not None
        self._counters = Counters(
            values=found.counters, expert_tokens=found.expert_tokens, seconds=found.seconds
        )
        return Result(
            task=task,
            output=found.output,
            planes=planes(program, task, found.output),
            counters=self._counters,
        )


def open_board(_sources: Sources) -> BoardDevice:
    """The board of the bundle that MOEVIT_BUNDLE names; ``ValueError`` where it names none."""
    folder = os.environ.get(BUNDLE)
    if not folder:
        raise ValueError(f"The backend board needs a bundle: set {BUNDLE} to its folder")
    return BoardDevice(Bundle.read(Path(folder)), os.environ.get(TRANSPORT) or "auto")
