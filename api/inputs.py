"""Image files that people name, and the names of what is made of them."""

from __future__ import annotations

import glob
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from moevit.model.pictures import FORMATS, SUFFIXES
from moevit.quant.errors import UserError

__all__ = ["image_files", "output_names"]

_NAME_BYTES = 255  # of a file's name on the usual file systems
_ROOM = 32  # bytes left of them for what is put before and behind


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The images that `paths` name, in their order: files, folders and patterns such as `a/*.png`.

    A folder stands for its images, those that :data:`moevit.model.pictures.SUFFIXES` lists, in the
    order of their names, without hidden files and what macOS adds (`._*`). A path that exists is
    never taken for a pattern.

    Raises
    ------
    UserError
        For a folder or a pattern without images, and a path that does not exist.
    """
    return [file for path in paths for file in _expanded(path)]


def _expanded(path: Path) -> list[Path]:
    if path.is_dir():
        if not (found := _shown(path.iterdir())):
            raise UserError(f"{path}: has no images; expected files ending in {_endings()}")
        return found
    if path.exists() or not glob.has_magic(str(path)):
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; expected a {FORMATS} image, a folder or a pattern"
            )
        return [path]
    if not (found := _shown(Path(name) for name in glob.glob(str(path), recursive=True))):
        raise UserError(f"{path}: matches no image; expected files ending in {_endings()}")
    return found


def _endings() -> str:
    return ", ".join(SUFFIXES)


def _shown(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def output_names(names: Sequence[str], *, room: int = _ROOM) -> list[str]:
    """A file's name without its ending for each of `names`, which are paths or titles.

    Each is the name's stem with dashes for spaces and control characters, cut where with `room`
    bytes more it would be too long for a file system, and numbered where another is the same, be it
    by case alone.
    """
    taken: set[str] = set()
    found = []
    for name in names:
        stem = "".join("-" if _blank(c) else c for c in Path(name).stem)
        for number in range(1, len(names) + 1):
            end = f"-{number}" if number > 1 else ""
            made = _cut(stem, _NAME_BYTES - room - len(end)) + end
            if (key := unicodedata.normalize("NFC", made).casefold()) not in taken:
                break
        taken.add(key)
        found.append(made)
    return found


def _blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def _cut(text: str, size: int) -> str:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) <= size:
        return text
    return data[:size].decode("utf-8", "ignore")
