"""The training set: rendered once into a cache of memory-mapped arrays, then drawn in batches.

A cache is a folder of ``.npy`` files, one a field, below :func:`moevit.quant.paths.cache_root`.
It is rendered into a temporary folder and moved into place when complete, so a folder that exists
is whole. Depth is kept as float16 metres and normals as int8 / 127, which is finer than any loss
can see; validation always renders anew in full precision.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from moevit.quant.notes import note
from moevit.quant.paths import cache_root, temporary_root

from ..config import DEFAULT_KINDS
from ..kinds import TASK_KINDS
from ..scenes.render import Sample, scene

__all__ = ["Cache", "samples"]

_FIXED = ("image", *DEFAULT_KINDS)
"""Fields that every cache has."""


def _layout(name: str) -> tuple[Any, tuple[int, ...]]:
    """Type and last axis of a field."""
    return (np.uint8, (3,)) if name == "image" else TASK_KINDS[name].kept


def samples(split: str, count: int, height: int, width: int) -> Iterator[Sample]:
    """Render the first ``count`` scenes of a split, in order."""
    for index in range(count):
        yield scene(split, index, height, width)


def _fingerprint(split: str, height: int, width: int) -> str:
    """Changes with what the generator makes, so that an old cache is never mistaken for a new."""
    digest = hashlib.sha256()
    for sample in samples(split, 4, height, width):
        for array in (sample.image, sample.segmentation, sample.edges, sample.saliency):
            digest.update(array.tobytes())
    return digest.hexdigest()[:10]


def _encode(sample: Sample, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    return {
        name: sample.image if name == "image" else TASK_KINDS[name].keep(getattr(sample, name))
        for name in names
    }


def _render_range(folder: str, split: str, height: int, width: int, start: int, stop: int) -> int:
    """Render scenes ``start`` to ``stop`` into their places; returns how many."""
    names = [path.stem for path in sorted(Path(folder).glob("*.npy"))]
    arrays = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r+") for name in names}
    for index in range(start, stop):
        for name, value in _encode(scene(split, index, height, width), names).items():
            arrays[name][index] = value
    return stop - start


def _render_chunk(bounds: tuple[int, int], folder: str, split: str, size: tuple[int, int]) -> int:
    return _render_range(folder, split, *size, *bounds)


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Cache:
    """Memory-mapped fields of the first ``len(cache)`` scenes of a split."""

    fields: dict[str, NDArray[np.generic]]

    def __len__(self) -> int:
        return len(self.fields["image"])

    @classmethod
    def open(
        cls,
        split: str,
        count: int,
        height: int,
        width: int,
        *,
        kinds: Sequence[str] = (),
        workers: int | None = None,
    ) -> Cache:
        """The cache of the first ``count`` scenes, rendered now where it does not exist yet.

        ``kinds``: of tasks whose truths are needed beside the usual ones.
        """
        if count < 1:
            raise ValueError(f"A cache must hold at least one scene, not {count!r}")
        name = f"{split}-{count}-{height}x{width}-{_fingerprint(split, height, width)}"
        more = sorted(set(kinds) - set(_FIXED))
        name, fields = "-".join([name, *more]), (*_FIXED, *more)
        folder = cache_root() / "scenes" / name
        if not os.path.isdir(folder) and not _can_write(folder.parent):
            note(f"{cache_root()}: not writable; scenes are kept for this run only (MOEVIT_CACHE)")
            folder = temporary_root() / "scenes" / name
        if not folder.is_dir():
            number = workers or os.cpu_count() or 1
            cls._render(folder, split, count, (height, width), fields, number)
        return cls({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in fields})

    @staticmethod
    def _render(
        folder: Path,
        split: str,
        count: int,
        size: tuple[int, int],
        fields: Sequence[str],
        workers: int,
    ) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial_folder = Path(tempfile.mkdtemp(prefix=".rendering-", dir=folder.parent))
        try:
            for name in fields:
                dtype, tail = _layout(name)
                np.lib.format.open_memmap(
                    partial_folder / f"{name}.npy", "w+", dtype, (count, *size, *tail)
                )
            chunks = [(i, min(i + 64, count)) for i in range(0, count, 64)]
            work = partial(_render_chunk, folder=str(partial_folder), split=split, size=size)
            with Progress(console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task(f"Rendering {count} {split} scenes", total=count)
                if workers > 1 and len(chunks) > 1:
                    with ProcessPoolExecutor(workers) as pool:
                        for done in pool.map(work, chunks):
                            progress.advance(task, done)
                else:
                    for chunk in chunks:
                        progress.advance(task, work(chunk))
            try:
                partial_folder.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process finished the same cache first
                    raise
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)
