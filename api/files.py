"""Files of users: outputs that are there whole or not at all, inputs that can be read."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moevit.quant.errors import UserError

__all__ = ["atomic_path", "readable", "writable", "write_bytes", "write_json", "write_text"]


def writable(*targets: Path | None, folder: bool = False) -> None:
    """Checks that files (folders, with `folder`) can be written there, before the work for them.

    Raises
    ------
    UserError
        Naming what is in the way: a folder that is a file or the other way round, or no permission.
    """
    for target in targets:
        if target is None:
            continue
        if not folder and target.is_dir():
            raise UserError(f"{target}: is a folder; expected the name of a file")
        place = target if folder else target.parent
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise UserError(f"{place}: is a file; expected a folder")
        if not os.access(place, os.W_OK):
            raise UserError(f"{place}: not permitted to write there")


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it becomes `target` when the block ends well.

    It keeps the suffix, from which writers tell a format. If the block raises, Ctrl-C included,
    nothing is left and an older `target` stays. Missing parent folders are made.

    Raises
    ------
    UserError
        As :func:`writable`.
    OSError
        If its folder cannot be made or written to.
    """
    writable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix
    )
    os.close(number)
    partial = Path(name)
    try:
        yield partial
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # mkstemp's are private
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(target: Path, data: bytes) -> None:
    """Writes `data` to `target`, whole or not at all."""
    with atomic_path(target) as partial:
        partial.write_bytes(data)


def write_text(target: Path, text: str) -> None:
    """Writes `text` to `target` in UTF-8, whole or not at all."""
    write_bytes(target, text.encode())


def write_json(target: Path, value: Any) -> None:
    """Writes `value` to `target` as JSON, whole or not at all."""
    write_text(target, json.dumps(value, indent=2) + "\n")


def readable(path: Path, what: str) -> Path:
    """`path`, having checked that it is a file that can be read.

    Raises
    ------
    UserError
        Naming `what` the file was to be, if it is missing, a folder, or not readable.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; expected {what}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected {what}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: not permitted to read it; expected {what}")
    return path
