"""pyproject.toml, the folders on disk, and what may import what."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("api", "bench", "boards", "cli", "compiler", "hw", "model", "quant", "serve", "sim")
#: The folder that is the package `moevit` itself; all others are packages in it.
ROOT_PACKAGE = "api"

#: What each folder may import of the others: dependencies point one way.
ALLOWED = {
    "quant": set(),
    "hw": {"quant"},
    "compiler": {"quant", "hw"},
    "sim": {"quant", "hw", "compiler"},
    "boards": {"quant", "hw", "compiler", "sim"},
    "model": {"quant"},
    "api": {"quant", "hw", "compiler", "sim", "boards", "model"},
    "bench": {"quant", "hw", "compiler", "sim", "boards", "model", "api"},
    "serve": {"quant", "hw", "compiler", "sim", "boards", "model", "api"},
    "cli": set(FOLDERS),
}
#: torch is for the model, and for what makes, quantises and scores one.
TORCH = ("model", "api", "bench")


def package_of(folder: Path) -> str:
    """The import name of a folder."""
    top, *rest = folder.relative_to(ROOT).parts
    return ".".join(["moevit", *([] if top == ROOT_PACKAGE else [top]), *rest])


def folder_of(name: str) -> str:
    """The top-level folder that holds what is imported as ``moevit.<name>``."""
    first = name.split(".")[1]
    return first if first in FOLDERS else ROOT_PACKAGE


def packages_on_disk() -> Iterator[str]:
    for folder in FOLDERS:
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            yield package_of(init.parent)


def modules() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every absolute import of a file, within functions too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            if node.module == "moevit":
                yield from (f"moevit.{alias.name}" for alias in node.names)


def test_every_package_is_listed() -> None:
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(packages_on_disk())


def test_every_folder_is_mapped() -> None:
    mapped = PROJECT["tool"]["setuptools"]["package-dir"]
    assert mapped == {package_of(ROOT / folder): folder for folder in FOLDERS}


def test_the_checkout_is_no_package() -> None:
    assert not (ROOT / "__init__.py").exists()


def test_no_module_hides_a_package() -> None:
    modules = {path.stem for path in (ROOT / ROOT_PACKAGE).glob("*.py")}
    assert not modules & set(FOLDERS)


def test_python_folders_are_packages() -> None:
    orphans = {p.parent for p in modules() if not (p.parent / "__init__.py").exists()}
    assert not orphans


def test_each_folder_name_is_banned_as_an_import() -> None:
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert sorted(banned) == sorted(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_dependencies_point_one_way(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in imported(path)
        if name.startswith("moevit.") and folder_of(name) not in ALLOWED[folder] | {folder}
    ]
    assert not wrong


def test_only_the_model_s_side_imports_torch() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in modules()
        for name in imported(path)
        if name.split(".")[0] in ("torch", "torchvision", "timm")
        and not path.relative_to(ROOT).as_posix().startswith(TORCH)
    ]
    assert not wrong


def test_only_the_runner_imports_the_runner_api() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in modules()
        if any(name.startswith("cocotb_tools") for name in imported(path))
    }
    assert users == {"sim/runner.py"}


def test_importing_works_from_anywhere(tmp_path: Path) -> None:
    code = "import " + ", ".join(package_of(ROOT / folder) for folder in FOLDERS)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_constraints_satisfy_the_bounds() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {pin.name.lower().replace("_", "-"): str(pin.specifier)[2:] for pin in pins}
    assert not any("+" in version for version in versions.values())
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(text for extra in extras for text in extra)]
    for text in wanted:
        requirement = Requirement(text)
        assert requirement.name in versions, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(versions[requirement.name], prereleases=True), text


def test_the_native_sources_are_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["moevit.sim"]
    packaged = {path for pattern in patterns for path in (ROOT / "sim").glob(pattern)}
    assert packaged == {path for path in (ROOT / "sim" / "harness").iterdir() if path.is_file()}


def test_the_c_library_is_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["moevit.boards.driver"]
    folder = ROOT / "boards" / "driver"
    packaged = {path for pattern in patterns for path in folder.glob(pattern)}
    assert packaged == {path for path in (folder / "c").iterdir() if path.is_file()}
