"""`moevit doctor`, on this machine and on ones that lack something."""

import json

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
