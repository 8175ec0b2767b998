"""`moevit quantize`: methods, report, comparison; `moevit export-onnx --quantised`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moevit.bench import classes
from moevit.cli.options import QUANTISATION
from moevit.compiler import Program
from moevit.quant.io import load_network
from moevit.quant.ptq.methods import METHODS
from moevit.quant.ptq.options import NARROW


def test_the_names_are_those_of_the_methods() -> None:
    assert tuple(METHODS) == QUANTISATION


def test_options_override_the_method(moevit, checkpoint) -> None:
    status, out, err = moevit(
        *("quantize", checkpoint, "--json", "-o", "n.safetensors", "--images", "2"),
        *("--method", "minmax", "--experts", "int4", "--clip", "percentile", "--percentile", "99"),
        *("--rounding", "descent", "--bias-correction", "--migrate", "0,1"),
        *("--balance", "--margin", "1.5", "--compensate", "0.5"),
    )
    assert (status, err) == (0, "")
    options = json.loads(out)["options"]
    assert not options["narrow"]
    assert options == load_network("n.safetensors").meta["quantisation"]
    expected = {
        "clip": "percentile",
        "percentile": 99.0,
        "migrate": [0.0, 1.0],
        "rounding": "descent",
        "bias_correction": True,
        "balance": True,
        "margin": 1.5,
        "compensate": 0.5,
        "expert_bits": 4,
        "images": 2,
    }
    assert expected.items() <= options.items()


def test_weights_of_four_bits(moevit, checkpoint) -> None:
    arguments = ("quantize", checkpoint, "--json", "-o", "n.safetensors", "--images", "2")
    status, out, err = moevit(*arguments, "--weights", "int4", "--method", "minmax")
    assert (status, err) == (0, "")
    options, network = json.loads(out)["options"], load_network("n.safetensors")
    assert options["expert_bits"] == 4 and options["narrow"] == list(NARROW)
    assert network.blocks[0].attention.proj.weight_bits == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "best"], "--method: unknown method 'best'; expected minmax"),
        (["--clip", "up"], "Clip must be one of minmax, percentile, mse, not 'up'"),
        (["--rounding", "up"], "Rounding must be one of auto, nearest"),
        (["--migrate", "0,x"], "--migrate: expected numbers such as 0,0.5,1, not '0,x'"),
        (["--compare", "minmax,best"], "--compare: unknown method 'best'"),
        (["--compare", "all", "--clip", "mse"], "--clip: cannot be given together with --compare"),
        (["--compare", "classes", "--weights", "int4"], "--weights: cannot be given together with"),
        (["--weights", "int2"], "--weights: unknown format 'int2'; expected int8, int4"),
        (["--results", "r.json"], "--results: needs --compare"),
        (["--model", "other.safetensors"], "--model: other.safetensors beside"),
    ],
)
def test_bad_options(moevit, checkpoint, arguments, message) -> None:
    status, out, err = moevit("quantize", checkpoint, *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert message in err
    assert not list(Path().iterdir())


def test_the_method_is_the_workloads(moevit, checkpoint) -> None:
    """`compile --method` gives the program of what `quantize --method` gives."""
    status, _, err = moevit("quantize", checkpoint, "--method", "minmax", "-o", "n.safetensors")
    assert status == 0, err
    for model, arguments in (("n.safetensors", []), (checkpoint, ["--method", "minmax"])):
        name = f"{Path(model).stem}.moevit"
        status, _, err = moevit(
            "compile", "--model", model, "--preset", "micro", "-o", name, *arguments
        )
        assert status == 0, err
    one, other = Program.load("n.moevit"), Program.load("micro.moevit")
    assert bytes(one.memory) == bytes(other.memory)
    status, _, err = moevit("compile", "--model", "n.safetensors", "--method", "mse")
    assert status == 2 and "--method: n.safetensors is quantised already" in err


def test_fine_tuning(moevit, checkpoint, monkeypatch) -> None:
    arguments = ("quantize", checkpoint, "--json", "--images", "2", "--method", "qat")
    status, out, err = moevit(*arguments, "--finetune", "2", "-o", "n.safetensors")
    assert (status, err) == (0, "")
    options = json.loads(out)["options"]
    assert (
        options["finetune"] == 2 == load_network("n.safetensors").meta["quantisation"]["finetune"]
    )
    first = Path("n.safetensors").read_bytes()
    # Ctrl-C in the middle of it: the older file stays, nothing is beside it.
    from moevit.model.training import qat

    steps = []

    def loss(*_: object) -> object:
        steps.append(None)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return before(*_)

    before = qat._Student.loss
    monkeypatch.setattr(qat._Student, "loss", loss)
    status, out, err = moevit(*arguments, "--finetune", "4", "-o", "n.safetensors")
    assert (status, out, err) == (130, "", "moevit: error: interrupted\n")
    assert [path.name for path in Path().iterdir()] == ["n.safetensors"]
    assert Path("n.safetensors").read_bytes() == first


def test_report(moevit, checkpoint) -> None:
    status, out, err = moevit(
        *("quantize", checkpoint, "--json", "--images", "4", "--report", "r", "--scenes", "2")
    )
    assert (status, err) == (0, "")
    names = {Path(name).name for name in json.loads(out)["report"]}
    assert names == {"report.json", "sensitivity.png", "noise.png", "routing.png"}
    assert {path.name for path in Path("r").iterdir()} == names
    found = json.loads(Path("r/report.json").read_text())
    assert {"all", "patch_embed", "blocks.0.softmax", "blocks.1.router"} <= set(
        found["sensitivity"]
    )
    whole = found["sensitivity"]["all"]
    assert {"sqnr_db", "delta_m"} <= set(whole)
    assert whole["sqnr_db"] < found["sensitivity"]["residual"]["sqnr_db"]
    routing = found["comparison"]["tasks"]["depth"]["routing"]["1"]
    assert routing["same_set_interval"][0] <= routing["same_set"] <= 1


def test_comparison(moevit, checkpoint) -> None:
    Path("page.md").write_text("before\n<!-- methods: begin -->\n<!-- methods: end -->\nafter\n")
    arguments = ("quantize", checkpoint, "--json", "--compare", "minmax,default")
    arguments += ("--images", "2", "--scenes", "3", "--results", "r.json", "--docs", "page.md")
    status, out, err = moevit(*arguments)
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found == json.loads(Path("r.json").read_text())
    rows = found["rows"]
    assert [(row["format"], row["method"]) for row in rows] == [
        (bits, name) for bits in ("W8A8", "W4A8") for name in ("minmax", "default")
    ]
    for row in rows:
        assert row["delta_m"]["low"] <= row["delta_m"]["value"] <= row["delta_m"]["high"]
        assert 0 < row["routing"]["all"]["value"] <= 1
        assert set(row["tasks"]) == set(row["routing"]["tasks"])
    assert rows[0]["tasks"]["depth"]["float"] == rows[3]["tasks"]["depth"]["float"]
    page = Path("page.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "### W4A8" in page
    assert not Path("network.safetensors").exists()
    assert moevit(*arguments)[1] == out  # from the cache


@pytest.mark.slow
def test_comparison_of_classes(moevit, checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(classes, "CLASSES", ("q", "fc1"))
    Path("page.md").write_text("before\n<!-- classes: begin -->\n<!-- classes: end -->\nafter\n")
    arguments = ("quantize", checkpoint, "--json", "--compare", "classes", "--images", "1")
    status, out, err = moevit(*arguments, "--scenes", "1", "--docs", "page.md")
    assert (status, err) == (0, "")
    rows = json.loads(out)["rows"]
    assert [row["method"] for row in rows] == [
        *("none", "q", "fc1", "experts", "experts and q, k, v, proj, fc1, fc2", "all")
    ]
    assert len({row["delta_m"]["value"] for row in rows}) == len(rows)
    page = Path("page.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "| experts |" in page


def test_qdq_export(moevit, checkpoint) -> None:
    status, out, err = moevit(
        *("export-onnx", "--model", checkpoint, "--quantised", "--experts", "int4"),
        *("--task", "depth,edges", "-o", "q.onnx", "--json"),
    )
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["opset"] == 21 and list(found["difference"]) == ["depth", "edges"]
    assert found["difference"]["depth"]["sqnr_db"] > 20
    assert Path("q.onnx").stat().st_size == found["bytes"]
    status, _, err = moevit("export-onnx", "--model", checkpoint, "--experts", "int4")
    assert status == 2 and "--experts: needs --quantised" in err
