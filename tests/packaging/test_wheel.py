"""The wheel, in an environment of its own and outside the checkout: the same package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from support.micro import MICRO

ROOT = Path(__file__).parents[2]

WHOLE_WAY = """
import sys
import moevit
from moevit.model.config import ModelConfig
from moevit.model.scenes.render import scene

assert moevit.__file__.startswith(sys.prefix), moevit.__file__
model = moevit.random_model(ModelConfig.from_json(sys.argv[1]))
model.save("micro.safetensors")
program = model.quantize(2).compile(preset="micro", tasks="depth")
image = scene("test", 0, *model.config.image).image
with moevit.open_device("golden", program) as golden, moevit.open_device("sim", program) as sim:
    assert (golden.run(image).output == sim.run(image).output).all()
print(moevit.load().tasks)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in project["tool"]["setuptools"]["package-dir"].values():
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(copy)]
    subprocess.run([*pip, *options], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_what_it_holds(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "moevit/__init__.py",
        "moevit/py.typed",
        "moevit/bench/frames.py",
        "moevit/cli/commands/run.py",
        "moevit/model/checkpoints/nano.safetensors",
    } <= names
    harness = {f"moevit/sim/harness/{path.name}" for path in (ROOT / "sim/harness").iterdir()}
    assert harness <= names
    data = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    assert not {name for name in data if name.startswith(("moevit/bench/", "tests/"))}


@pytest.mark.slow
def test_it_runs_where_nothing_else_is(wheel: Path, tmp_path: Path) -> None:
    """The packages that it needs are those of this environment, by a path: they take gigabytes."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    (places,) = home.glob("lib/python*/site-packages")
    (places / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    work = tmp_path / "elsewhere"
    work.mkdir()

    def run(*arguments: str) -> str:
        done = subprocess.run(
            arguments, cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    text = run(str(python), "-c", WHOLE_WAY, MICRO.to_json())
    assert text.startswith("('segmentation', ")
    command = str(home / "bin" / "moevit")
    assert "model nano" in run(command, "--version")
    demo = ["run", "--model", "micro.safetensors", "--preset", "micro", "--task", "depth"]
    assert "panel: out/scene-0-panel.png" in run(command, *demo)
