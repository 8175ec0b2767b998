"""Plain Linux as a transport, without PYNQ: fpga-manager, UIO, u-dma-buf.

What it relies on, and where each is told:

* Configuration: the kernel's FPGA region takes the bitstream when a device-tree overlay with
  ``firmware-name`` is applied, through configfs in the vendor's kernels (Kria's Ubuntu, PetaLinux)
  at ``/sys/kernel/config/device-tree/overlays`` (kernel: Documentation/driver-api/fpga, "FPGA
  Region"). The bundle's ``moevit.dtbo`` is one.
* Registers and interrupt: a UIO device named ``moevit`` (driver uio_pdrv_genirq; kernel:
  Documentation/driver-api/uio-howto.rst).
* Buffers: u-dma-buf (https://github.com/ikwzm/udmabuf), one contiguous region, of which the driver
  gives pieces. ``dma_coherent`` says whether the caches need care; where they do, the driver tells
  ``sync_for_device`` and ``sync_for_cpu``.
"""

from __future__ import annotations

import contextlib
import time

from .bundle import Bundle
from .errors import BusyError, DriverError, RoomError, TransportError
from .kernel import Kernel, Mapping, Registers
from .transport import PAGE, Buffer, Lock, Transport

__all__ = ["NAME", "Linux", "Uio", "find_uio"]

NAME = "moevit"
"""Of the UIO device, the overlay and the firmware."""

_UIO = "/sys/class/uio"
_DMA = ("/sys/class/u-dma-buf", "/sys/class/udmabuf")  # now, and up to version 3
_OVERLAYS = "/sys/kernel/config/device-tree/overlays"
_FIRMWARE = "/lib/firmware"
_TO_DEVICE, _FROM_DEVICE = 1, 2  # DMA_TO_DEVICE, DMA_FROM_DEVICE


def find_uio(kernel: Kernel, name: str) -> str | None:
    """``uio0`` or such, of the UIO device called ``name``; None where there is none."""
    for device in kernel.list(_UIO):
        if kernel.read(f"{_UIO}/{device}/name") == name:
            return device
    return None


class Uio:
    """A UIO device: one map of registers, and an interrupt."""

    def __init__(self, kernel: Kernel, device: str, what: str) -> None:
        self._kernel = kernel
        path = f"/dev/{device}"
        try:
            self._file = kernel.open(path)
        except OSError as error:
            raise TransportError(f"{path}: {error.strerror}; run as root") from None
        try:
            self._lock = Lock(self._file, what)
        except BusyError:
            kernel.close(self._file)
            raise
        self.size = int(kernel.read(f"{_UIO}/{device}/maps/map0/size"), 16)
        self._registers: Registers | None = None

    @property
    def registers(self) -> Registers:
        """Mapped when they are first asked for: there must be a bitstream behind them."""
        if self._registers is None:
            self._registers = self._kernel.registers(self._file, self.size)
        return self._registers

    def wait(self, seconds: float) -> bool:
        """Until the interrupt, at most ``seconds``."""
        self._kernel.enable_interrupt(self._file)
        return self._kernel.wait_interrupt(self._file, seconds)

    def close(self) -> None:
        """Unmaps, and lets the next process in."""
        if self._registers is not None:
            self._registers.close()
        self._lock.release()
        self._kernel.close(self._file)


