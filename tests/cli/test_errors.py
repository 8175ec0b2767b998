"""Every failure ends as one line on standard error and a status."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from moevit.cli.errors import CheckFailedError, UserError, boundary, describe
from moevit.cli.main import main
from moevit.cli.options import check_backend, chosen_tasks


def raising(error: BaseException):
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("x: no such file"), 2, "x: no such file"),
        (ValueError("Unknown preset 'y'; expected a, b"), 2, "Unknown preset 'y'; expected a, b"),
        (ValueError("two\n  lines"), 2, "two lines"),
        (FileNotFoundError(2, "No such file or directory", "p.png"), 2,
         "p.png: No such file or directory"),
        (CheckFailedError("not bit-exact"), 1, "not bit-exact"),
        (RuntimeError("oh"), 1, "internal: RuntimeError: oh (MOEVIT_TRACEBACK=1 shows where)"),
        (KeyError("k"), 1, "internal: KeyError: no 'k' (MOEVIT_TRACEBACK=1 shows where)"),
        (ZeroDivisionError(), 1,
         "internal: ZeroDivisionError: ZeroDivisionError (MOEVIT_TRACEBACK=1 shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.BadParameter("no"), 2, "Invalid value: no"),
    ],
)  # fmt: skip
def test_status_and_line(capsys, monkeypatch, error, status, text) -> None:
    monkeypatch.delenv("MOEVIT_TRACEBACK", raising=False)
    assert boundary(raising(error)) == status
    captured = capsys.readouterr()
    assert captured.err == f"moevit: error: {text}\n"
    assert captured.out == ""


def test_ctrl_c_in_a_command(capsys, monkeypatch) -> None:
    """Through typer, which would swallow the line."""
    monkeypatch.setattr("moevit.cli.commands.doctor.examine", raising(KeyboardInterrupt()))
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "moevit: error: interrupted\n"


def test_the_traceback_is_shown_on_request(capsys, monkeypatch) -> None:
    monkeypatch.setenv("MOEVIT_TRACEBACK", "1")
    assert boundary(raising(RuntimeError("oh"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_results_are_statuses() -> None:
    assert boundary(lambda: None) == 0
    assert boundary(lambda: 3) == 3
    assert boundary(raising(typer.Exit(4))) == 4


def test_an_error_without_words_is_named() -> None:
    assert describe(MemoryError()) == "not enough memory"
    assert describe(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["doctor", "--nonsense"], "No such option: --nonsense"),
        (["--nonsense"], "No such option: --nonsense"),
        (["doctor", "extra"], "unexpected extra argument"),
    ],
)
def test_usage_errors(capsys, arguments, text) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_output_to_a_closed_pipe_says_nothing() -> None:
    code = "import sys; from moevit.cli.main import main; sys.exit(main(['doctor', '--json']))"
    command = f'{sys.executable} -c "{code}" | true'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from moevit.cli.main import main\n"
        "main(['--help']); main(['doctor', '--json'])\n"
        "heavy = {'torch', 'timm', 'amaranth', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_chosen_tasks() -> None:
    available = ("depth", "edges")
    assert chosen_tasks("all", available) == ["depth", "edges"]
    assert chosen_tasks("edges, depth,edges", available) == ["edges", "depth"]
    with pytest.raises(UserError, match="unknown task 'x'; expected depth, edges, all"):
        chosen_tasks("depth,x", available)
    with pytest.raises(UserError, match="unknown task ''"):
        chosen_tasks("", available)


def test_check_backend() -> None:
    assert check_backend("sim") == "sim"
    with pytest.raises(UserError, match="unknown backend 'fpga'; expected torch, onnx"):
        check_backend("fpga")
