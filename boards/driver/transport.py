"""How the driver reaches a board: registers, buffers by physical address, and an interrupt.

A transport has the accelerator to itself: it takes a lock before it touches anything, and the
second process that wants the same accelerator is refused. The lock is the kernel's, so it goes
with the process that held it, however that ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BusyError, RoomError

__all__ = ["ADDRESSES", "PAGE", "Buffer", "Lock", "Transport", "check_reach"]

PAGE = 4096
"""Buffers begin at a multiple of this, more than any of the accelerator's alignments."""

ADDRESSES = 1 << 32
"""The accelerator's address registers and ports have 32 bits."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Buffer:
    """Memory that host and accelerator share.

    ``array``: the host's view, uint8. ``address``: the physical address of its first byte. What
    the host has written reaches the accelerator with :meth:`to_device`, and what the accelerator
    has written reaches the host with :meth:`to_host`; between two calls of these only one side may
    touch the bytes. On a coherent board both do nothing.
    """

    array: Bytes
    address: int

    def to_device(self, start: int = 0, count: int | None = None) -> None:
        """Bytes from ``start`` on leave the host's caches for memory."""
        raise NotImplementedError

    def to_host(self, start: int = 0, count: int | None = None) -> None:
        """Bytes from ``start`` on are read from memory when the host looks next."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives the memory back."""
        raise NotImplementedError


class Transport:
    """What :class:`~.device.Accelerator` needs of a board.

    ``name``: for messages. ``interrupt``: whether :meth:`wait` really waits for the accelerator's
    interrupt; without one it passes the time, and the driver asks STATUS. ``clock``: what
    :meth:`now` counts.
    """

    name = ""
    interrupt = False
    clock = "wall clock"

    def read(self, offset: int) -> int:
        """The 32-bit register at a byte offset. ``TransportError`` if the bus refuses it."""
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        """Writes a 32-bit register. ``TransportError`` if the bus refuses it."""
        raise NotImplementedError

    def allocate(self, count: int, what: str) -> Buffer:
        """``count`` contiguous bytes that begin at a page. ``what`` they are for, in an error.

        ``RoomError`` where there is no such memory within the accelerator's reach.
        """
        raise NotImplementedError

    def wait(self, seconds: float) -> bool:
        """Passes at most ``seconds``; at once, and with True, when the interrupt comes."""
        raise NotImplementedError

    def now(self) -> float:
        """Seconds of a clock that never goes back: the board's, or that of the simulation."""
        raise NotImplementedError

    def reset(self) -> None:
        """The accelerator as after configuration. Buffers keep their place and content."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives the accelerator back."""
        raise NotImplementedError


class Lock:
    """One process at a time: an exclusive ``flock`` of a file, or of an open device.

    ``BusyError`` with the process that has it, where it is known.
    """

    def __init__(self, target: str | int, what: str) -> None:
        self._own = not isinstance(target, int)
        if isinstance(target, int):
            self._file = target
        else:
            self._file = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self._holder() if self._own else ""
            if self._own:
                os.close(self._file)
            raise BusyError(f"{what} is driven by another process{holder}") from None
        if self._own:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def _holder(self) -> str:
        number = os.pread(self._file, 20, 0).decode(errors="replace").strip()
        return f" ({number})" if number.isdigit() else ""

    def release(self) -> None:
        """Lets the next one in."""
        with contextlib.suppress(OSError):
            if self._own:
                os.close(self._file)
            else:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    @staticmethod
    def path(name: str) -> str:
        """Where the lock of an accelerator without a device file lies."""
        folder = Path("/run/lock")
        usable = folder.is_dir() and os.access(folder, os.W_OK)
        return str((folder if usable else Path(tempfile.gettempdir())) / f"moevit-{name}.lock")


def check_reach(address: int, count: int, what: str, end: int = ADDRESSES) -> None:
    """``RoomError`` unless the bytes lie below ``end``, which the accelerator's ports reach."""
    if address % PAGE:
        raise RoomError(f"the buffer of the {what} at {address:#x} begins within a page")
    if address + count > end:
        raise RoomError(
            f"the buffer of the {what}, {address:#x} to {address + count:#x}, is beyond "
            f"{end:#x}, which the accelerator's ports do not reach; move the pool of contiguous "
            "memory (cma= of the kernel, size and dma-mask of u-dma-buf) below it"
        )