class Linux(Transport):
    """A board that runs Linux with UIO and u-dma-buf.

    Parameters
    ----------
    bundle:
        Its bitstream and overlay are loaded unless the UIO device is there already. None: it has
        to be there.
    reload:
        Load them in any case.

    Raises
    ------
    TransportError
        If there is no UIO device or no u-dma-buf, or the kernel refuses the overlay.
    BusyError
        If another process has the UIO device.
    """

    interrupt = True

    def __init__(
        self, bundle: Bundle | None = None, *, reload: bool = False, kernel: Kernel | None = None
    ) -> None:
        self.name = "the accelerator of this board"
        self._kernel = kernel or Kernel()
        self._bundle = bundle
        self._uio: Uio | None = None
        self._lock = Lock(Lock.path("linux"), self.name)
        try:
            if reload or find_uio(self._kernel, NAME) is None:
                self._configure()
            self._attach()
            self._pool = _Pool(self._kernel)
        except BaseException:
            self.close()
            raise

    # Configuration -----------------------------------------------------------------------------
    def _configure(self) -> None:
        """Bitstream and overlay of the bundle, by the kernel's FPGA region."""
        if self._bundle is None:
            raise TransportError(
                f"no UIO device {NAME!r}: the bitstream is not loaded; give the bundle"
            )
        kernel, target = self._kernel, f"{_OVERLAYS}/{NAME}"
        if not kernel.exists(_OVERLAYS):
            raise TransportError(
                f"{_OVERLAYS}: no such folder; this kernel has no overlays by configfs: mount "
                "configfs, or use the vendor's kernel, or load the overlay by its boot loader"
            )
        overlay, image = self._bundle.one("overlay"), self._bundle.one("bitstream-bin")
        try:
            if kernel.exists(target):
                kernel.remove(target)
            kernel.write_bytes(f"{_FIRMWARE}/{image.name}", image.read_bytes())
            kernel.make(target)
            kernel.write_bytes(f"{target}/dtbo", overlay.read_bytes())
        except OSError as error:
            raise TransportError(
                f"{error.filename or target}: {error.strerror}: the kernel refused the overlay; "
                "dmesg says why (run as root; another overlay may hold the FPGA region)"
            ) from None
        status = kernel.read(f"{target}/status") if kernel.exists(f"{target}/status") else "applied"
        if status != "applied":
            with contextlib.suppress(OSError):
                kernel.remove(target)
            raise TransportError(
                f"{target}: the kernel refused the overlay (status {status}); dmesg says why"
            )

    def _attach(self) -> None:
        device = find_uio(self._kernel, NAME)
        if device is None:
            raise TransportError(
                f"no UIO device {NAME!r}: is uio_pdrv_genirq loaded, with of_id=generic-uio?"
            )
        self._uio = Uio(self._kernel, device, self.name)

    @property
    def _device(self) -> Uio:
        if self._uio is None:
            raise DriverError(f"{self.name} is closed")
        return self._uio

    def reset(self) -> None:
        """Removes the overlay and applies it again, which configures the device again."""
        if self._uio is not None:
            self._uio.close()
            self._uio = None
        self._configure()
        self._attach()

    # Access ------------------------------------------------------------------------------------
    def read(self, offset: int) -> int:
        return self._device.registers.read(offset)

    def write(self, offset: int, value: int) -> None:
        self._device.registers.write(offset, value)

    def wait(self, seconds: float) -> bool:
        return self._device.wait(seconds)

    def now(self) -> float:
        return time.monotonic()

    def allocate(self, count: int, what: str) -> Buffer:
        return self._pool.allocate(count, what)

    def close(self) -> None:
        if self._uio is not None:
            self._uio.close()
            self._uio = None
        pool = getattr(self, "_pool", None)
        if pool is not None:
            pool.close()
        self._lock.release()


class _Pool:
    """The region of u-dma-buf: pieces of it by the page, the first that fits."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        found = [(place, name) for place in _DMA for name in kernel.list(place)]
        found.sort(key=lambda item: not item[1].startswith(NAME))  # ours first
        if not found:
            raise TransportError(
                "no u-dma-buf: load its module (insmod u-dma-buf.ko), and see that the overlay's "
                "node udmabuf-moevit is there"
            )
        self.place = "/".join(found[0])
        self.name = found[0][1]
        self.size = int(self._about("size"), 0)
        self.address = int(self._about("phys_addr"), 0)
        self.coherent = bool(int(self._about("dma_coherent"), 0))
        # Mapped with the caches on, which sync_for_* cares for; sync_mode 1 leaves them on.
        if not self.coherent:
            kernel.write(f"{self.place}/sync_mode", "1")
        self._file = kernel.open(f"/dev/{self.name}")
        self._mapping: Mapping = kernel.memory(self._file, self.size)
        self._taken: dict[int, int] = {}

    def _about(self, what: str) -> str:
        path = f"{self.place}/{what}"
        return self._kernel.read(path) if self._kernel.exists(path) else "0"

    def allocate(self, count: int, what: str) -> Buffer:
        at = 0
        for start, end in sorted(self._taken.items()):
            if start - at >= count:
                break
            at = end
        if self.size - at < count:
            raise RoomError(
                f"no room for the {what}: {count:,} bytes are wanted, and {self.size - at:,} of "
                f"{self.size:,} in {self.name} are free; give it more (size in the overlay, "
                "cma= of the kernel)"
            )
        self._taken[at] = -(-(at + count) // PAGE) * PAGE
        return _Piece(self, at, count)

    def free(self, at: int) -> None:
        self._taken.pop(at, None)

    def view(self, at: int, count: int) -> object:
        return self._mapping.array[at : at + count]

    def sync(self, direction: int, at: int, count: int) -> None:
        """One write tells offset, size, direction and the order, as one 64-bit number."""
        if self.coherent or not count:
            return
        name = "sync_for_device" if direction == _TO_DEVICE else "sync_for_cpu"
        # The size is in units of 16 bytes; whole cache lines.
        first, last = at & ~63, -(-(at + count) // 64) * 64
        order = first << 32 | (last - first) | direction << 2 | 1
        self._kernel.write(f"{self.place}/{name}", f"0x{order:016X}")

    def close(self) -> None:
        self._mapping.close()
        self._kernel.close(self._file)


class _Piece(Buffer):
    def __init__(self, pool: _Pool, at: int, count: int) -> None:
        self._pool, self._at = pool, at
        self.address = pool.address + at
        self.array = pool.view(at, count)  # type: ignore[assignment]

    def to_device(self, start: int = 0, count: int | None = None) -> None:
        length = len(self.array[start:][:count])
        self._pool.sync(_TO_DEVICE, self._at + start, length)

    def to_host(self, start: int = 0, count: int | None = None) -> None:
        length = len(self.array[start:][:count])
        self._pool.sync(_FROM_DEVICE, self._at + start, length)

    def close(self) -> None:
        self._pool.free(self._at)
