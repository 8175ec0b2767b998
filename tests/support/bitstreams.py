"""Builds without the minutes of Verilog: a top with the true ports and nothing inside."""

from __future__ import annotations

import functools
import gc
import json
import os
import stat
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moevit.boards.bitstream import check, inputs, rtl
from moevit.boards.targets import board
from moevit.hw.config import AcceleratorConfig
from moevit.hw.top import Top
from moevit.hw.verilog import TOP_NAME


@functools.cache
def _ports(config: AcceleratorConfig) -> dict[str, tuple[int, bool]]:
    with warnings.catch_warnings():  # of a design that is never elaborated
        warnings.simplefilter("ignore")
        found = {name: (len(signal), way) for name, (signal, way) in Top(config).ports.items()}
        gc.collect()
    return found


def hollow(config: AcceleratorConfig, clocks: dict[str, float]) -> str:
    """A module with the ports of the accelerator, in the form of Yosys's Verilog."""
    ports = _ports(config)
    lines = [f"module {TOP_NAME}({', '.join([*ports, *list(clocks)[1:]])});"]
    for name, (width, is_input) in ports.items():
        span = f"[{width - 1}:0] " if width > 1 else ""
        lines.append(f"  {'input' if is_input else 'output'} {span}{name};")
    lines += [f"  input {name};" for name in list(clocks)[1:]]
    return "\n".join([*lines, "endmodule"]) + "\n"


def hollow_verilog(monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Makes ``moevit.boards.bitstream.rtl.generate`` quick; with ``times`` there is ``clk2x``."""

    def write(config: AcceleratorConfig, folder: Path, platform: Any = None) -> list[Path]:
        clocks = {"clk": config.clock_mhz}
        if times > 1:
            clocks[f"clk{times}x"] = times * config.clock_mhz
        folder.mkdir(parents=True, exist_ok=True)
        verilog, sidecar = folder / f"{TOP_NAME}.v", folder / f"{TOP_NAME}.json"
        verilog.write_text(hollow(config, clocks))
        about = {
            "config": config.to_dict(), "hash": f"{config.hash:#018x}", "top": TOP_NAME,
            "clocks": {name: {"mhz": mhz} for name, mhz in clocks.items()},
        }  # fmt: skip
        sidecar.write_text(json.dumps(about))
        return [verilog, sidecar]

    monkeypatch.setattr(rtl, "write", write)


def written(
    target: Path, name: str, config: AcceleratorConfig, monkeypatch: pytest.MonkeyPatch,
    *, times: int = 1,
) -> Path:  # fmt: skip
    """The inputs of a hollow build; returns its folder."""
    hollow_verilog(monkeypatch, times)
    chosen = board(name)
    if times == 1:
        inputs.write_inputs(target, chosen, config)
    else:  # whatever needs the clocks
        monkeypatch.setattr(inputs, "primitives_platform", lambda _name: None)
        inputs.write_inputs(target, replace(chosen, primitives="dsp48e2x2"), config)
    return target


VIVADO = """\
#!/bin/sh
if [ "$1" = -version ]; then
  echo "Vivado v{version} (64-bit)"
  exit 0
fi
mkdir -p .facts
exec tclsh {arguments} -- build.tcl 2>&1
"""


def fake_vivado(
    folder: Path, bin_folder: Path, monkeypatch: pytest.MonkeyPatch, extra: str = "",
    version: str = "2023.2",
) -> None:  # fmt: skip
    """Puts on the path a ``vivado`` that runs the build in ``folder`` in the stand-in.

    ``extra``: Tcl that replaces some of its procedures.
    """
    bin_folder.mkdir(exist_ok=True)
    (bin_folder / "extra.tcl").write_text(f"set standin(version) {version}\n{extra}")
    arguments = [*check.standin(folder, bin_folder), str(bin_folder / "extra.tcl")]
    program = bin_folder / "vivado"
    program.write_text(VIVADO.format(version=version, arguments=" ".join(arguments)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
