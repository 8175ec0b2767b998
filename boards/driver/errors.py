"""How the driver fails: one exception a cause, each with one line that says what to do about it."""

from __future__ import annotations

__all__ = [
    "BundleError",
    "BusyError",
    "DriverError",
    "FrameError",
    "IdentityError",
    "RoomError",
    "TimeOutError",
    "TransportError",
]


class DriverError(RuntimeError):
    """Everything that the driver raises about a board."""


class BundleError(ValueError):
    """A bundle that is missing, damaged, or of another format, board or configuration."""


class TransportError(DriverError):
    """The board cannot be reached: no such device, no permission, a register access refused."""


class BusyError(DriverError):
    """Another process drives the accelerator."""


class IdentityError(DriverError):
    """Another bitstream, instruction set or configuration than the program's."""


class RoomError(DriverError):
    """No buffer of that size, or none that the accelerator's 32-bit addresses reach."""


class FrameError(DriverError):
    """A frame was given up; ``code`` is the ERROR register's."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


class TimeOutError(DriverError):
    """A frame did not end in its time; it was cancelled and the accelerator is idle."""
