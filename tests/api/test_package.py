"""What `import moevit` gives, and that it costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import moevit
from moevit import errors
from moevit.quant.errors import MoevitError

SOURCE = Path(str(moevit.__file__))


def test_every_name_is_there() -> None:
    for name in moevit.__all__:
        assert getattr(moevit, name) is getattr(moevit, name)
    assert set(moevit.__all__) <= set(dir(moevit))
    with pytest.raises(AttributeError, match="module 'moevit' has no attribute 'nonsense'"):
        _ = moevit.nonsense


def test_type_checkers_see_what_python_sees() -> None:
    """Names are imported for type checkers, and looked up when used: both lists are the same."""
    tree = ast.parse(SOURCE.read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            seen[alias.name] = str(node.module).removeprefix("moevit.")
    assert seen == moevit._MODULES
    assert sorted(seen) == sorted(moevit.__all__)
    modules = {path.stem for path in SOURCE.parent.glob("*.py")}
    assert not modules & set(moevit.__all__)  # a module would hide a name, once it is imported


def test_importing_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; import moevit; moevit.__version__\n"
        "heavy = {'torch', 'numpy', 'amaranth', 'typer'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_loading_a_model_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; import moevit; moevit.load('nano').config\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_every_exception_is_documented() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert all(issubclass(kind, MoevitError) for kind in kinds)
    for kind in kinds[1:]:
        assert kind is MoevitError or f"`{kind.__name__}`" in str(errors.__doc__)


def test_types_are_complete() -> None:
    assert (SOURCE.parent / "py.typed").exists()


def test_what_lies_below_becomes_what_is_documented() -> None:
    with pytest.raises(moevit.UserError, match="text") as user, errors.documented():
        raise ValueError("text")
    assert isinstance(user.value, ValueError)
    with pytest.raises(moevit.FileError) as file, errors.documented():
        Path("/nowhere/at/all").read_text()
    assert file.value.filename == "/nowhere/at/all" and file.value.errno == 2
    with pytest.raises(moevit.FileError, match="text"), errors.documented():
        raise OSError("text")
    with pytest.raises(errors.ToolNotFoundError), errors.documented():
        raise errors.ToolNotFoundError("none")
    with pytest.raises(ZeroDivisionError), errors.documented():
        _ = 1 / 0
