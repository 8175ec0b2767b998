"""What a failure looks like: one line on standard error and an exit status, in one place.

| status | meaning |
|---|---|
| 0 | done |
| 1 | a fault of moevit: a bug, or a tool that failed; also a check that the command ran failed |
| 2 | a mistake in what the user gave: an option, a file, a value |
| 130 | interrupted by Ctrl-C |

The API raises `moevit.errors`, the layers below ValueError, TypeError or OSError for the user's
mistakes; the table of `_status` is the only place that makes exit statuses of them.
With `MOEVIT_TRACEBACK=1` an error is shown with its traceback before the line.
"""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable

import typer

from moevit.errors import BuildError, CheckFailedError, DeviceError, MoevitError, UserError

__all__ = ["INTERRUPTED", "CheckFailedError", "UserError", "boundary", "describe"]

OK, OURS, THEIRS, INTERRUPTED = 0, 1, 2, 130

# typer brings its own copy of click, or imports it, depending on the version.
_CLICK_ERROR: type[BaseException] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def describe(error: BaseException) -> str:
    """`error` in one line, a file's name first if it is about one."""
    if isinstance(error, _CLICK_ERROR) and hasattr(error, "format_message"):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = ": ".join([*names, error.strerror])
        if error.errno == errno.EEXIST:  # of making the folder of an output
            text = f"{names[0] if names else 'output'}: is a file; expected a folder"
    elif isinstance(error, KeyError) and len(error.args) == 1:
        text = f"no {error.args[0]!r}"
    elif isinstance(error, MemoryError):
        text = f"not enough memory {error}"
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed: the status has to do
        print(f"moevit: error: {text}", file=sys.stderr)  # noqa: T201


#: The first row that fits an exception has its exit status; any other is a fault of ours.
_STATUS: tuple[tuple[type[BaseException], int], ...] = (
    (CheckFailedError, OURS),
    (DeviceError, OURS),
    (BuildError, OURS),
    (MoevitError, THEIRS),
    (ValueError, THEIRS),
    (TypeError, THEIRS),
    (OSError, THEIRS),
    (_CLICK_ERROR, THEIRS),
)


def _status(error: Exception) -> int:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), OURS)


def boundary(action: Callable[[], object]) -> int:
    """Runs `action` and returns the exit status; nothing that it raises gets past."""
    try:
        result = action()
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except typer.Abort:
        _say("interrupted")
        return INTERRUPTED
    except typer.Exit as stop:
        return int(stop.exit_code)
    except BrokenPipeError:
        # The reader of our output, head say, has left. Python would complain again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OURS
    except Exception as error:  # the boundary: whatever is left is ours
        if os.environ.get("MOEVIT_TRACEBACK"):
            traceback.print_exc()
        status = _status(error)
        text = describe(error)
        if status == OURS and not isinstance(error, CheckFailedError):
            text = f"internal: {type(error).__name__}: {text} (MOEVIT_TRACEBACK=1 shows where)"
        _say(text)
        return status
    return result if isinstance(result, int) else OK
