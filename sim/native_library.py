"""The shared library of a verilated top and the memory harness: how it is built and called."""

import ctypes
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moevit.quant.typing import Report, silent

from .build import build_library

__all__ = [
    "CHANGE",
    "WATCHED",
    "Parameters",
    "build_native",
    "load_native",
    "master_prefixes",
    "write_coverage",
]

_HARNESS = Path(__file__).with_name("harness")


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
    coverage: Sequence[str] = (),
    report: Report = silent,
) -> Path:
    """Builds `verilog` with the memory harness for `NativeSim`, or finds it in the cache.

    `defines`: further macros for the harness (harness/harness.cpp). `label`,
    `coverage` and `report` are those of `moevit.sim.build.build_library`, and so are the errors.
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
        sources=[_HARNESS / name for name in ("harness.cpp", "coverage.cpp")[: 1 + bool(coverage)]],
        headers={"moevit_ports.h": header},
        label=label,
        coverage=coverage,
        report=report,
    )


def write_coverage(library: Path, target: Path) -> None:
    """What the last simulation of this thread has covered, in Verilator's format; before `close`.

    `library`: built with `coverage`. Raises OSError if nothing was written.
    """
    load_native(library).moevit_write_coverage(os.fsencode(target))
    if not target.exists():
        raise FileNotFoundError(f"{target}: the simulator wrote no coverage")


CHANGE = np.dtype([("cycle", np.uint64), ("word", np.uint32), ("value", np.uint32)])
"""`moevit::Change` of harness/watch.h, field for field."""

WATCHED = ("read_bytes", "read_waits", "read_stalls", "write_bytes", "write_waits")
"""Counters of a port that are watched, in the order of `kWatched` in harness/watch.h."""


class Parameters(ctypes.Structure):
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


@functools.cache
def load_native(path: Path) -> ctypes.CDLL:
    """The library at `path` with its functions' types declared. Raises RuntimeError for another
    version's."""
    library = ctypes.CDLL(str(path))
    u64, u32, i32, handle = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int32, ctypes.c_void_p
    signatures: dict[str, tuple[object, list[object]]] = {
        "moevit_port_count": (u32, []),
        "moevit_port_name": (ctypes.c_char_p, [u32]),
        "moevit_counter_count": (u32, []),
        "moevit_counter_name": (ctypes.c_char_p, [u32]),
        "moevit_parameters_size": (u64, []),
        "moevit_new": (handle, [ctypes.POINTER(Parameters)]),
        "moevit_delete": (None, [handle]),
        "moevit_configure": (None, [handle, ctypes.POINTER(Parameters)]),
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
        "moevit_watch_words": (u32, []),
        "moevit_watch": (None, [handle, u64]),
        "moevit_change_count": (u64, [handle]),
        "moevit_take_changes": (None, [handle, handle]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if library.moevit_parameters_size() != ctypes.sizeof(Parameters):
        raise RuntimeError(f"{path}: its Parameters differ from sim/native_library.py's")
    return library
