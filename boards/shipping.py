"""The driver as files that a board can run: the package ``moevit_driver``, without moevit.

The driver imports a few modules of moevit that import nothing else (registers, formats). They go
along as modules of the package, and the imports are changed to say so: each definition stays in one
place, and a bundle carries the one of its build.
"""

from __future__ import annotations

import re
from pathlib import Path

from .driver import __file__ as _DRIVER

__all__ = ["PACKAGE", "driver_files"]

PACKAGE = "moevit_driver"

_IMPORT = re.compile(r"^from moevit\.(\w+)\.(\w+) import", re.M)
_ROOTS = Path(_DRIVER).parents[2]


def driver_files() -> dict[str, bytes]:
    """Path within a bundle to content, for every module of the package."""
    files: dict[str, bytes] = {}
    waiting = sorted(Path(_DRIVER).parent.glob("*.py"))
    seen = {path.name for path in waiting}
    while waiting:
        path = waiting.pop(0)
        text = path.read_text(encoding="utf-8")
        for folder, module in _IMPORT.findall(text):
            source = _ROOTS / folder / f"{module}.py"
            if source.name not in seen:
                seen.add(source.name)
                waiting.append(source)
        text = _IMPORT.sub(r"from .\2 import", text)
        files[f"{PACKAGE}/{path.name}"] = text.encode()
    return files
