"""A bundle: the folder with everything that a board needs, and ``bundle.json``, which lists it.

| role | file |
|---|---|
| ``bitstream`` | ``moevit.bit``, as PYNQ loads it |
| ``bitstream-bin`` | ``moevit.bit.bin``, as the kernel's fpga-manager loads it |
| ``handoff`` | ``moevit.hwh`` (boards/hwh.py) |
| ``platform`` | ``moevit.xsa`` |
| ``overlay-source``, ``overlay`` | ``moevit.dtso``, ``moevit.dtbo`` |
| ``config`` | ``config.json``, the accelerator's configuration |
| ``program`` | ``programs/NAME.moevit``, as ``moevit compile`` writes them |
| ``image`` | ``golden/NAME.npy``: (height, width, channels) uint8 |
| ``golden`` | ``golden/NAME-TASK.npy``: (rows, columns), the integers that the task must give |
| ``driver``, ``c`` | ``moevit_driver/``, ``c/``: this driver, and its C library |
| ``report`` | ``reports/``: what the build was judged by |

The folder appears whole or not at all; each file's length and SHA-256 are in the manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np

from .errors import BundleError

__all__ = [
    "FORMAT",
    "MANIFEST",
    "ROLES",
    "Bundle",
    "Case",
    "Entry",
    "Manifest",
    "Timing",
    "Writer",
]

FORMAT = "moevit-bundle-1"
"""Names the format of ``bundle.json``; a manifest that says anything else is refused."""

MANIFEST = "bundle.json"

ROLES = (
    "bitstream",
    "bitstream-bin",
    "handoff",
    "platform",
    "overlay-source",
    "overlay",
    "config",
    "program",
    "image",
    "golden",
    "driver",
    "c",
    "report",
)
SINGLE = frozenset(ROLES[:7])
"""Roles that one file at most has."""


@dataclass(frozen=True)
class Timing:
    """What the implementation's timing report said. ``allowed``: built although it was not met."""

    met: bool
    wns_ns: float | None = None
    allowed: bool = False


