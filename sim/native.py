"""The verilated accelerator in this process, with a native memory behind its AXI masters.

Nothing here is called once a cycle: Python sets the memory up, writes registers, lets the clock run
for thousands of cycles at a time, and reads the results. Signal names are those of docs/spec.md,
"Top-level ports": `clk`, `rst`, `irq`, `s_axil_*`, and any number of AXI4 masters `m_axi_*`.
"""

import ctypes
import functools
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from .build import Report, build_library

__all__ = [
    "BusError",
    "MemoryTiming",
    "NativeSim",
    "PortStats",
    "RunResult",
    "Stats",
    "build_native",
    "master_prefixes",
]

_HARNESS = Path(__file__).with_name("harness")

#: Cycles between two returns from native code: Ctrl-C and progress bars are this prompt.
CHUNK_CYCLES = 20_000

#: Cycles in which a register access must be answered.
REGISTER_LIMIT = 1_000

#: AXI response codes that a test may inject.
SLVERR, DECERR = 2, 3


class BusError(RuntimeError):
    """The accelerator answered a register access with an error, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTiming:
    """What the memory makes the accelerator wait for.

    Parameters
    ----------
    bytes_per_cycle:
        The bandwidth that all ports share, both directions together; may be a fraction.
    read_latency:
        Cycles from the handshake of a read address to the first beat of its data.
    write_latency:
        Cycles from the last beat of a write to its response.
    refresh_period, refresh_cycles:
        How often, and for how long, no data moves. A period of 0 is no refresh.
    outstanding:
        Bursts that a port may have open in each direction.
    stall_probability:
        Of withholding each ready and each new valid in a cycle: 0 for a memory, more for a test.
    reorder:
        Bursts with different ids overtake one another at random, as AXI allows.
    seed:
        Of stalls and reordering.
    """

    bytes_per_cycle: float = 16.0
    read_latency: int = 64
    write_latency: int = 32
    refresh_period: int = 0
    refresh_cycles: int = 0
    outstanding: int = 16
    stall_probability: float = 0.0
    reorder: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.bytes_per_cycle > 0:
            raise ValueError(f"bytes_per_cycle must be positive, not {self.bytes_per_cycle!r}")
        for name in ("read_latency", "write_latency", "outstanding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not 0 <= self.stall_probability < 1:
            raise ValueError(
                f"stall_probability must be from 0 to below 1, not {self.stall_probability!r}"
            )
        if self.refresh_period and not 0 <= self.refresh_cycles < self.refresh_period:
            raise ValueError(
                f"refresh_cycles must be from 0 to below the period of {self.refresh_period}, "
                f"not {self.refresh_cycles!r}"
            )

    @classmethod
    def ddr4(cls, *, clock_mhz: float, ports: int, beat_bytes: int = 16) -> Self:
        """The 64-bit DDR4-2400 of a ZCU104 as the programmable logic sees it.

        The pins give 19.2 GB/s, of which streams of long bursts get about 80 %; a port gives one
        beat a cycle at most. A read takes about 200 ns through the interconnect and controller. A
        refresh of 350 ns every 7.8 us is JEDEC's for 8 Gb parts (JESD79-4: tRFC1, tREFI).
        """
        cycle_ns = 1e3 / clock_mhz
        return cls(
            bytes_per_cycle=min(0.8 * 19.2 * cycle_ns, float(ports * beat_bytes)),
            read_latency=max(1, round(200 / cycle_ns)),
            write_latency=max(1, round(120 / cycle_ns)),
            refresh_period=round(7800 / cycle_ns),
            refresh_cycles=round(350 / cycle_ns),
        )

    def but(self, **changes: float | int | bool) -> Self:
        """A copy with other values."""
        return replace(self, **changes)  # type: ignore[arg-type]


class _Parameters(ctypes.Structure):
    """`moevit::Parameters` of harness/memory.h, field for field."""

    _fields_ = [
        ("base", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("read_latency", ctypes.c_uint64),
        ("write_latency", ctypes.c_uint64),
        ("bytes_per_cycle", ctypes.c_double),
        ("refresh_period", ctypes.c_uint64),
        ("refresh_cycles", ctypes.c_uint64),
        ("outstanding", ctypes.c_uint64),
        ("stall_probability", ctypes.c_double),
        ("reorder", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortStats:
    """Counters of one AXI master, as the memory saw it. `bad_*` count breaches of the protocol."""

    read_bursts: int
    read_bytes: int
    read_waits: int  # cycles with a read open and no beat offered
    read_stalls: int  # cycles with a beat offered and not taken
    write_bursts: int
    write_bytes: int
    write_waits: int  # cycles with a beat offered and not taken
    error_responses: int
    bad_boundary: int  # bursts across 4 KiB
    bad_burst: int  # not INCR, or beats narrower than the port
    bad_alignment: int
    bad_stability: int  # valid withdrawn, or payload changed, before ready
    bad_last: int

    @property
    def violations(self) -> int:
        """Breaches of the protocol of any kind."""
        return sum(getattr(self, f.name) for f in fields(self) if f.name.startswith("bad_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What happened since the counters were cleared."""

    cycles: int
    seconds: float  # of wall time within `run`
    ports: dict[str, PortStats]

    @property
    def read_bytes(self) -> int:
        return sum(port.read_bytes for port in self.ports.values())

    @property
    def write_bytes(self) -> int:
        return sum(port.write_bytes for port in self.ports.values())

    @property
    def violations(self) -> int:
        return sum(port.violations for port in self.ports.values())

    @property
    def cycles_per_second(self) -> float:
        """Simulated cycles a second of wall time; 0.0 before the first run."""
        return self.cycles / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """`interrupt` says whether the interrupt came within the limit; `cycles` is how many passed."""

    interrupt: bool
    cycles: int


