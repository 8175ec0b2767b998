"""Files of weights as data: what kind a file is by its content, and its objects without its code.

A PyTorch file is a pickle. It is read with torch's restricted unpickler, which knows tensors and
containers; anything else in it (``argparse.Namespace``, NumPy's numbers, classes of the project
that wrote it) becomes an :class:`Inert` object that holds what was stored and can do nothing. No
code of the file, and none that it names, is run.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

__all__ = ["Inert", "read_objects"]

_FORBIDDEN = ("builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess")
"""Modules that no data needs: a file that asks for them wants to run something."""
_MOST_KINDS = 1000  # of objects in one file
_HEAD = 512  # bytes that tell what a file is


class Inert:
    """An object of a class that is not loaded: ``held`` is what the file stored in it."""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        """Whatever arguments the file gives, none of them is looked at."""
        made = super().__new__(cls)
        made.held = {}
        return made

    held: Mapping[str, Any]

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.held = state if isinstance(state, Mapping) else {}


def read_objects(path: Path) -> Any:
    """What a file holds: dictionaries, lists, numbers, tensors and :class:`Inert` objects.

    PyTorch's two formats and safetensors, told apart by content. Raises ``ValueError``, one line
    that names the file and says what it is instead.
    """
    if path.is_dir():
        raise ValueError(f"Weights {path} are a folder, expected a file")
    if not path.is_file():
        raise ValueError(f"Weights {path} do not exist")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    other = _other(head, path)
    if other:
        raise ValueError(f"Weights {path} are {other}")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _safetensors(path)
    return _pickled(path)


def _other(head: bytes, path: Path) -> str:
    """What a file is that holds no weights, with the way out."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<":
        return (
            "an HTML or XML page, not weights: the download gave a web page (of confirmation or "
            "log-in) in their place"
        )
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not weights: fetch the file itself with `git lfs pull`"
    if text[:1] == b"{":
        return "a JSON file, not weights; of an index name the files that it lists"
    if head.startswith(b"\x93NUMPY") or (head.startswith(b"PK") and _is_npz(path)):
        return (
            "arrays of NumPy (as Google's JAX checkpoints are), not a PyTorch or safetensors file: "
            "convert them, as timm.create_model(..., checkpoint_path=FILE) does, and save the "
            "state dictionary"
        )
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "a compressed archive, not weights: unpack it"
    return ""


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"Weights {path} are not a whole safetensors file: {error}") from None


def _pickled(path: Path) -> Any:
    inert: dict[str, type] = {}
    try:
        with warnings.catch_warnings():  # of old forms of pickle; what is refused is said below
            warnings.simplefilter("ignore")
            while True:
                known: list[Any] = [(kind, name) for name, kind in inert.items()]
                try:
                    with torch.serialization.safe_globals(known):
                        return torch.load(path, map_location="cpu", weights_only=True)
                except pickle.UnpicklingError as error:
                    name = _asked_for(str(error))
                    if name is None or name in inert or len(inert) == _MOST_KINDS:
                        raise
                    if "." not in name or name.split(".")[0] in _FORBIDDEN:
                        raise ValueError(
                            f"Weights {path} are not a file of plain tensors ({name}); loading "
                            "them would run code from the file. Save the state dictionary alone"
                        ) from None
                    # a class for each name: torch keeps them by class as well as by name
                    inert[name] = type(name.rpartition(".")[2] or "Inert", (Inert,), {})
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        line = reason.strip().partition("\n")[0].split(". ")[0]
        what = f" ({line})" if line else ""
        raise ValueError(
            f"Weights {path} are not a file of plain tensors{what}; loading them would run code "
            "from the file. Save the state dictionary alone"
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = f" {str(error).splitlines()[0].split('. ')[0]}" if str(error) else ""
        raise ValueError(
            f"Weights {path} are not a whole PyTorch file, cut short or damaged: "
            f"{type(error).__name__}{reason}"
        ) from None
    except (AttributeError, IndexError, TypeError, UnicodeDecodeError) as error:  # of damage
        raise ValueError(
            f"Weights {path} are not a whole PyTorch file, cut short or damaged: "
            f"{type(error).__name__}"
        ) from None


def _asked_for(message: str) -> str | None:
    """The class or function that torch's unpickler does not know."""
    found = re.search(r"GLOBAL ([^\s]+) (?:was not|whose module)", message)
    return found[1] if found else None
