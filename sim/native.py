"""The verilated accelerator in this process, with a native memory behind its AXI masters.

Nothing here is called once a cycle: Python sets the memory up, writes registers, lets the clock run
for thousands of cycles at a time, and reads the results. Signal names are those of docs/spec.md,
"Top-level ports": `clk`, `rst`, `irq`, `s_axil_*`, and any number of AXI4 masters `m_axi_*`.
"""

import ctypes
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from .memory_timing import MemoryTiming
from .native_library import CHANGE, Parameters, load_native
from .stats import PortStats, RunResult, Stats

__all__ = ["DECERR", "SLVERR", "BusError", "Changes", "NativeSim"]

#: Cycles between two returns from native code: Ctrl-C and progress bars are this prompt.
CHUNK_CYCLES = 20_000

#: Cycles in which a register access must be answered.
REGISTER_LIMIT = 1_000

#: Records of :data:`.native_library.CHANGE`.
Changes = np.ndarray[Any, np.dtype[np.void]]

#: AXI response codes that a test may inject.
SLVERR, DECERR = 2, 3


class BusError(RuntimeError):
    """The accelerator answered a register access with an error, or not at all."""


class NativeSim:
    """One verilated top with its own memory. Also a context manager; `close` frees it.

    Several may live at once, and each may run in a thread of its own: native code runs without
    Python's lock.

    Parameters
    ----------
    library:
        From `build_native`.
    memory_bytes:
        Size of the memory; addresses outside `base` to `base + memory_bytes` answer DECERR.
    base:
        Address of its first byte.
    timing:
        What the memory makes the accelerator wait for.
    """

    def __init__(
        self,
        library: Path,
        *,
        memory_bytes: int,
        base: int = 0,
        timing: MemoryTiming | None = None,
    ) -> None:
        if memory_bytes < 1:
            raise ValueError(f"memory_bytes must be positive, not {memory_bytes!r}")
        self._library = load_native(library)
        self._base, self._size = base, memory_bytes
        self._seconds = 0.0
        self._handle: int | None = self._library.moevit_new(
            ctypes.byref(self._parameters(timing or MemoryTiming()))
        )
        if not self._handle:
            raise MemoryError(f"no {memory_bytes} bytes for the simulated memory")
        self._names = [
            self._library.moevit_port_name(i).decode()
            for i in range(self._library.moevit_port_count())
        ]
        self._counters = [
            self._library.moevit_counter_name(i).decode()
            for i in range(self._library.moevit_counter_count())
        ]
        self._first_cycle = self.cycle

    def _parameters(self, timing: MemoryTiming) -> Parameters:
        values = {f.name: getattr(timing, f.name) for f in fields(timing)}
        return Parameters(base=self._base, size=self._size, **values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def close(self) -> None:
        """Frees the simulation; it cannot be used any more."""
        if self._handle:
            self._library.moevit_delete(self._handle)
        self._handle = None

    @property
    def _open(self) -> int:
        if self._handle is None:
            raise ValueError("the simulation is closed")
        return self._handle

    @property
    def port_names(self) -> tuple[str, ...]:
        """The memory's ports."""
        return tuple(self._names)

    @property
    def cycle(self) -> int:
        """Cycles since the simulation began."""
        return int(self._library.moevit_cycle(self._open))

    # Memory ------------------------------------------------------------------------------------
    def write(self, address: int, data: bytes) -> None:
        """Puts `data` into the memory at once. Raises ValueError if it reaches outside."""
        self._check_range(address, len(data))
        self._library.moevit_write(self._open, address, bytes(data), len(data))

    def read(self, address: int, count: int) -> bytes:
        """The `count` bytes at `address`. Raises ValueError if they reach outside."""
        self._check_range(address, count)
        buffer = ctypes.create_string_buffer(count)
        self._library.moevit_read(self._open, address, buffer, count)
        return buffer.raw

    def _check_range(self, address: int, count: int) -> None:
        if not self._base <= address <= address + count <= self._base + self._size:
            raise ValueError(
                f"bytes {address:#x} to {address + count:#x} are outside the memory, "
                f"{self._base:#x} to {self._base + self._size:#x}"
            )

    def configure(self, timing: MemoryTiming) -> None:
        """Other timing from here on; the contents stay."""
        self._library.moevit_configure(self._open, ctypes.byref(self._parameters(timing)))

    def inject(self, address: int, count: int, response: int = SLVERR) -> None:
        """Beats that touch `count` bytes from `address` are answered with `response` from now on.

        Raises ValueError unless the response is SLVERR or DECERR.
        """
        if response not in (SLVERR, DECERR):
            raise ValueError(f"response must be {SLVERR} or {DECERR}, not {response!r}")
        self._library.moevit_inject(self._open, address, count, response)

    def clear_faults(self) -> None:
        """Takes all injected faults back."""
        self._library.moevit_clear_faults(self._open)

    # Control -----------------------------------------------------------------------------------
    def reset(self, cycles: int = 8) -> None:
        """Holds `rst` for `cycles` cycles. Open bursts are forgotten; memory contents stay."""
        self._library.moevit_reset(self._open, cycles)

    def reg_write(self, address: int, value: int) -> None:
        """Writes a 32-bit register. Raises BusError on an error response or none."""
        answer = self._library.moevit_reg_write(
            self._open, address, value & 0xFFFF_FFFF, REGISTER_LIMIT
        )
        self._check_answer("write to", address, answer)

    def reg_read(self, address: int) -> int:
        """Reads a 32-bit register. Raises BusError on an error response or none."""
        value = ctypes.c_uint32()
        answer = self._library.moevit_reg_read(
            self._open, address, ctypes.byref(value), REGISTER_LIMIT
        )
        self._check_answer("read of", address, answer)
        return value.value

    @staticmethod
    def _check_answer(what: str, address: int, answer: int) -> None:
        if answer < 0:
            raise BusError(f"{what} register {address:#x}: no answer in {REGISTER_LIMIT} cycles")
        if answer:
            raise BusError(f"{what} register {address:#x}: AXI response {answer}")

    def run(self, max_cycles: int, progress: Callable[[int], None] | None = None) -> RunResult:
        """Runs until the interrupt is high, `max_cycles` at most.

        Parameters
        ----------
        max_cycles:
            The limit.
        progress:
            Called with the cycles that have passed, about every `CHUNK_CYCLES`.
        """
        first = self.cycle
        started = time.perf_counter()
        interrupt = False
        passed = 0
        try:
            while passed < max_cycles and not interrupt:
                chunk = min(CHUNK_CYCLES, max_cycles - passed)
                interrupt = self._library.moevit_run(self._open, chunk) == 0
                passed = self.cycle - first
                if progress is not None:
                    progress(passed)
        finally:
            self._seconds += time.perf_counter() - started
        return RunResult(interrupt, passed)

    # Recording ---------------------------------------------------------------------------------
    def watch(self, period: int) -> None:
        """Records what changes from here on, levels and port counters every `period` cycles.

        0 ends it. What is recorded is fetched by `changes`, which `run` leaves to its caller.
        """
        self._library.moevit_watch(self._open, period)

    def changes(self) -> Changes:
        """What was recorded since the last call: records of :data:`.native_library.CHANGE`.

        Words are numbered through `watch_events`, `watch_levels`, and the counters
        :data:`.native_library.WATCHED` of one port after another.
        """
        found = np.empty(self._library.moevit_change_count(self._open), CHANGE)
        self._library.moevit_take_changes(self._open, found.ctypes.data)
        return found

    # Counters ----------------------------------------------------------------------------------
    @property
    def stats(self) -> Stats:
        """What the memory counted since the start or `clear_stats`."""
        width = len(self._counters)
        values = (ctypes.c_uint64 * (width * len(self._names)))()
        self._library.moevit_counters(self._open, values)
        ports = {
            name: PortStats(**dict(zip(self._counters, values[i * width :], strict=False)))
            for i, name in enumerate(self._names)
        }
        return Stats(cycles=self.cycle - self._first_cycle, seconds=self._seconds, ports=ports)

    def clear_stats(self) -> None:
        """Counts from zero."""
        self._library.moevit_clear_counters(self._open)
        self._first_cycle = self.cycle
        self._seconds = 0.0
