"""What the driver asks of Linux: files of sysfs and configfs, mapped devices, an interrupt.

One class, so that tests put a kernel of their own in its place.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Kernel", "Mapping", "Registers"]


class Registers:
    """32-bit registers of a mapped device; an access is one load or store of 32 bits."""

    def __init__(self, file: int, size: int) -> None:
        self._map = mmap.mmap(file, size)
        self._words = memoryview(self._map).cast("I")

    def read(self, offset: int) -> int:
        return int(self._words[offset >> 2])

    def write(self, offset: int, value: int) -> None:
        self._words[offset >> 2] = value

    def close(self) -> None:
        self._words.release()
        self._map.close()


class Mapping:
    """The bytes of a mapped device: ``array``, uint8."""

    def __init__(self, file: int, size: int) -> None:
        self._map = mmap.mmap(file, size)
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(self._map, np.uint8)

    def close(self) -> None:
        del self.array  # the kernel unmaps it with the last view


class Kernel:
    """The running one."""

    def read(self, path: str) -> str:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()

    def write(self, path: str, text: str) -> None:
        Path(path).write_text(text, encoding="ascii")

    def write_bytes(self, path: str, data: bytes) -> None:
        Path(path).write_bytes(data)

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def list(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none where there is no such folder."""
        place = Path(folder)
        return sorted(p.name for p in place.iterdir()) if place.is_dir() else []

    def make(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)

    def remove(self, folder: str) -> None:
        Path(folder).rmdir()

    def open(self, path: str, *, sync: bool = False) -> int:
        """A device's file descriptor; ``sync`` asks for an uncached mapping."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_SYNC if sync else 0))

    def close(self, file: int) -> None:
        os.close(file)

    def registers(self, file: int, size: int) -> Registers:
        return Registers(file, size)

    def memory(self, file: int, size: int) -> Mapping:
        return Mapping(file, size)

    def enable_interrupt(self, file: int) -> None:
        """uio_pdrv_genirq masks the interrupt when it comes; this unmasks it."""
        os.write(file, struct.pack("<I", 1))

    def wait_interrupt(self, file: int, seconds: float) -> bool:
        """Whether it came within ``seconds``."""
        ready, _, _ = select.select([file], [], [], seconds)
        if ready:
            os.read(file, 4)
        return bool(ready)
