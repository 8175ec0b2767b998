"""Runs in an environment with pynq and without moevit: the driver's PYNQ transport, end to end.

    python pynq_host.py BUNDLE SOCKET ACTION

``moevit_driver`` is the bundle's. pynq is unmodified; its Device is one of ours, whose programmable
logic is the simulated board behind SOCKET: registers by AXI4-Lite, buffers in its memory, and the
processor's own clock and port registers as plain words. Prints one JSON object.
"""

import ctypes
import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import numpy as np
import pynq
from moevit_driver.bundle import Bundle
from moevit_driver.device import Accelerator
from moevit_driver.errors import DriverError
from moevit_driver.pynq import Pynq
from moevit_driver.selftest import selftest
from moevit_driver.simulated import Simulated
from pynq.buffer import PynqBuffer
from pynq.pl_server.device import Device
from pynq.pl_server.embedded_device import EmbeddedDevice
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime import RuntimeMetadataParser

BASE, COUNT = 0xA000_0000, 0x1000
IOPLL = 0xFF5E_0020  # CRL_APB.IOPLL_CTRL: FBDIV 90, DIV2
POLL_CYCLES_S = 20e-6


class SimulatedPl(Device):
    """Programmable logic that is the simulated board."""

    _probe_priority_ = 10

    @classmethod
    def _probe_(cls):
        return []

    def __init__(self, board: Simulated) -> None:
        super().__init__("simulated")
        self.name = "simulated"
        self.arch = "aarch64"
        self.capabilities = {"REGISTER_RW": True, "MEMORY_MAPPED": False, "CALLABLE": False}
        self.board = board
        self.words = {IOPLL: 90 << 8 | 1 << 16}
        self.downloads = 0
        self.buffers = {}

    def get_bitfile_metadata(self, bitfile_name, partial=False):
        handoff = Path(bitfile_name).with_suffix(".hwh")
        parser = RuntimeMetadataParser(Metadata(input=handoff))
        parser.refresh_hierarchy_dict()
        return parser

    def download(self, bitstream, parser=None):
        self.downloads += 1
        self.board.reset()
        EmbeddedDevice.set_axi_port_width(self, parser)
        self.post_download(bitstream, parser, self.name)

    def gen_cache(self, bitstream, parser=None):
        pass

    def read_registers(self, address, length):
        assert length == 4
        if BASE <= address < BASE + COUNT:
            self.board.wait(POLL_CYCLES_S)  # the clock runs while the host does other things
            return self.board.read(address - BASE).to_bytes(4, "little")
        return self.words.get(address, 0).to_bytes(4, "little")

    def write_registers(self, address, data):
        value = int.from_bytes(data, "little")
        if BASE <= address < BASE + COUNT:
            self.board.write(address - BASE, value)
        else:
            self.words[address] = value

    def allocate(self, shape, dtype, **_):
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self.board.allocate(count, "buffer")
        buffer = PynqBuffer(shape, dtype, device=self, device_address=memory.address)
        self.buffers[buffer.virtual_address] = (memory.address, count, memory)
        return buffer

    def _memory(self, pointer, size):
        for start, (_, count, memory) in self.buffers.items():
            if start <= pointer < start + count:
                return memory, pointer - start, size
        raise RuntimeError("no such buffer")

    def flush(self, bo, offset, pointer, size):
        memory, at, count = self._memory(pointer, size)
        memory.array[at : at + count] = np.frombuffer(ctypes.string_at(pointer, size), np.uint8)
        memory.to_device(at, count)

    def invalidate(self, bo, offset, pointer, size):
        memory, at, count = self._memory(pointer, size)
        memory.to_host(at, count)
        ctypes.memmove(pointer, memory.array[at : at + count].tobytes(), size)


def main() -> dict:
    bundle = Bundle.read(sys.argv[1])
    device = SimulatedPl(Simulated(sys.argv[2]))
    device.board.interrupt = False
    Device.active_device = device
    about = {"pynq": pynq.__version__}
    try:
        with Accelerator(Pynq(bundle, device=device), time_out=30.0) as accelerator:
            if sys.argv[3] == "reset":
                accelerator.reset()
            report = selftest(bundle, accelerator, frames=3)
            about |= {
                "passed": report.passed,
                "downloads": device.downloads,
                "clock_mhz": accelerator.transport._overlay.clock_dict[0]["frequency"],
                "divisor0": device.words[0xFF5E_00C0] >> 8 & 0x3F,
                "port_width": device.words[0xFD38_0000] & 3,
            }
    except DriverError as error:
        about |= {"error": type(error).__name__, "message": str(error)}
    return about


print(json.dumps(main()))  # noqa: T201
