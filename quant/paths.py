"""Where what can be made again is kept."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["cache_root", "temporary_root"]


def cache_root() -> Path:
    """The directory of all of moevit's caches; it need not exist, nor be writable.

    ``$MOEVIT_CACHE``, ``$XDG_CACHE_HOME/moevit`` or ``~/.cache/moevit``; :func:`temporary_root` for
    a user who has no home.
    """
    if override := os.environ.get("MOEVIT_CACHE"):
        return Path(override)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "moevit"
    try:
        return Path.home() / ".cache" / "moevit"
    except RuntimeError:  # no HOME, and no entry in the list of users
        return temporary_root()


@functools.cache
def temporary_root() -> Path:
    """A directory of this process in place of the cache, removed when it ends."""
    folder = tempfile.mkdtemp(prefix="moevit-")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked process has none of its own
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)
