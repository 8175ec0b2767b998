"""Which Vivado the scripts are written for, and how it is called."""

from __future__ import annotations

import re

__all__ = ["COMMAND", "NEWEST", "OLDEST", "order"]

OLDEST, NEWEST = "2020.2", "2025.2"
"""An older one is refused, a newer one is noted."""

COMMAND = "vivado -mode batch -source build.tcl -log vivado.log -nojournal"
"""What builds, run in the folder ``vivado`` of a build."""


def order(version: str) -> tuple[int, int]:
    """Year and release, to compare versions by; (0, 0) if it is none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