def _top_ports(verilog: str, top: str) -> set[str]:
    module = re.search(rf"^module\s+\\?{re.escape(top)}\b.*?^endmodule", verilog, re.M | re.S)
    if module is None:
        raise ValueError(f"the Verilog has no module {top!r}")
    return set(
        re.findall(
            r"^\s*(?:input|output)\s+(?:wire\s+|reg\s+)?(?:\[[^]]*\]\s*)?(\w+)", module[0], re.M
        )
    )


def master_prefixes(verilog: str, top: str) -> tuple[str, ...]:
    """The AXI4 masters of module `top`, such as `m_axi_w0`, in the order of their names.

    Raises
    ------
    ValueError
        If the module is missing, has no such master, or lacks `clk` or `rst`.
    """
    ports = _top_ports(verilog, top)
    for name in ("clk", "rst"):
        if name not in ports:
            raise ValueError(f"module {top!r} has no port {name!r}")
    prefixes = {m[1] for name in ports if (m := re.fullmatch(r"(m_axi_\w+)_a[rw]valid", name))}
    if not prefixes:
        raise ValueError(f"module {top!r} has no AXI4 master m_axi_*")
    return tuple(sorted(prefixes))


def build_native(
    verilog: str,
    top: str,
    *,
    defines: Mapping[str, str] | None = None,
    label: str = "",
    report: Report = lambda _what, _share: None,
) -> Path:
    """Builds `verilog` with the memory harness for `NativeSim`, or finds it in the cache.

    `defines`: further macros for the harness (harness/harness.cpp). `label` and `report` are those
    of `moevit.sim.build.build_library`, and so are the errors.
    """
    masters = master_prefixes(verilog, top)
    pins = " ".join(f"MOEVIT_MASTER_PINS(Pins_{m}, {m})" for m in masters)
    header = (
        "#pragma once\n"
        f'#include "V{top}.h"\n'
        f"#define MOEVIT_TOP V{top}\n"
        f"#define MOEVIT_PINS {pins}\n"
        f"#define MOEVIT_MASTERS {', '.join(f'Pins_{m}' for m in masters)}\n"
        + "".join(f"#define {name} {value}\n" for name, value in (defines or {}).items())
    )
    return build_library(
        verilog=verilog,
        top=top,
        sources=[_HARNESS / "harness.cpp"],
        headers={"moevit_ports.h": header},
        label=label,
        report=report,
    )


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    u64, u32, i32, handle = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int32, ctypes.c_void_p
    signatures: dict[str, tuple[object, list[object]]] = {
        "moevit_port_count": (u32, []),
        "moevit_port_name": (ctypes.c_char_p, [u32]),
        "moevit_counter_count": (u32, []),
        "moevit_counter_name": (ctypes.c_char_p, [u32]),
        "moevit_parameters_size": (u64, []),
        "moevit_new": (handle, [ctypes.POINTER(_Parameters)]),
        "moevit_delete": (None, [handle]),
        "moevit_configure": (None, [handle, ctypes.POINTER(_Parameters)]),
        "moevit_reset": (None, [handle, u64]),
        "moevit_write": (i32, [handle, u64, ctypes.c_char_p, u64]),
        "moevit_read": (i32, [handle, u64, ctypes.c_char_p, u64]),
        "moevit_inject": (None, [handle, u64, u64, u32]),
        "moevit_clear_faults": (None, [handle]),
        "moevit_run": (i32, [handle, u64]),
        "moevit_reg_write": (i32, [handle, u64, u32, u64]),
        "moevit_reg_read": (i32, [handle, u64, ctypes.POINTER(u32), u64]),
        "moevit_cycle": (u64, [handle]),
        "moevit_counters": (None, [handle, ctypes.POINTER(u64)]),
        "moevit_clear_counters": (None, [handle]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if library.moevit_parameters_size() != ctypes.sizeof(_Parameters):
        raise RuntimeError(f"{path}: its Parameters differ from sim/native.py's")
    return library


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
        self._library = _load(library)
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

    def _parameters(self, timing: MemoryTiming) -> _Parameters:
        values = {f.name: getattr(timing, f.name) for f in fields(timing)}
        return _Parameters(base=self._base, size=self._size, **values)

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
