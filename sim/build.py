"""Verilog and a C++ harness to a native shared library, cached by everything that it depends on.

The flags were chosen by measuring an array of 512 int8 products in Verilator 5.048 on two cores:
see `_VERILATE` and `_COMPILE`.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from moevit.quant.errors import MoevitError
from moevit.quant.typing import Report, silent

from . import cache, objcache
from .plain_paths import Workplace, workplace
from .toolchain import cpu_identity, find_program, program_version, require_build_tools

__all__ = ["BuildError", "build_library", "run_tool"]


_LIBRARY = "simulator.so"

# Amaranth's Verilog is two-state and initialises every register, so x may be anything. Splitting
# costs no speed at these sizes, and lets both cores compile.
_VERILATE = (
    *("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--no-timing"),
    *("--output-split", "20000", "--output-split-cfuncs", "5000"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
)

# The harness and the evaluation of a cycle are compiled for this machine; what runs once is not
# optimised at all, which halves the build. The library keeps its symbols to itself, so that
# simulators of several configurations live in one process.
_COMPILE = "-std=gnu++20 -fPIC -fvisibility=hidden -fno-gnu-unique -fno-semantic-interposition"
_FAST = "-O3 -march=native"
_SLOW = "-O0"
_GLOBAL = "-O2 -march=native"

#: How the time of a build divides, roughly: to verilate, to compile, to link.
_VERILATED, _COMPILED = 0.15, 0.95


class BuildError(MoevitError, RuntimeError):
    """A tool failed. The message has its last words and names the file with all of them."""


def _jobs() -> int:
    return max(1, min(8, len(os.sched_getaffinity(0))))


def run_tool(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    log: Path,
    line: Callable[[str], None] = lambda _: None,
) -> None:
    """Runs `command` to its end, its output appended to `log` and handed on `line` by line.

    The command gets a process group of its own, and an exception here, Ctrl-C among them, ends the
    whole group.

    Raises
    ------
    BuildError
        If the command fails.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    telling = last = ""
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write("$ " + " ".join(str(word) for word in command) + "\n")
            for text in process.stdout or ():
                file.write(text)
                last = text
                if not telling and re.search(r"(?:^|\s)(?:%Error|error|Error)\b", text):
                    telling = text
                line(text)
        status = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()
    if status:
        what = " ".join((telling or last).split()) or "no output"
        raise BuildError(f"{Path(str(command[0])).name} failed: {what} (see {log})")


def _compile_counter(total: int, report: Report) -> Callable[[str], None]:
    done = 0

    def line(text: str) -> None:
        nonlocal done
        if re.search(r"g\+\+ .* -c ", text):
            share = min(done / total, 1.0)
            done += 1
            report(
                f"compiling the simulator ({min(done, total)}/{total})",
                _VERILATED + share * (_COMPILED - _VERILATED),
            )

    return line


def _counting(coverage: Sequence[str]) -> list[str]:
    return [f"--coverage-{kind}" for kind in coverage]


def _make_flags(counting: bool) -> list[str]:
    fast = f"OPT_FAST={'-O1' if counting else _FAST}"
    slow, other = f"OPT_SLOW={_SLOW}", f"OPT_GLOBAL={_GLOBAL}"
    return [fast, slow, other, "CXX=g++", f"OBJCACHE={objcache.launcher()}"]


def _texts(sources: Sequence[Path]) -> Iterator[str]:
    """The sources and the headers beside them, as a key's parts."""
    files = set(sources)
    for source in sources:
        files.update(source.parent.glob("*.h"))
    for path in sorted(files):
        yield path.name
        yield path.read_text(encoding="utf-8")


