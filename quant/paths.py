"""Where what can be made again is kept."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_root"]


def cache_root() -> Path:
    """The directory of all of moevit's caches; it need not exist.

    ``$MOEVIT_CACHE``, ``$XDG_CACHE_HOME/moevit`` or ``~/.cache/moevit``.
    """
    if override := os.environ.get("MOEVIT_CACHE"):
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "moevit"
