"""Computers that are not like ours: names of folders, homes, caches and variables."""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moevit.quant import paths
from moevit.quant.notes import Note
from moevit.sim import build, cache, objcache, plain_paths, toolchain

AWKWARD = "a b#c:d $e 'f' 写真 %g"
INVERTER = """
module inverter(clk, rst, a, b);
  input clk; input rst; input a; output b;
  assign b = ~a;
endmodule
"""
HARNESS = """
#include "Vinverter.h"
extern "C" __attribute__((visibility("default"))) int invert(int a) {
  VerilatedContext context;
  Vinverter top{&context};
  top.a = a, top.eval();
  return top.b;
}
"""


def inverter(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    harness = folder / "inverter.cpp"
    harness.write_text(HARNESS)
    path = build.build_library(verilog=INVERTER, top="inverter", sources=[harness])
    return int(ctypes.CDLL(str(path)).invert(0))


@pytest.mark.slow
def test_a_build_among_awkward_names(tmp_path: Path, monkeypatch) -> None:
    """Cache, sources, environment and temporary folder; and flags that would break it."""
    place = tmp_path / AWKWARD
    place.mkdir()
    monkeypatch.setenv("MOEVIT_CACHE", str(place / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    for name in ("CXXFLAGS", "CPPFLAGS", "CFLAGS", "LDFLAGS", "LDLIBS", "MAKEFLAGS", "OPT_FAST"):
        monkeypatch.setenv(name, "--nonsense")
    monkeypatch.setenv("CXX", "nonsense")
    tools = toolchain.find_verilator()
    if tools.root is not None:
        (place / "verilator").symlink_to(tools.root)
        root = place / "verilator"
        moved = toolchain.Verilator(
            executable=root / "bin" / "verilator", version=tools.version, root=root
        )
        monkeypatch.setattr(build, "require_build_tools", lambda: moved)
    assert inverter(place / "sources") == 1
    left = [path.name for path in (place / "cache" / "sim").iterdir() if path.is_dir()]
    assert len(left) == 1 and not left[0].endswith("partial")


def test_a_launcher_of_an_awkward_name(monkeypatch) -> None:
    monkeypatch.setattr(objcache, "find_program", lambda _: None)
    monkeypatch.setattr(sys, "executable", f"/{AWKWARD}/python")
    makefile = f"X = {objcache.launcher()}\nall:\n\t@printf '%s|' $(X)\n".replace("#", "\\#")
    done = subprocess.run(["make", "-sf", "-"], input=makefile, capture_output=True, text=True)
    assert done.stdout == f"/{AWKWARD}/python|-m|moevit.sim.objcache|"


def test_no_plain_folder_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / AWKWARD))
    monkeypatch.setattr(plain_paths, "_FOLDERS", ())
    tools = toolchain.Verilator(executable=Path("/bin/verilator"), version=(5, 48))
    with pytest.raises(toolchain.ToolNotFoundError, match=r"TMPDIR: .* not a path that make can"):
        with plain_paths.workplace(tmp_path / AWKWARD, tools, []):
            pass


def test_plain_paths_are_built_where_they_are(tmp_path: Path) -> None:
    tools = toolchain.Verilator(executable=Path("/bin/verilator"), version=(5, 48))
    with plain_paths.workplace(tmp_path, tools, []) as place:
        assert place.work == tmp_path / "work" and place.tools is tools
    assert not list(tmp_path.iterdir())


def test_variables_of_other_builds_do_not_reach_ours() -> None:
    tools = toolchain.Verilator(executable=Path("/bin/verilator"), version=(5, 48))
    given = ("CXXFLAGS", "LDFLAGS", "MAKEFLAGS", "CPATH", "OPT_FAST", "VM_COVERAGE", "LC_MESSAGES")
    found = tools.environment({"PATH": "/bin", "HOME": "/h", **dict.fromkeys(given, "x")})
    assert found.keys() == {"PATH", "HOME", "LC_MESSAGES", "LC_ALL"}


# cache -------------------------------------------------------------------------------------------
@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    paths.temporary_root.cache_clear()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    paths.temporary_root.cache_clear()


def made(times: list[Path]):
    def make(folder: Path) -> None:
        times.append(folder)
        (folder / "x").write_text("1")

    return make


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch, own_temporary) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path / "file"))
    times: list[Path] = []
    with pytest.warns(Note, match="file: .*; what is made is kept for this run only"):
        first = cache.entry("kind", "key", made(times))
    assert (first / "x").read_text() == "1"
    assert cache.entry("kind", "key", made(times)) == first
    assert len(times) == 1


def test_what_a_read_only_cache_holds_is_used(tmp_path: Path, monkeypatch, own_temporary) -> None:
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path / "cache"))
    held = cache.entry("kind", "key", made([]))

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert cache.entry("kind", "key", made([])) == held
    with pytest.warns(Note, match="cache: Read-only file system; what is made"):
        assert cache.entry("kind", "other", made([])) != held


def test_a_cache_that_becomes_full(tmp_path: Path, monkeypatch, own_temporary) -> None:
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path / "cache"))
    usage = cache.shutil.disk_usage(tmp_path)
    state = {"free": usage.free}
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=state["free"]))

    def make(folder: Path) -> None:
        if tmp_path / "cache" in folder.parents:
            state["free"] = 0
            raise build.BuildError("g++ failed: No space left on device")
        (folder / "x").touch()

    with pytest.warns(Note, match="cache: is full, 0 MiB free; what is made"):
        assert (cache.entry("kind", "key", make) / "x").exists()
    assert [path.name for path in (tmp_path / "cache" / "kind").iterdir()] == ["key.lock"]


def test_a_user_without_a_home(monkeypatch, own_temporary) -> None:
    for name in ("MOEVIT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache.cache_root() == paths.temporary_root()
    assert (cache.entry("kind", "key", made([])) / "x").exists()