@dataclass(frozen=True)
class Manifest:
    """What is true of the whole bundle.

    ``config_hash``: 16 hexadecimal digits. ``clock_mhz``: of the bitstream, as the board's PLL
    gives it. ``register_base``, ``register_bytes``: in the host's address map. ``memory_base``,
    ``memory_bytes``: the physical addresses that every memory port reaches. ``vlnv`` and
    ``instance``: the accelerator in the hardware handoff. ``timing``: None where no tool has said.
    """

    board: str
    part: str
    config_name: str
    config_hash: str
    clock_mhz: float
    register_base: int
    register_bytes: int
    memory_base: int = 0
    memory_bytes: int = 1 << 31
    vlnv: str = "moevit.org:ip:moevit:1.0"
    instance: str = "moevit_0"
    timing: Timing | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A file: its path within the bundle, what it is, and how to know that it is whole."""

    path: str
    role: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Case:
    """An image and what a task of a program must make of it; all three are paths in the bundle."""

    program: str
    image: str
    task: str
    output: str


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read."""

    root: Path
    manifest: Manifest
    files: tuple[Entry, ...]
    cases: tuple[Case, ...] = field(default=())

    @classmethod
    def read(cls, root: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """The bundle in the folder ``root``; with ``verify`` every file's SHA-256 is checked.

        Raises ``BundleError`` naming the file, what was found and what was expected.
        """
        root = Path(root)
        path = root / MANIFEST
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; expected a bundle") from None
        except ValueError as error:
            raise BundleError(f"{path}: is not JSON ({error})") from None
        found = about.get("format") if isinstance(about, dict) else None
        if found != FORMAT:
            raise BundleError(f"{path}: format is {found!r}, expected {FORMAT!r}")
        try:
            timing = about.get("timing")
            names = {f.name for f in fields(Manifest)} - {"timing", "notes"}
            manifest = Manifest(
                **{name: about[name] for name in sorted(names)},
                timing=None if timing is None else Timing(**timing),
                notes=tuple(about["notes"]),
            )
            bundle = cls(
                root=root,
                manifest=manifest,
                files=tuple(Entry(**entry) for entry in about["files"]),
                cases=tuple(Case(**case) for case in about["cases"]),
            )
        except (KeyError, TypeError) as error:
            raise BundleError(f"{path}: field {error} is missing or wrong") from None
        bundle._check_names(path)
        if verify:
            bundle.verify()
        return bundle

    def _check_names(self, path: Path) -> None:
        for entry in self.files:
            if entry.role not in ROLES:
                raise BundleError(f"{path}: {entry.path} has the unknown role {entry.role!r}")
            _inside(entry.path)
        listed = {entry.path: entry.role for entry in self.files}
        for case in self.cases:
            wanted = {case.program: "program", case.image: "image", case.output: "golden"}
            for name, role in wanted.items():
                if listed.get(name) != role:
                    raise BundleError(f"{path}: case {case.task} names {name}, which is no {role}")

    def verify(self) -> None:
        """Checks length and SHA-256 of every file; ``BundleError`` names the first wrong one."""
        for entry in self.files:
            path = self.root / entry.path
            try:
                data = path.read_bytes()
            except OSError as error:
                raise BundleError(f"{path}: {error.strerror}; the bundle lists it") from None
            if len(data) != entry.bytes:
                raise BundleError(f"{path}: has {len(data)} bytes, expected {entry.bytes}")
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise BundleError(f"{path}: is damaged: its SHA-256 is not the one in {MANIFEST}")

    def all(self, role: str) -> tuple[Path, ...]:
        """The files of a role, in the manifest's order."""
        return tuple(self.root / entry.path for entry in self.files if entry.role == role)

    def one(self, role: str) -> Path:
        """The only file of a role; ``BundleError`` where there is none."""
        found = self.all(role)
        if not found:
            raise BundleError(f"{self.root}: the bundle has no {role}")
        return found[0]


class Writer:
    """Makes a bundle: add files, and the folder is there when the block ends well.

    >>> with Writer(folder, manifest) as bundle:  # doctest: +SKIP
    ...     bundle.add("moevit.bit", data, role="bitstream")
    ...     bundle.add_case(program="programs/nano.moevit", name="scene", image=image,
    ...                     outputs={"depth": integers})

    Raises
    ------
    BundleError
        If the target exists and is no bundle, or a path, role or case is wrong.
    OSError
        If the folder cannot be written; nothing is left then.
    """

    def __init__(self, target: str | os.PathLike[str], manifest: Manifest) -> None:
        self.target = Path(target)
        self.manifest = manifest
        self._files: dict[str, Entry] = {}
        self._cases: list[Case] = []
        self._scratch: Path | None = None

    def __enter__(self) -> Writer:
        if self.target.exists() and not (
            self.target.is_dir()
            and ((self.target / MANIFEST).is_file() or not any(self.target.iterdir()))
        ):
            raise BundleError(f"{self.target}: exists and is no bundle")
        self.target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(dir=self.target.parent, prefix=f".{self.target.name}-")
        self._scratch = Path(scratch)
        mask = os.umask(0)
        os.umask(mask)
        self._scratch.chmod(0o777 & ~mask)  # mkdtemp's are private
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._scratch is not None
        try:
            if kind is None:
                self._write_manifest()
                old = self._scratch.with_name(self._scratch.name + "-old")
                if self.target.exists():
                    self.target.rename(old)
                self._scratch.rename(self.target)
                shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def add(self, path: str, data: bytes, *, role: str) -> None:
        """A file ``path`` (with ``/``, within the bundle) of ``data``."""
        if self._scratch is None:
            raise ValueError("Files are added within the writer's block")
        if role not in ROLES:
            raise BundleError(f"{path}: unknown role {role!r}; expected one of {', '.join(ROLES)}")
        if path in self._files or path == MANIFEST:
            raise BundleError(f"{path}: is in the bundle already")
        if role in SINGLE and any(entry.role == role for entry in self._files.values()):
            raise BundleError(f"{path}: the bundle has a {role} already")
        _inside(path)
        target = self._scratch / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        self._files[path] = Entry(path=path, role=role, bytes=len(data), sha256=digest)

    def add_files(self, folder: str, files: Iterable[Path], *, role: str) -> None:
        """Files under their own names in ``folder``."""
        for file in files:
            self.add(f"{folder}/{file.name}", file.read_bytes(), role=role)

    def add_case(self, *, program: str, name: str, image: Any, outputs: dict[str, Any]) -> None:
        """An image and what each task of ``program`` (a path that was added) must make of it.

        ``image``: (height, width, channels) uint8. ``outputs``: by task, (rows, columns) int8 or
        int16, the golden model's.
        """
        if self._files.get(program, Entry("", "", 0, "")).role != "program":
            raise BundleError(f"{program}: is no program of the bundle")
        path = f"golden/{name}.npy"
        self.add(path, _npy(image), role="image")
        for task, output in outputs.items():
            result = f"golden/{name}-{task}.npy"
            self.add(result, _npy(output), role="golden")
            self._cases.append(Case(program=program, image=path, task=task, output=result))

    def _write_manifest(self) -> None:
        about = {
            "format": FORMAT,
            **asdict(self.manifest),
            "files": [asdict(entry) for entry in self._files.values()],
            "cases": [asdict(case) for case in self._cases],
        }
        assert self._scratch is not None
        text = json.dumps(about, indent=1) + "\n"
        (self._scratch / MANIFEST).write_text(text, encoding="utf-8")


def _inside(path: str) -> None:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise BundleError(f"{path!r} is no path within a bundle")


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
