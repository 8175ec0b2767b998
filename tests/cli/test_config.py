"""`--config FILE.json` wherever `--preset` is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

OWN = {"base": "micro", "name": "wide", "array": {"tokens": 4}}


@pytest.fixture
def config(moevit) -> Path:
    Path("own.json").write_text(json.dumps(OWN))
    return Path("own.json")


def test_from_program_to_run(moevit, checkpoint, config) -> None:
    about = ["--model", checkpoint, "--task", "depth", "--json"]
    status, out, err = moevit("compile", *about, "--config", config, "-o", "p.moevit")
    assert (status, err) == (0, "") and json.loads(out)["preset"] == "wide"
    status, out, _ = moevit("run", *about, "--config", config, "--backend", "interpreter")
    assert status == 0
    found = json.loads(out)
    assert found["preset"] == "wide" and found["results"][0]["bit_exact"] is True
    status, out, _ = moevit("run", *about, "--program", "p.moevit", "--backend", "interpreter")
    assert status == 0 and json.loads(out)["preset"] == "wide"
    cycles = []
    for choice in (["--config", config], ["--program", "p.moevit"], ["--preset", "micro"]):
        given = about if choice[0] != "--program" else about[2:]
        status, out, _ = moevit("estimate", *given, *choice)
        assert status == 0
        cycles.append(json.loads(out)["cycles"])
    assert cycles[0] == cycles[1] < cycles[2]
    status, out, _ = moevit(
        "eval", *about, "--config", config, "--backend", "golden", "--images", 1
    )
    assert status == 0


def test_verilog_says_which_and_can_be_given_back(moevit, checkpoint, config) -> None:
    status, _, _ = moevit("verilog", "--config", config, "-o", "rtl")
    assert status == 0
    written = json.loads(Path("rtl/moevit.json").read_text())
    assert written["config"]["name"] == "wide" and written["config"]["array"]["tokens"] == 4
    status, out, _ = moevit(
        *("estimate", "--model", checkpoint, "--task", "depth"), "--config", "rtl/moevit.json"
    )
    assert status == 0 and "preset wide" in out


@pytest.mark.parametrize(
    "command",
    ["compile", "estimate", "run", "eval", "verilog", "resources", "bench --size nano", "bench"],
)
def test_refusals(moevit, checkpoint, config, command) -> None:
    words = command.split()
    status, out, err = moevit(*words, "--config", "missing.json")
    assert (status, out) == (2, "") and "missing.json: no such file" in err
    Path("bad.json").write_text('{"base": "micro", "array": {"lanes": 1}}')
    status, out, err = moevit(*words, "--config", "bad.json")
    assert (status, out) == (2, "") and "bad.json: array.lanes: unknown" in err
    if command != "bench":
        status, out, err = moevit(*words, "--config", config, "--preset", "micro")
        assert (status, out) == (2, "")
        assert err == "moevit: error: --config: cannot be given together with --preset\n"
    if words[0] == "estimate":
        status, _, err = moevit("estimate", "--program", "x", "--config", config)
        assert status == 2 and "--program: cannot be given together with --config" in err
