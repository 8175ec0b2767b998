"""`make` and `.ci/setup`: once, and with a clear line where something is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("sh", "dirname", "printf", "env")


def machine(folder: Path, *, user: int, programs: tuple[str, ...], python: str) -> dict[str, str]:
    """An environment of a machine that has only `programs`, and no network."""
    folder.mkdir()
    for name in (*PROGRAMS, *programs):
        (folder / name).symlink_to(shutil.which(name) or "/bin/true")
    scripts = {"id": f"echo {user}", "apt-get": "echo apt-get $* >&2; exit 1", "python3": python}
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder), "HOME": str(folder)}


def setup(environment: dict[str, str], venv: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(ROOT / ".ci" / "setup"), str(venv)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_user_is_told_what_to_install(tmp_path: Path) -> None:
    environment = machine(tmp_path / "bin", user=1000, programs=("make",), python="exit 0")
    done = setup(environment, tmp_path / "venv")
    assert done.returncode == 2
    assert done.stderr == (
        "moevit: error: run 'sudo apt-get install g++ perl', then try again "
        "(Python must be 3.11 or newer)\n"
    )
    assert not (tmp_path / "venv").exists()


def test_an_old_python_is_named(tmp_path: Path) -> None:
    programs = ("g++", "make", "perl")
    environment = machine(tmp_path / "bin", user=1000, programs=programs, python="exit 1")
    done = setup(environment, tmp_path / "venv")
    assert done.returncode == 2
    assert "sudo apt-get install python3 python3-venv python3-dev" in done.stderr


def test_root_installs_and_a_failure_is_one_line(tmp_path: Path) -> None:
    environment = machine(tmp_path / "bin", user=0, programs=("make", "perl"), python="exit 0")
    done = setup(environment, tmp_path / "venv")
    assert done.returncode == 2
    assert done.stderr.endswith("moevit: error: 'apt-get install g++' failed\n")


@pytest.mark.parametrize("name", ["a:b", "a $b"])
def test_a_folder_that_python_cannot_work_in(tmp_path: Path, name: str) -> None:
    script = tmp_path / name / ".ci" / "setup"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "setup", script)
    done = subprocess.run(["/bin/sh", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{name}': move the checkout to a path without ':' and '$'" in done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and what its stamp depends on, with a set-up that only counts itself."""
    folder = tmp_path / "checkout"
    (folder / ".ci").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    script = folder / ".ci" / "setup"
    script.write_text('#!/bin/sh\nmkdir -p "$1"; echo x >> count\n')
    script.chmod(0o755)
    return folder


def make(folder: Path) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "-s", "setup"], cwd=folder, env=environment, check=True)
    return (folder / "count").read_text().count("x")


def test_set_up_once_for_each_state_of_the_requirements(checkout: Path) -> None:
    assert make(checkout) == 1
    assert make(checkout) == 1
    (checkout / "pyproject.toml").touch()  # as a checkout does
    assert make(checkout) == 1
    with (checkout / "constraints.txt").open("a") as file:
        file.write("another==1\n")
    assert make(checkout) == 2
    assert make(checkout) == 2
    assert len(list((checkout / ".venv").glob(".ready-*"))) == 1


def test_an_interrupted_set_up_is_done_again(checkout: Path) -> None:
    script = checkout / ".ci" / "setup"
    good = script.read_text()
    script.write_text(good + "exit 1\n")
    with pytest.raises(subprocess.CalledProcessError):
        make(checkout)
    assert not list((checkout / ".venv").glob(".ready-*"))
    script.write_text(good)
    assert make(checkout) == 2
