"""What moevit raises on purpose. Every such exception is a :class:`MoevitError`.

`moevit.errors` lists them all; those of a single layer are defined there. They are also the
built-in exceptions that fit (a mistake in what the user gave is a `ValueError`), so that code which
knows nothing of moevit catches them too.
"""

from __future__ import annotations

__all__ = ["CheckFailedError", "FileError", "MoevitError", "UserError"]


class MoevitError(Exception):
    """The base of all."""


class UserError(MoevitError, ValueError):
    """A mistake in what the user gave; the message names it and says what was expected."""


class FileError(MoevitError, OSError):
    """The operating system refused a file; `filename`, `errno` and `strerror` as in `OSError`."""


class CheckFailedError(MoevitError, RuntimeError):
    """Something that was checked does not hold, a bit-exact comparison say."""
