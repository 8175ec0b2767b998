"""The transport of plain Linux, on a kernel of the tests behind which the verilated RTL lies.

The kernel here knows the files of sysfs and configfs that the transport uses, and what they do:
applying the overlay makes the UIO device appear, `sync_for_device` and `sync_for_cpu` move bytes
between the mapping, which stands for the caches, and the simulated memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.boards import check, make_bundle, make_case, simulated_board

from moevit.boards.driver import linux
from moevit.boards.driver.bundle import Bundle
from moevit.boards.driver.device import Accelerator
from moevit.boards.driver.errors import BusyError, RoomError, TransportError
from moevit.boards.driver.kernel import Kernel, Mapping, Registers
from moevit.boards.driver.linux import Linux
from moevit.boards.driver.selftest import selftest
from moevit.boards.driver.simulated import Simulated
from moevit.boards.simulated import SimulatedBoard

pytestmark = pytest.mark.slow  # the first use of the configuration builds its simulator

OVERLAY = "/sys/kernel/config/device-tree/overlays/moevit"
DMA = "/sys/class/u-dma-buf/udmabuf-moevit"
UIO = "/sys/class/uio/uio4"


class FakeRegisters:
    def __init__(self, board: Simulated) -> None:
        self.read, self.write = board.read, board.write

    def close(self) -> None:
        pass


class FakeMapping:
    def __init__(self, size: int) -> None:
        self.array = np.zeros(size, np.uint8)

    def close(self) -> None:
        pass


class FakeKernel(Kernel):
    """Sysfs as a dictionary; the programmable logic is the simulated board."""

    def __init__(self, board: SimulatedBoard, folder: Path, *, coherent: bool = False) -> None:
        self.board = Simulated(str(board.path))
        self.folder = folder
        self.coherent = coherent
        self.region = self.board.allocate(1 << 20, "region")
        self.files = {
            "/sys/class/uio/uio0/name": "axi-pmon",
            f"{DMA}/size": str(1 << 20),
            f"{DMA}/phys_addr": f"{self.region.address:#018x}",
            f"{DMA}/dma_coherent": str(int(coherent)),
            f"{DMA}/sync_mode": "5",
            "/sys/kernel/config/device-tree/overlays": "",
        }
        self.mapping = FakeMapping(1 << 20)
        self.status = "applied"
        self.unmasked = False
        self.syncs = 0

    def read(self, path: str) -> str:
        return self.files[path]

    def exists(self, path: str) -> bool:
        return path in self.files

    def list(self, folder: str) -> list[str]:
        below = {
            p[len(folder) + 1 :].split("/")[0] for p in self.files if p.startswith(folder + "/")
        }
        return sorted(below)

    def make(self, folder: str) -> None:
        self.files[folder] = ""

    def remove(self, folder: str) -> None:
        self.files = {p: t for p, t in self.files.items() if not p.startswith((folder, UIO))}

    def write_bytes(self, path: str, data: bytes) -> None:
        self.files[path] = data.hex()
        if path == f"{OVERLAY}/dtbo":
            assert bytes.fromhex(self.files["/lib/firmware/moevit.bit.bin"]) == b"the same"
            self.files[f"{OVERLAY}/status"] = self.status
            if self.status == "applied":
                self.board.reset()
                self.files[f"{UIO}/name"] = "moevit"
                self.files[f"{UIO}/maps/map0/size"] = "0x0000000000001000"

    def write(self, path: str, text: str) -> None:
        if path.startswith(f"{DMA}/sync_for"):
            self._sync(path.rpartition("_")[2], int(text, 0))
        self.files[path] = text

    def _sync(self, direction: str, order: int) -> None:
        assert not self.coherent and self.files[f"{DMA}/sync_mode"] == "1"
        at, count, way = order >> 32, order & 0xFFFF_FFF0, order >> 2 & 3
        assert order & 1 and at + count <= 1 << 20
        assert way == {"device": 1, "cpu": 2}[direction]
        self.syncs += 1
        self._move(direction == "device", at, count)

    def _move(self, out: bool, at: int, count: int) -> None:
        if out:
            self.region.array[at : at + count] = self.mapping.array[at : at + count]
            self.region.to_device(at, count)
        else:
            self.region.to_host(at, count)
            self.mapping.array[at : at + count] = self.region.array[at : at + count]

    def open(self, path: str, *, sync: bool = False) -> int:
        assert path in ("/dev/uio4", "/dev/udmabuf-moevit") and not sync
        return os.open(self.folder / path.replace("/", "-"), os.O_RDWR | os.O_CREAT)

    def registers(self, file: int, size: int) -> Registers:
        assert size == 0x1000
        found: Any = FakeRegisters(self.board)
        return found

    def memory(self, file: int, size: int) -> Mapping:
        found: Any = self.mapping
        return found

    def enable_interrupt(self, file: int) -> None:
        self.unmasked = True

    def wait_interrupt(self, file: int, seconds: float) -> bool:
        if self.coherent:
            self._move(True, 0, 1 << 20)
        came = self.unmasked and self.board.wait(min(seconds, 0.01))
        if self.coherent:
            self._move(False, 0, 1 << 20)
        self.unmasked = self.unmasked and not came
        return came


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the machine."""
    monkeypatch.setattr(linux.Lock, "path", staticmethod(lambda name: str(tmp_path / name)))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with simulated_board() as board:
        kernel = FakeKernel(board, tmp_path)
        yield kernel
        kernel.board.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle", make_case(count=1))


