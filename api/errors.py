"""Every exception that moevit raises on purpose. All derive from :class:`MoevitError`.

| exception | also a | when |
|---|---|---|
| `UserError` | `ValueError` | what was given is wrong: a value, a file's content, a combination |
| `FileError` | `OSError` | the operating system refused a file |
| `CheckFailedError` | `RuntimeError` | something that was checked does not hold |
| `DeviceError` | `RuntimeError` | a device gave a frame up; `code` is that of its ERROR register |
| `BuildError` | `RuntimeError` | a simulator could not be built |
| `ToolNotFoundError` | `FileNotFoundError` | a program that moevit needs is missing or too old |

Anything else that gets out is a bug of moevit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from moevit.quant.errors import CheckFailedError, FileError, MoevitError, UserError
from moevit.sim.build import BuildError
from moevit.sim.errors import DeviceError
from moevit.sim.toolchain import ToolNotFoundError

__all__ = [
    "BuildError",
    "CheckFailedError",
    "DeviceError",
    "FileError",
    "MoevitError",
    "ToolNotFoundError",
    "UserError",
    "documented",
]


@contextlib.contextmanager
def documented() -> Iterator[None]:
    """What the layers below raise for the user's mistakes, as the exceptions listed here.

    They raise plain `ValueError` and `OSError`; the text and, of a file, its name stay.
    """
    try:
        yield
    except MoevitError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise FileError(*_about(error)) from error


def _about(error: OSError) -> tuple[object, ...]:
    if error.errno is None:
        return error.args
    about = (error.errno, error.strerror, error.filename)
    return about if error.filename2 is None else (*about, None, error.filename2)