def build_library(
    *,
    verilog: str,
    top: str,
    sources: Sequence[Path],
    headers: Mapping[str, str] | None = None,
    label: str = "",
    coverage: Sequence[str] = (),
    report: Report = silent,
) -> Path:
    """The path of a shared library of `verilog`, verilated as class `V<top>`, and `sources`.

    The library is in the cache (`moevit.sim.cache`) from the second call on. With two cores a first
    build takes 10 to 30 s.

    Parameters
    ----------
    verilog:
        The design's text.
    top:
        Its top module.
    sources:
        C++ files, compiled with their own folder on the include path.
    headers:
        Texts of generated headers by file name, which the sources include.
    label:
        Anything that shall tell apart otherwise equal builds, a configuration's hash say.
    coverage:
        What Verilator is to count, `line` and `toggle`; optimised less, as such a build is large.
    report:
        Told of the progress; not called if there is nothing to do.

    Raises
    ------
    ToolNotFoundError
        If a tool is missing.
    BuildError
        If a tool fails.
    """
    tools = require_build_tools()
    headers = dict(headers or {})
    compiler = find_program("g++") or Path("g++")
    flags = [*_VERILATE, _COMPILE, _FAST, _SLOW, _GLOBAL, *_counting(coverage)]
    key = cache.digest(
        verilog,
        top,
        label,
        " ".join(flags),
        f"{tools.version_text} {tools.origin}",
        program_version(compiler) or "",
        cpu_identity(),
        json.dumps(headers, sort_keys=True),
        *_texts(sources),
    )

    def make(folder: Path) -> None:
        with workplace(folder, tools, sources) as place:
            _build(folder, place, compiler, verilog, top, headers, coverage, report)

    def waiting() -> None:
        report("waiting for another process that builds the same simulator", 0.0)

    return cache.entry("sim", key, make, waiting) / _LIBRARY


def _build(
    folder: Path,
    place: Workplace,
    compiler: Path,
    verilog: str,
    top: str,
    headers: Mapping[str, str],
    coverage: Sequence[str],
    report: Report,
) -> None:
    started = time.monotonic()
    log = folder.with_name(f"{folder.stem}.log")
    log.unlink(missing_ok=True)
    work, tools, sources = place.work, place.tools, place.sources
    design = work / f"{top}.v"
    design.write_text(verilog, encoding="utf-8")
    for name, text in headers.items():
        (work / name).write_text(text, encoding="utf-8")
    environment = tools.environment()

    report("translating the design to C++", 0.0)
    run_tool(
        [
            tools.executable,
            *_VERILATE,
            *_counting(coverage),
            *("--top-module", top, "--prefix", f"V{top}", "-Mdir", work),
            *("-CFLAGS", _COMPILE, design),
        ],
        environment=environment,
        log=log,
    )
    verilated = time.monotonic()

    # The harness is the one slow file of its own: compiled beside make's, as its extra source.
    objects = [work / f"{source.stem}.o" for source in sources]
    rules = "".join(
        f"{obj.name}: {source} V{top}.h\n"
        f"\t$(OBJCACHE) $(CXX) $(OPT_FAST) $(CXXFLAGS) $(CPPFLAGS) -I{source.parent} -I."
        " -c -o $@ $<\n"
        for obj, source in zip(objects, sources, strict=True)
    )
    makefile = work / "library.mk"
    makefile.write_text(
        f"default: libV{top} {' '.join(obj.name for obj in objects)}\ninclude V{top}.mk\n{rules}",
        encoding="utf-8",
    )
    total = len(list(work.glob("*.cpp"))) + len(sources) + 3
    run_tool(
        [
            *("make", f"-j{_jobs()}", "-C", work, "-f", makefile.name),
            *(*_make_flags(bool(coverage)), "default"),
        ],
        environment=environment,
        log=log,
        line=_compile_counter(total, report),
    )
    report("linking the simulator", _COMPILED)
    archives = [work / f"libV{top}.a", work / "libverilated.a"]
    options = ["-Wl,-Bsymbolic", "-Wl,--gc-sections", "-Wl,-s", "-lpthread"]
    link: list[str | Path] = [
        compiler,
        "-shared",
        "-o",
        folder / _LIBRARY,
        *objects,
        *archives,
        *options,
    ]
    run_tool(link, environment=environment, log=log)
    ended = time.monotonic()
    about = {
        "top": top,
        "verilator": f"{tools.version_text} ({tools.origin})",
        "verilate_s": round(verilated - started, 2),
        "compile_s": round(ended - verilated, 2),
        "verilog_bytes": len(verilog),
    }
    (folder / "build.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    log.unlink()
    report("the simulator is built", 1.0)
