"""`moevit doctor`, on this machine and on ones that lack something."""

import json
import os

import pytest

from moevit.cli import health
from moevit.cli.main import main
from moevit.sim import toolchain


def report(capsys) -> tuple[int, dict, dict[str, dict]]:
    status = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    return status, told, {item["name"]: item for item in told["items"]}


def test_this_machine_is_fit(capsys) -> None:
    status, told, items = report(capsys)
    assert status == 0
    assert told["ok"]
    assert {"python", "g++", "make", "perl", "torch", "amaranth"} <= items.keys()
    assert items["torch"]["kind"] == "package"
    assert items["pytest"]["kind"] == "tests"


def test_the_table_has_every_item(capsys) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(item.name in out for item in health.examine())


def test_a_missing_program_is_named_with_its_cure(capsys, monkeypatch) -> None:
    find = toolchain.find_program
    monkeypatch.setattr(
        toolchain, "find_program", lambda name: None if name == "perl" else find(name)
    )
    status, told, items = report(capsys)
    assert status == 1
    assert not told["ok"]
    assert items["perl"]["status"] == "missing"
    assert items["perl"]["cure"] == "apt-get install perl"
    assert main(["doctor"]) == 1
    assert "moevit: error: missing or unsuitable: perl" in capsys.readouterr().err


def test_an_old_package_is_named_with_its_cure(capsys, monkeypatch) -> None:
    find = health.importlib.metadata.version
    monkeypatch.setattr(
        health.importlib.metadata,
        "version",
        lambda name: "0.4" if name == "amaranth" else find(name),
    )
    status, _, items = report(capsys)
    assert status == 1
    assert items["amaranth"]["status"] == "wrong version"
    assert items["amaranth"]["version"] == "0.4"
    assert "pip install" in items["amaranth"]["cure"]


def test_what_is_optional_does_not_fail(capsys, monkeypatch) -> None:
    find = toolchain.find_program
    monkeypatch.setattr(
        toolchain, "find_program", lambda name: None if name == "ccache" else find(name)
    )
    status, _, items = report(capsys)
    assert status == 0
    assert items["ccache"]["status"] == "missing"


@pytest.fixture
def fresh():
    toolchain.find_verilator.cache_clear()
    yield
    toolchain.find_verilator.cache_clear()


def test_no_verilator(capsys, monkeypatch, fresh) -> None:
    monkeypatch.setenv("MOEVIT_VERILATOR", "/nonexistent/verilator")
    status, told, _ = report(capsys)
    assert status == 1
    [program] = [i for i in told["items"] if (i["kind"], i["name"]) == ("program", "verilator")]
    assert program["status"] == "missing"
    assert "MOEVIT_VERILATOR=/nonexistent/verilator is no Verilator" in program["cure"]


def test_a_compiler_that_does_not_compile(capsys, monkeypatch, tmp_path) -> None:
    fake = tmp_path / "g++"
    fake.write_text("#!/bin/sh\necho \"g++: error: unrecognized '-std=gnu++20'\" >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    status, _, items = report(capsys)
    assert status == 1
    assert items["C++20"]["status"] == "unfit"
    assert "does not compile: g++: error: unrecognized '-std=gnu++20'" in items["C++20"]["cure"]


def test_a_cache_that_cannot_be_written_is_no_failure(capsys, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path / "file" / "cache"))
    status, _, items = report(capsys)
    assert status == 0
    assert items["cache"]["status"] == "unfit" and "MOEVIT_CACHE" in items["cache"]["cure"]


def test_nobody_s_home(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path / "cache"))
    status, _, items = report(capsys)
    assert status == 0 and "none: no such folder" in items["home"]["cure"]


def test_a_temporary_folder_that_make_cannot_use(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path / "a b"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, _, items = report(capsys)
    assert status == 0 and items["temporary"]["version"] == f"builds in {tmp_path}"
    (tmp_path / "c d").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "c d"))
    monkeypatch.setattr("moevit.sim.plain_paths._FOLDERS", ())
    status, _, items = report(capsys)
    assert status == 1 and items["temporary"]["status"] == "unfit"
    assert "TMPDIR" in items["temporary"]["cure"]


def test_a_board_s_needs(capsys, monkeypatch, tmp_path) -> None:
    status = main(["doctor", "--board", "zcu102", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert status == 0
    assert told["part"] == "xczu9eg-ffvb1156-2-e"
    assert told["licence"].startswith("Vivado's Enterprise edition")
    assert told["disk_free_gib"] > 0
    assert told["memory_free_gib"] > 0
    assert {i["name"] for i in told["items"] if i["kind"] == "board"} == {"vivado", "tclsh", "dtc"}
    old = tmp_path / "vivado"
    old.write_text("#!/bin/sh\necho 'Vivado v2019.1 (64-bit)'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert main(["doctor", "--board", "zcu104"]) == 0
    out = capsys.readouterr().out
    assert "free edition has the part" in out
    assert "2019.1" in "".join(out.split())
    assert main(["doctor", "--board", "nope"]) == 2
    assert "Unknown board 'nope'" in capsys.readouterr().err
