"""`moevit verify`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.rtl import SMALL

from moevit.bench.campaign.cases import Case
from moevit.cli.main import main
from moevit.compiler import Program, compile_network
from moevit.hw.config import preset
from moevit.quant.random_network import Sizes, random_network
from moevit.sim.mutants import with_code


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(random_network(1), preset("micro"), all_tasks=True)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected one of FILE, --random, --case and --soak"),
        (["--random", "3", "--soak", "3"], "expected one of FILE"),
        (["--case", "nothing"], "--case: not a case"),
        (["--random", "1", "-o", "{folder}"], "is a folder"),
    ],
)
def test_campaign_options(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(folder=tmp_path) for word in options]
    assert main(["verify", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert not shown.out


@pytest.mark.slow
def test_one_case(capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(config=SMALL, sizes=Sizes(depth=1, moe=(0,)), seed=3)
    assert main(["verify", "--case", case.to_json()]) == 0
    assert "none differs" in capsys.readouterr().out
    assert main(["verify", "--case", case.to_json(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failure"] is None
    assert found["frames"] == 2
    large = Case(config=SMALL, sizes=Sizes(image_width=800), seed=3)
    assert main(["verify", "--case", large.to_json()]) == 2
    assert "does not fit" in capsys.readouterr().err
