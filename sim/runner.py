"""cocotb benches on Verilator, callable from pytest. The only importer of cocotb's runner API.

A bench is a module with `@cocotb.test()` functions. `run_bench` builds the design with cocotb's
harness (in the cache of `moevit.sim.cache`, so the same design is built once), runs every test of
the module in a process of its own, and raises with the first failure.
"""

import contextlib
import json
import os
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cocotb_tools import runner as cocotb_runner

from . import cache, objcache
from .toolchain import Verilator, cpu_identity, require_build_tools

__all__ = ["BenchError", "run_bench", "to_verilog"]

# Signals of the top stay visible to cocotb, those below do not: with all of them public Verilator
# can optimise next to nothing. What runs each cycle is optimised, what runs once is not.
_PUBLIC = ("--public-depth", "1")
_MAKE = ("OPT_FAST=-O2 -march=native", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1", "CXX=g++", "LINK=g++")
_ARGUMENTS = (
    *("--x-assign", "fast", "--x-initial", "fast", "--noassert", "--no-timing"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
)


class BenchError(AssertionError):
    """Tests of a bench failed, or it ran none. The message has each name and the log's end."""


class _Verilator(cocotb_runner.Verilator):  # type: ignore[misc]  # cocotb ships no types
    """cocotb's Verilator runner with a design that can be optimised, and one it can find."""

    def __init__(self, tools: Verilator) -> None:
        super().__init__()
        self.env: dict[str, str]
        self._tools = tools

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(self._tools.executable)

    def _set_env_common(self) -> None:
        super()._set_env_common()
        self.env = self._tools.environment(self.env)

    def _build_command(self) -> list[Any]:
        verilate, make = super()._build_command()
        at = verilate.index("--public-flat-rw")
        compile_with = f"OBJCACHE={objcache.launcher()}"
        return [[*verilate[:at], *_PUBLIC, *verilate[at + 1 :]], [*make, *_MAKE, compile_with]]


def to_verilog(design: Any, name: str) -> str:
    """The Verilog of an Amaranth component, module `name`, always by the same Yosys."""
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    from amaranth.back import verilog

    text: str = verilog.convert(design, name=name, emit_src=False)
    return text


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """What this process and its children print goes to `log`: cocotb's runner is talkative."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)


def _last_lines(log: Path, count: int = 60) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


def run_bench(
    design: Any,
    test_module: str,
    *,
    top: str = "top",
    search: Sequence[Path] = (),
    tests: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    waves: Path | None = None,
) -> int:
    """Runs the cocotb tests of `test_module` on `design`.

    Parameters
    ----------
    design:
        An Amaranth component, or Verilog text with a module named `top`.
    test_module:
        Import name of the bench.
    top:
        Name of the top module. Its clock and reset are `clk` and `rst` as Amaranth names them.
    search:
        Folders that the bench is imported from, before `sys.path`.
    tests:
        Names of the tests to run; all of the module if empty.
    parameters:
        JSON values that the bench reads with `json.loads(os.environ["MOEVIT_BENCH"])`.
    seed:
        Of `random` in the bench (`COCOTB_RANDOM_SEED`).
    waves:
        Where to put a VCD of all signals; the simulation is built again for it, and slow.

    Returns
    -------
    The number of tests that passed.

    Raises
    ------
    BenchError
        If the build or a test fails, or there is no test.
    """
    tools = require_build_tools()
    text = design if isinstance(design, str) else to_verilog(design, top)
    traced = waves is not None
    versions = f"{tools.version_text} {tools.origin} {cocotb_runner.cocotb_tools.__file__}"
    key = cache.digest(
        text, top, str(traced), versions, cpu_identity(), *_ARGUMENTS, *_MAKE, sys.executable
    )
    runner = _Verilator(tools)

    def make(folder: Path) -> None:
        source = folder / f"{top}.v"
        source.write_text(text, encoding="utf-8")
        log = folder / "build.log"
        try:
            with _quiet(log):
                runner.build(
                    sources=[source],
                    hdl_toplevel=top,
                    build_dir=folder / "obj",
                    build_args=list(_ARGUMENTS),
                    timescale=("1ns", "1ps"),
                    always=True,
                    waves=traced,
                )
        except (SystemExit, RuntimeError) as error:
            raise BenchError(f"the build of {top} failed: {error}\n{_last_lines(log)}") from None
        for leftover in [*(folder / "obj").glob("*.cpp"), *(folder / "obj").glob("*.gch")]:
            leftover.unlink()

    built = cache.entry("cocotb", key, make)
    with tempfile.TemporaryDirectory(prefix="moevit-bench-") as scratch:
        return _run(
            _Verilator(tools),
            built / "obj",
            Path(scratch),
            top=top,
            module=test_module,
            search=search,
            tests=tests,
            parameters=dict(parameters or {}),
            seed=seed,
            waves=waves,
        )


def _run(
    runner: _Verilator,
    build: Path,
    scratch: Path,
    *,
    top: str,
    module: str,
    search: Sequence[Path],
    tests: Sequence[str],
    parameters: dict[str, Any],
    seed: int,
    waves: Path | None,
) -> int:
    log, results = scratch / "log", scratch / "results.xml"
    paths = [*map(str, search), *sys.path]
    saved = list(sys.path)
    sys.path[:] = paths  # the runner hands sys.path on as PYTHONPATH
    failure = ""
    try:
        with _quiet(log):
            runner.test(
                test_module=module,
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                build_dir=build,
                test_dir=scratch,
                results_xml=str(results),
                testcase=list(tests) or None,
                seed=seed,
                extra_env={"MOEVIT_BENCH": json.dumps(parameters), "COCOTB_ANSI_OUTPUT": "0"},
                waves=waves is not None,
            )
    except (SystemExit, RuntimeError) as error:
        failure = str(error)
    finally:
        sys.path[:] = saved
    if waves is not None and (scratch / "dump.vcd").exists():
        waves.parent.mkdir(parents=True, exist_ok=True)
        waves.write_bytes((scratch / "dump.vcd").read_bytes())
    cases = list(ElementTree.parse(results).iter("testcase")) if results.exists() else []
    failed = [
        str(case.get("name"))
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    if failed or failure or not cases:
        what = f"{', '.join(failed)} failed" if failed else failure or "it has no tests"
        raise BenchError(f"bench {module} (seed {seed}): {what}\n{_last_lines(log)}")
    return sum(case.find("skipped") is None for case in cases)
