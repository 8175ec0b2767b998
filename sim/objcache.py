"""Verilator's own runtime, compiled once for each set of flags instead of once for each design.

That is most of the time that a small design takes to build. `make` runs this in front of each
compilation (its variable `OBJCACHE`); only the sources named `verilated*`, which lie in Verilator's
folder, are looked up, by the compiler's words and the source's text. Where ccache is installed it
does the same job, and `launcher` prefers it.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cache
from .toolchain import cpu_identity, find_program

__all__ = ["launcher", "main"]

_MODULE = "moevit.sim.objcache"


def launcher() -> str:
    """The value of make's `OBJCACHE`."""
    if ccache := find_program("ccache"):
        return shlex.quote(str(ccache)).replace("$", "$$")
    return f"{shlex.quote(sys.executable)} -m {_MODULE}".replace("$", "$$")


def _words(command: Sequence[str]) -> tuple[list[str], Path | None, Path | None]:
    """The words that decide the object's content, the object, and the source."""
    words: list[str] = []
    target = source = None
    rest = iter(command)
    for word in rest:
        if word == "-o":
            target = Path(next(rest, ""))
        elif word.endswith(".cpp"):
            source = Path(word)
        else:
            words.append(word)
    return words, target, source


def main(command: Sequence[str]) -> int:
    """Runs the compiler's `command`, or copies what it made the last time; returns its status."""
    words, target, source = _words(command)
    shared = source is not None and source.is_absolute() and source.name.startswith("verilated")
    if not shared or source is None or target is None or "-c" not in words:
        return subprocess.call(command)
    status = 0
    key = cache.digest(*words, source.name, source.read_bytes(), str(source), cpu_identity())

    def make(folder: Path) -> None:
        nonlocal status
        status = subprocess.call([*command[:1], *words[1:], "-o", str(folder / "o"), str(source)])
        if status:
            raise ChildProcessError(status)

    try:
        made = cache.entry("runtime", key, make) / "o"
    except ChildProcessError:
        return status
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copyfile(made, partial)
    partial.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
