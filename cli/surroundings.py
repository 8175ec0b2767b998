"""What decides on a machine how well things go, besides what is installed on it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moevit.sim import cache, plain_paths, toolchain

__all__ = ["Fact", "facts", "surroundings"]

# Of the language and its library, what Verilator's runtime and the harness are written in.
_PROGRAM = """
#include <bit>
#include <concepts>
#include <span>
template <std::integral T> int ones(std::span<const T> x) {
  int n = 0;
  for (auto v : x) n += std::popcount(static_cast<unsigned>(v));
  return n;
}
extern "C" int answer() { const int x[] = {1, 2, 7}; return ones(std::span<const int>(x)); }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something of this machine: `found` if all is well, `problem` and its `cure` if not.

    Nothing works without what is `required`; of the rest moevit goes on in another way.
    """

    name: str
    required: bool
    found: str
    problem: str = ""
    cure: str = ""


def facts() -> Iterator[Fact]:
    """All that is looked at, with a compilation that takes a second."""
    yield _compiler()
    root = cache.cache_root()
    problem = cache.why_unusable(root)
    yield Fact(
        name="cache",
        required=False,
        found="writable",
        problem=problem and f"{root}: {problem}",
        cure="free some space or set MOEVIT_CACHE; until then nothing is kept",
    )
    yield _home()
    yield _temporary()
    encoding = sys.getfilesystemencoding()
    yield Fact(
        name="encoding",
        required=False,
        found=encoding,
        problem="" if encoding == "utf-8" else f"names of files are {encoding}",
        cure="set LC_ALL=C.UTF-8 or PYTHONUTF8=1",
    )


def _compiler() -> Fact:
    compiler = toolchain.find_program("g++")
    problem = "" if compiler else "no g++"
    if compiler:
        with tempfile.TemporaryDirectory(prefix="moevit-") as name:
            source = Path(name) / "answer.cpp"
            source.write_text(_PROGRAM, encoding="utf-8")
            command = [str(compiler), "-std=gnu++20", "-fPIC", "-shared", "-o", f"{name}/a.so"]
            done = subprocess.run(
                [*command, str(source)], capture_output=True, text=True, errors="replace"
            )
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line]
                problem = f"does not compile: {(lines or ['no output'])[0].strip()}"
    return Fact(
        name="C++20",
        required=True,
        found="compiles",
        problem=problem,
        cure="a g++ of at least 10, `apt-get install g++`",
    )


def _home() -> Fact:
    try:
        home = Path.home()
    except RuntimeError:
        problem = "no HOME, and no entry in the list of users"
    else:
        problem = "" if home.is_dir() else f"{home}: no such folder"
    return Fact(
        name="home",
        required=False,
        found="there",
        problem=problem,
        cure="set HOME, or MOEVIT_CACHE; until then nothing is kept",
    )


def _temporary() -> Fact:
    """Also whether a build has to go through it."""
    found, problem = "writable", ""
    try:
        tempfile.gettempdir()
        tools = toolchain.find_verilator()
        if not plain_paths.all_plain(tools):
            found = f"builds in {plain_paths.plain_folder()}"
    except toolchain.ToolNotFoundError as error:
        problem = str(error) if str(error).startswith("TMPDIR") else ""
    except FileNotFoundError as error:
        problem = str(error.strerror or error)
    return Fact(
        name="temporary",
        required=True,
        found=found,
        problem=problem,
        cure="set TMPDIR to a writable folder of letters, digits and _ . + @ - only",
    )


def surroundings() -> dict[str, object]:
    """Processor, memory, and the cache."""
    root = cache.cache_root()
    parent = next(path for path in (root, *root.parents) if os.path.exists(path))
    return {
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "cache": str(root),
        "cache_mib": round(_size(root) / 2**20, 1),
        "cache_free_gib": round(shutil.disk_usage(parent).free / 2**30, 1),
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
