"""`moevit verify`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moevit.cli.main import main
from moevit.compiler import Program, compile_network
from moevit.hw.config import preset
from moevit.quant.random_network import random_network
from moevit.sim.mutants import with_code


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(random_network(1), preset("micro"), together=True)


def test_a_proven_program(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "program.moevit"
    program.save(file)
    assert main(["verify", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "task0: proven",
        "task1: proven",
        "all: proven",
    ]
    assert main(["verify", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["proven"]
    assert [entry["name"] for entry in found["entries"]] == ["task0", "task1", "all"]


def test_one_that_is_not(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = program.instructions("task1")
    n = next(n for n, i in enumerate(code) if i.wait and n > 10)
    code[n] = replace(code[n], wait=0, wait_count=0)
    file = tmp_path / "program.moevit"
    with_code(program, "task1", code).save(file)
    assert main(["verify", str(file)]) == 1
    shown = capsys.readouterr()
    assert "task1: not proven" in shown.out
    assert shown.err.startswith(f"moevit: error: {file}: task 'task1': ")
    assert main(["verify", str(file), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    first = found["entries"][1]["findings"][0]
    assert not found["proven"]
    assert first["kind"] in ("order", "credits", "deadlock")


def test_no_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "program.moevit"
    file.write_bytes(b"nothing")
    assert main(["verify", str(file)]) == 2
    assert "not a program file" in capsys.readouterr().err
