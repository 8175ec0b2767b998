"""Verilog of the accelerator and the JSON that describes it."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .clocks import Clock
from .config import AcceleratorConfig
from .watch import Field, bring_out

__all__ = [
    "LINT_WAIVERS",
    "TOP_NAME",
    "clocks",
    "generate",
    "located_rtlil",
    "plain_memories",
    "rtlil",
    "watched_rtlil",
    "write",
]

TOP_NAME = "moevit"

LINT_WAIVERS = {
    "DECLFILENAME": "one file holds all modules",
    "PROCASSINIT": "registers are declared with their reset value, which FPGAs load",
    "UNUSEDSIGNAL": "Amaranth computes sums with a carry and names every intermediate value",
    "WIDTHEXPAND": "Yosys writes operands in their own widths and relies on Verilog's extension",
    "WIDTHTRUNC": "Yosys writes `!x` for `x == 0` of a vector",
    "CASEINCOMPLETE": "a case without a match keeps the value assigned above it",
    "ASCRANGE": "a choice among one is a signal of no bits",
}
"""Verilator's ``-Wall`` warnings that the generated Verilog is allowed, and why; no other
occurs."""


def generate(config: AcceleratorConfig, platform: Any = None) -> str:
    """The accelerator for ``config`` as one Verilog text, top module :data:`TOP_NAME`.

    ``platform``: brings the primitives of a board (``moevit.boards``); without one the text is
    plain Verilog throughout.
    """
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    from amaranth.back import verilog

    with plain_memories():
        return verilog.convert(
            **_design(config, platform), emit_src=False, strip_internal_attrs=True
        )


def rtlil(config: AcceleratorConfig, platform: Any = None) -> str:
    """The same as Yosys's intermediate language, a module for each component; for synthesis."""
    return watched_rtlil(config, platform, {})[0]


def located_rtlil(config: AcceleratorConfig) -> str:
    """The same with the Python line that each signal comes from."""
    from amaranth.back import rtlil  # type: ignore[attr-defined]

    with plain_memories():
        text: str = rtlil.convert(**_design(config, None), emit_src=True)
    return text


def watched_rtlil(
    config: AcceleratorConfig, platform: Any, watch: Mapping[str, Mapping[str, str]]
) -> tuple[str, dict[str, list[Field]]]:
    """The same with outputs for signals within (:func:`.watch.bring_out`), and their fields."""
    from amaranth.back import rtlil  # type: ignore[attr-defined]
    from amaranth.hdl._ir import Fragment, PortDirection

    get: Any = Fragment.get
    design = _design(config, platform)
    with plain_memories():
        design["elaboratable"] = top = get(design["elaboratable"], platform)
        signals, fields = bring_out(top, watch)
        design["ports"] |= {n: (s, PortDirection.Output) for n, s in signals.items()}
        text: str = rtlil.convert(**design, emit_src=False)
    return text, fields


def clocks(platform: Any) -> tuple[Clock, ...]:
    """The clocks that a board's primitives need beside the accelerator's own."""
    return tuple(getattr(platform, "clocks", ()))


def _design(config: AcceleratorConfig, platform: Any) -> dict[str, Any]:
    from amaranth.hdl._ir import PortDirection

    from .top import Top

    top = Top(config, clocks(platform))
    ports = {
        name: (signal, PortDirection.Input if is_input else PortDirection.Output)
        for name, (signal, is_input) in top.ports.items()
    }
    return {"elaboratable": top, "name": TOP_NAME, "ports": ports, "platform": platform}


@contextmanager
def plain_memories() -> Iterator[None]:
    """Leave memories without initial values where those are all zero; nothing here reads them.

    Amaranth writes one statement a word otherwise, which is nine tenths of the text and of the
    time.
    Garbage collection is off meanwhile: with millions of live nodes it takes as long as the work.
    """
    from amaranth.back import rtlil  # type: ignore[attr-defined]

    emitter = rtlil.ModuleEmitter
    emit = emitter.emit_memory

    def emit_initialised(self: Any, index: int, cell: Any) -> None:
        if any(cell.init):
            emit(self, index, cell)

    collecting = gc.isenabled()
    gc.disable()
    emitter.emit_memory = emit_initialised
    try:
        yield
    finally:
        emitter.emit_memory = emit
        if collecting:
            gc.enable()


def write(config: AcceleratorConfig, folder: Path, platform: Any = None) -> list[Path]:
    """Write ``moevit.v`` and ``moevit.json`` into ``folder``.

    The second has the configuration, its hash, and the clocks that the first has as inputs: MHz at
    the configuration's target, and in phase with which other clock.
    """
    text = generate(config, platform)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"{TOP_NAME}.v": text,
        f"{TOP_NAME}.json": json.dumps(
            {
                "config": config.to_dict(),
                "hash": f"{config.hash:#018x}",
                "top": TOP_NAME,
                "clocks": {
                    "clk": {"mhz": config.clock_mhz},
                    **{
                        clock.port: {
                            "mhz": clock.times * config.clock_mhz,
                            "times": clock.times,
                            "in_phase_with": "clk",
                        }
                        for clock in clocks(platform)
                    },
                },
            },
            indent=2,
        )
        + "\n",
    }
    written = []
    for name, content in files.items():
        part = folder / f".{name}.part"
        part.write_text(content)
        part.replace(folder / name)
        written.append(folder / name)
    return written
