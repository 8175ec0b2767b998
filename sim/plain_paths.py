"""Paths that make can work with.

GNU make has no way to write a space, a colon, a hash or a wildcard in every place where a name may
stand. So a build happens in a folder whose name is plain, which reaches Verilator and the sources
through links, and only its result goes to where it belongs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moevit.quant.paths import cache_root

from .toolchain import ToolNotFoundError, Verilator, require_build_tools

__all__ = ["Workplace", "all_plain", "is_plain", "plain_folder", "ready_to_build", "workplace"]

_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def is_plain(path: Path) -> bool:
    """Whether a path means itself to make and to a shell."""
    return re.fullmatch(r"[A-Za-z0-9_./+@-]+", str(path)) is not None


def plain_folder() -> Path:
    """A folder to make temporary folders in, of a plain name.

    Raises
    ------
    ToolNotFoundError
        If there is none.
    """
    first = tempfile.gettempdir()
    for folder in (first, *_FOLDERS):
        if (
            is_plain(Path(folder))
            and os.path.isdir(folder)
            and os.access(folder, os.W_OK | os.X_OK)
        ):
            return Path(folder)
    raise ToolNotFoundError(
        f"TMPDIR: {first} is not a path that make can work with; expected a writable folder of "
        "letters, digits and _ . + @ - only"
    )


def ready_to_build() -> None:
    """That a simulator could be built here, as far as can be seen in a moment.

    Raises
    ------
    ToolNotFoundError
        Naming the programs that are missing, or the temporary folder that will not do.
    """
    if not all_plain(require_build_tools()):
        plain_folder()


def all_plain(tools: Verilator) -> bool:
    """Whether a simulator is built in the cache itself, and not in a temporary folder."""
    return all(map(is_plain, _there(cache_root(), tools, [Path(__file__)])))


def _there(folder: Path, tools: Verilator, sources: Sequence[Path]) -> list[Path]:
    """All that a build's paths consist of."""
    return [folder, tools.root or tools.executable, *sources]


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where to build, by plain paths: the folder, Verilator and the sources."""

    work: Path
    tools: Verilator
    sources: Sequence[Path]


@contextlib.contextmanager
def workplace(folder: Path, tools: Verilator, sources: Sequence[Path]) -> Iterator[Workplace]:
    """A new folder to build in, below `folder` if all paths are plain; gone after the block.

    Raises
    ------
    ToolNotFoundError
        Where some path is not plain and there is no temporary folder that is.
    """
    if all(map(is_plain, _there(folder, tools, sources))):
        work = folder / "work"
        work.mkdir()
        yield Workplace(work=work, tools=tools, sources=sources)
        shutil.rmtree(work)
        return
    with tempfile.TemporaryDirectory(prefix="moevit-build-", dir=plain_folder()) as name:
        place = Path(name)
        if tools.root is not None:
            link = place / "verilator"
            link.symlink_to(tools.root)
            executable = link / tools.executable.relative_to(tools.root)
            tools = dataclasses.replace(tools, root=link, executable=executable)
        links = []
        for number, source in enumerate(sources):
            link = place / f"sources{number}"
            link.symlink_to(source.parent)
            links.append(link / source.name)
        work = place / "work"
        work.mkdir()
        yield Workplace(work=work, tools=tools, sources=links)
