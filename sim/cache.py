"""The cache of built simulators and generated Verilog: whole entries or nothing.

An entry is a directory named by a hash of everything that it was made from. It is made under
another name and renamed when it is complete, with a lock held, so that an interrupt leaves nothing
and two processes do not make the same entry. Where the cache cannot be written, or is full, entries
last as long as the process, with a note. `MOEVIT_CACHE` names another place than
`$XDG_CACHE_HOME/moevit` or `~/.cache/moevit`.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from moevit.quant.notes import note
from moevit.quant.paths import cache_root, temporary_root

__all__ = ["cache_root", "digest", "entry", "source_digest", "why_unusable"]

_LEAST = 64 << 20  # bytes that must be free: a built simulator is smaller


def digest(*parts: str | bytes) -> str:
    """32 hexadecimal digits that depend on each part and on where one ends and the next begins."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()[:32]


def source_digest(*folders: Path, suffixes: tuple[str, ...] = (".py",)) -> str:
    """The digest of all files below `folders` that end in one of `suffixes`."""
    parts: list[str | bytes] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in suffixes and path.is_file():
                parts += [path.relative_to(folder).as_posix(), path.read_bytes()]
    return digest(*parts)


@contextlib.contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(
    kind: str,
    key: str,
    make: Callable[[Path], None],
    waiting: Callable[[], None] = lambda: None,
) -> Path:
    """The directory of entry `key`, made by `make(directory)` if it is not there yet.

    Parameters
    ----------
    kind:
        Name of the folder below `cache_root()` that holds entries of this kind.
    key:
        From `digest`: the entry's name.
    make:
        Fills an empty directory. If it raises, the entry does not come into being.
    waiting:
        Called once if another process is making the entry and this one has to wait for it.
    """
    folder = cache_root() / kind
    final = folder / key
    if os.path.isdir(final):  # False where one may not look
        return final
    if reason := why_unusable(folder):
        return _uncached(kind, key, make, reason)
    with _locked(folder / f"{key}.lock", waiting):
        if final.is_dir():
            return final
        try:
            return _made(final, make)
        except Exception:
            if not (reason := why_unusable(folder)):
                raise
    return _uncached(kind, key, make, reason)


def _made(final: Path, make: Callable[[Path], None]) -> Path:
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        make(partial)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _uncached(kind: str, key: str, make: Callable[[Path], None], reason: str) -> Path:
    final = temporary_root() / kind / key
    if final.is_dir():
        return final
    note(f"{cache_root()}: {reason}; what is made is kept for this run only (MOEVIT_CACHE)")
    return _made(final, make)


def why_unusable(folder: Path) -> str:
    """Why no entry can be made in `folder`, which is made if it can be; empty if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or type(error).__name__
    return f"is full, {free >> 20} MiB free" if free < _LEAST else ""
