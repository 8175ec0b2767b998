"""Output files are whole or not there."""

import os
from pathlib import Path

import pytest

from moevit.errors import UserError
from moevit.files import atomic_path, readable, writable, write_json, write_text


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    write_text(target, "one")
    write_text(target, "zwei \N{GREEK SMALL LETTER BETA}")
    assert target.read_text(encoding="utf-8") == "zwei \N{GREEK SMALL LETTER BETA}"
    write_json(target, {"a": [1]})
    assert target.read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert os.listdir(target.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.png"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as partial:
        assert partial.suffix == ".png"
        partial.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.png"]


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        write_text(tmp_path, "x")


def test_readable(tmp_path: Path) -> None:
    path = tmp_path / "p.bin"
    with pytest.raises(UserError, match=r"p\.bin: no such file; expected a program"):
        readable(path, "a program")
    with pytest.raises(UserError, match="is a folder; expected a program"):
        readable(tmp_path, "a program")
    path.touch()
    assert readable(path, "a program") == path


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantize", "--report", "x/r"),
        ("quantize", "-o", "x/n.safetensors"),
        ("quantize", "--compare", "all", "--results", "x/r.json"),
        ("compile", "-o", "x/p"),
        ("run", "--backend", "golden", "-o", "x/out"),
        ("init", "-o", "x/m.safetensors"),
        ("train", "-o", "x/m.safetensors"),
        ("export-onnx", "-o", "x/m.onnx"),
        ("import", "m3vit", "none.pth", "-o", "x/m.safetensors"),
        ("verilog", "-o", "x"),
    ],
)
def test_a_file_in_the_way_is_found_before_any_work(moevit, monkeypatch, arguments) -> None:
    Path("x").write_text("a file")
    monkeypatch.setattr("moevit.workload.Workload.__init__", None)
    status, out, err = moevit(*arguments)
    assert (status, out, err) == (2, "", "moevit: error: x: is a file; expected a folder\n")
    assert [path.name for path in Path().iterdir()] == ["x"]


def test_where_one_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # whoever runs this
    with pytest.raises(UserError, match="not permitted to write there"):
        writable(tmp_path / "new" / "m.safetensors")
    writable(None)


@pytest.mark.parametrize(
    ("arguments", "inside"),
    [
        (("verilog",), "moevit.hw.verilog.generate"),
        (("compile",), "moevit.compiler.compile_network"),
        (("quantize",), "moevit.quant.ptq.calibrate.calibrate"),
        (("export-onnx",), "onnx.checker.check_model"),
        (("init",), "moevit.model.checkpoint.save"),
        (("run", "--backend", "golden"), "moevit.quant.golden.Golden.run"),
        (("eval", "--images", "2"), "moevit.model.evaluation.tallies.tally"),
    ],
)
def test_ctrl_c_leaves_nothing(moevit, checkpoint, monkeypatch, arguments, inside) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    model = () if arguments[0] in ("verilog", "init") else ("--model", checkpoint)
    preset = ("--preset", "micro") if arguments[0] in ("compile", "run") else ()
    monkeypatch.setattr(inside, interrupted)
    if arguments[0] == "eval":
        monkeypatch.setattr("moevit.bench.scoring.tally", interrupted)
    status, out, err = moevit(*arguments, *model, *preset)
    assert (status, out) == (130, "")
    assert err.splitlines()[-1] == "moevit: error: interrupted" and "Traceback" not in err
    assert not list(Path().iterdir())