def test_whole_frames(kernel: FakeKernel, bundle: Bundle) -> None:
    """From an unconfigured board: overlay, UIO, u-dma-buf, frames by interrupt, counted syncs."""
    with Accelerator(Linux(bundle, kernel=kernel)) as accelerator:
        assert selftest(bundle, accelerator, frames=2).passed
        assert (accelerator.interrupts_lost, accelerator.interrupts_early) == (0, 0)
        # Program; and for each frame its image, the mark in its output, and its output.
        assert kernel.syncs == 1 + 3 * (3 + 2)
        accelerator.reset()
        check(accelerator, make_case())
    with Accelerator(Linux(None, kernel=kernel)) as accelerator:  # it is configured already
        accelerator.load(make_case().program)
        check(accelerator, make_case())


def test_a_coherent_board_needs_no_syncs(tmp_path: Path, bundle: Bundle) -> None:
    with simulated_board() as board:
        kernel = FakeKernel(board, tmp_path, coherent=True)
        transport = Linux(bundle, kernel=kernel)
        buffer = transport.allocate(100, "test")
        buffer.to_device()
        buffer.to_host()
        assert kernel.syncs == 0
        transport.close()
        kernel.board.close()


def test_an_overlay_that_is_refused(kernel: FakeKernel, bundle: Bundle) -> None:
    kernel.status = "unapplied"
    with pytest.raises(TransportError, match=r"refused the overlay \(status unapplied\); dmesg"):
        Linux(bundle, kernel=kernel)
    assert OVERLAY not in kernel.files
    kernel.status = "applied"
    Linux(bundle, kernel=kernel).close()


def test_no_permission(kernel: FakeKernel, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "write_bytes", refuse)
        with pytest.raises(TransportError, match=r"moevit.bit.bin: Permission denied: the kernel"):
            Linux(bundle, kernel=kernel)
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "open", refuse)
        with pytest.raises(TransportError, match=r"/dev/uio4: Permission denied; run as root"):
            Linux(bundle, kernel=kernel)
    Linux(bundle, kernel=kernel).close()


def test_what_is_missing(kernel: FakeKernel, bundle: Bundle) -> None:
    with pytest.raises(TransportError, match="the bitstream is not loaded; give the bundle"):
        Linux(None, kernel=kernel)
    files = dict(kernel.files)
    del kernel.files["/sys/kernel/config/device-tree/overlays"]
    with pytest.raises(TransportError, match="this kernel has no overlays by configfs"):
        Linux(bundle, kernel=kernel)
    kernel.files = {p: t for p, t in files.items() if not p.startswith(DMA)}
    with pytest.raises(TransportError, match="no u-dma-buf: load its module"):
        Linux(bundle, kernel=kernel)
    kernel.files.update(files)
    Linux(bundle, kernel=kernel).close()


def test_a_region_that_is_too_small(kernel: FakeKernel, bundle: Bundle) -> None:
    kernel.files[f"{DMA}/size"] = "8192"
    with Accelerator(Linux(bundle, kernel=kernel)) as accelerator:
        with pytest.raises(RoomError, match=r"no room for the program: .* of 8,192 in udmabuf-moe"):
            accelerator.load(make_case().program)


def test_the_device_file_is_a_lock(kernel: FakeKernel, bundle: Bundle) -> None:
    """Whoever has it, the C library too."""
    file = kernel.open("/dev/uio4")
    lock = linux.Lock(file, "the device")
    with pytest.raises(BusyError, match="driven by another process"):
        Linux(bundle, kernel=kernel)
    lock.release()
    os.close(file)
    first = Linux(bundle, kernel=kernel)
    with pytest.raises(BusyError, match=rf"another process \({os.getpid()}\)"):
        Linux(bundle, kernel=kernel)
    first.close()


def test_the_real_kernel(tmp_path: Path) -> None:
    """What can be tried of it without a board: files, folders, mappings of a file."""
    kernel = Kernel()
    kernel.make(str(tmp_path / "a/b"))
    kernel.write(str(tmp_path / "a/name"), "x\n")
    kernel.write_bytes(str(tmp_path / "a/dtbo"), bytes(8192))
    assert kernel.read(str(tmp_path / "a/name")) == "x"
    assert kernel.list(str(tmp_path / "a")) == ["b", "dtbo", "name"]
    assert kernel.list(str(tmp_path / "none")) == [] and not kernel.exists("/none")
    kernel.remove(str(tmp_path / "a/b"))
    file = kernel.open(str(tmp_path / "a/dtbo"))
    registers, memory = kernel.registers(file, 4096), kernel.memory(file, 8192)
    registers.write(0x20, 0x1234_5678)
    assert registers.read(0x20) == 0x1234_5678
    assert memory.array[0x20:0x24].tobytes() == bytes.fromhex("78563412")
    registers.close()
    memory.close()
    kernel.close(file)
    read, write = os.pipe()
    assert not kernel.wait_interrupt(read, 0)
    kernel.enable_interrupt(write)
    assert kernel.wait_interrupt(read, 0)
    os.close(read)
    os.close(write)
