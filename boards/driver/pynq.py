"""PYNQ as a transport: its Overlay loads the bitstream, its MMIO and allocate reach the rest.

For PYNQ 3 and 4. PYNQ sets the clocks and the widths of the processor's ports from the hardware
handoff when it loads a bitstream. Its Interrupt needs an interrupt controller in the design, and
ours goes to the processor directly: the driver waits at the UIO device ``fabric`` of PYNQ's images,
and polls where there is none.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle
from .errors import RoomError, TransportError
from .kernel import Kernel
from .linux import Uio, find_uio
from .transport import Buffer, Lock, Transport

__all__ = ["Pynq"]

_FABRIC = "fabric"
_LEAST = 8192  # XRT may place smaller buffers beyond 32 bits


class Pynq(Transport):
    """A board that runs PYNQ.

    Parameters
    ----------
    bundle:
        Its bitstream and hardware handoff.
    device:
        A ``pynq.Device``; the one of this board by default.
    download:
        False: the bitstream is there already.

    Raises
    ------
    BusyError
        If another process drives the accelerator.
    TransportError
        If PYNQ cannot load the bitstream, or the handoff has no accelerator.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Any = None,
        download: bool = True,
        kernel: Kernel | None = None,
    ) -> None:
        self._uio: Uio | None = None
        about = bundle.manifest
        self.name = f"{about.instance} of {about.board}"
        self._lock = Lock(Lock.path(f"{about.register_base:x}"), self.name)
        try:
            self._load(bundle, device, download)
            kernel = kernel or Kernel()
            fabric = find_uio(kernel, _FABRIC)
            if fabric is not None:
                self._uio = Uio(kernel, fabric, self.name)
        except BaseException:
            self.close()
            raise
        self.interrupt = self._uio is not None

    def _load(self, bundle: Bundle, device: Any, download: bool) -> None:
        try:
            import pynq
        except ImportError as error:
            raise TransportError(f"pynq cannot be imported ({error}); is this PYNQ?") from None
        about = bundle.manifest
        # PYNQ applies any overlay that lies beside a bitstream, and ours loads the bitstream.
        self._folder = tempfile.mkdtemp(prefix="moevit-")
        for role in ("bitstream", "handoff"):
            shutil.copy(bundle.one(role), self._folder)
        path = str(Path(self._folder) / bundle.one("bitstream").name)
        try:
            self._overlay = pynq.Overlay(path, device=device, download=download)
        except (OSError, RuntimeError, ValueError) as error:
            raise TransportError(
                f"{bundle.one('bitstream')}: PYNQ cannot load it: {error}"
            ) from None
        found = self._overlay.ip_dict.get(about.instance)
        if found is None or found["type"] != about.vlnv:
            there = ", ".join(f"{k} ({v['type']})" for k, v in self._overlay.ip_dict.items())
            raise TransportError(
                f"{bundle.one('handoff')}: no {about.instance} ({about.vlnv}); it has {there}"
            )
        self._device = self._overlay.device
        base, count = found["phys_addr"], found["addr_range"]
        self._mmio = pynq.MMIO(base, count, device=self._device)
        self._allocate = pynq.allocate

    def read(self, offset: int) -> int:
        return int(self._mmio.read(offset))

    def write(self, offset: int, value: int) -> None:
        self._mmio.write(offset, int(value))

    def allocate(self, count: int, what: str) -> Buffer:
        try:
            memory = self._allocate((max(count, _LEAST),), np.uint8, target=self._device)
        except (RuntimeError, MemoryError, OSError) as error:
            raise RoomError(
                f"no room for the {what}: {count:,} contiguous bytes are wanted ({error}); boot "
                "with more (cma= of the kernel), and see that no other notebook holds buffers"
            ) from None
        return _Contiguous(memory)

    def wait(self, seconds: float) -> bool:
        if self._uio is not None:
            return self._uio.wait(seconds)
        time.sleep(seconds)
        return False

    def now(self) -> float:
        return time.monotonic()

    def reset(self) -> None:
        """Loads the bitstream again."""
        self._overlay.download()

    def close(self) -> None:
        if self._uio is not None:
            self._uio.close()
        with contextlib.suppress(AttributeError, OSError):
            shutil.rmtree(self._folder)
        self._lock.release()


class _Contiguous(Buffer):
    """A ``pynq.buffer.PynqBuffer``, which flushes and invalidates only where caches need it."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.array = np.asarray(memory)
        self.address = int(memory.device_address)

    def to_device(self, start: int = 0, count: int | None = None) -> None:
        self._memory[start:][:count].flush()

    def to_host(self, start: int = 0, count: int | None = None) -> None:
        self._memory[start:][:count].invalidate()

    def close(self) -> None:
        self.array = np.zeros(0, np.uint8)
        self._memory.freebuffer()
