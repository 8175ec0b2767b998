"""The Tcl of a build in plain ``tclsh``, against a stand-in for Vivado (``tcl/standin.tcl``).

It proves that the scripts say what we mean: that every command, option, parameter and pin is one
that is known, that everything is connected once, by the right role, width and clock, and that
addresses fit. That Vivado agrees only Vivado can say.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from ..targets import board
from .ipxact import NAMESPACE

__all__ = ["CheckError", "check", "facts", "standin"]

_TCL = files(__package__) / "tcl"
_S = f"{{{NAMESPACE}}}"


class CheckError(RuntimeError):
    """The stand-in found something wrong, or cannot run."""


def facts(component: Path, *, wants: dict[str, float] | None = None) -> str:
    """A packaged IP of ours in the form of ``facts.tcl``, from its ``component.xml``.

    ``wants``: MHz of clock inputs.
    """
    root = ET.parse(component).getroot()

    def text(element: ET.Element, path: str) -> str:
        found = element.find("/".join(_S + part for part in path.split("/")))
        return "" if found is None or found.text is None else found.text

    name = text(root, "name")
    identity = ":".join(text(root, key) for key in ("vendor", "library", "name", "version"))
    lines = [f"ip {name} {identity} {{", "  ours"]
    spaces = {space.findtext(f"{_S}name") for space in root.iter(f"{_S}addressSpace")}
    taken: dict[str, str] = {}
    clocks: dict[str, str] = {}
    buses = root.findall(f"{_S}busInterfaces/{_S}busInterface")
    widths = {
        text(port, "name"): int(text(port, "wire/vector/left") or 0) + 1
        for port in root.iter(f"{_S}port")
    }
    for bus in buses:
        parameters = {
            text(p, "name"): text(p, "value") for p in bus.findall(f"{_S}parameters/{_S}parameter")
        }
        kind = bus.find(f"{_S}busType")
        assert kind is not None
        what = kind.get(f"{_S}name")
        pins = {text(m, "logicalPort/name"): text(m, "physicalPort/name")
                for m in bus.iter(f"{_S}portMap")}  # fmt: skip
        if what == "clock":
            for served in parameters.get("ASSOCIATED_BUSIF", "").split(":"):
                clocks[served] = text(bus, "name")
            if "FREQ_HZ" in parameters:
                pin = pins["CLK"]
                lines.append(f"  makes {pin} {float(parameters['FREQ_HZ']) / 1e6:g}")
            taken[pins["CLK"]] = "clock"
        elif what == "reset":
            low = parameters.get("POLARITY") == "ACTIVE_LOW"
            taken[pins["RST"]] = "resetn" if low else "reset"
        elif what == "interrupt":
            taken[pins["INTERRUPT"]] = "interrupt"
        else:
            taken |= dict.fromkeys(pins.values(), "")
    for bus in buses:
        pins = {text(m, "logicalPort/name"): text(m, "physicalPort/name")
                for m in bus.iter(f"{_S}portMap")}  # fmt: skip
        if "RDATA" not in pins:
            continue
        label = text(bus, "name")
        master = bus.find(f"{_S}master") is not None
        protocol = next(
            (text(p, "value") for p in bus.iter(f"{_S}parameter") if text(p, "name") == "PROTOCOL"),
            "",
        )
        role = "master" if master else "slave"
        width = widths[pins["RDATA"]]
        lines.append(f"  bus {label} {role} {protocol} {width} {clocks.get(label, '{}')}")
        if master:
            assert label in spaces
            lines.append(f"  space {label} {label}")
        else:
            block = root.find(f"{_S}memoryMaps/{_S}memoryMap/{_S}addressBlock")
            assert block is not None
            lines.append(
                f"  segment {label}/{text(block, 'name')} {label} 0 {text(block, 'range')}"
            )
    for port in root.iter(f"{_S}port"):
        label = text(port, "name")
        role = taken.get(label, "signal")
        if role:
            lines.append(f"  pin {label} {text(port, 'wire/direction')} {role}")
    for pin, mhz in (wants or {}).items():
        lines.append(f"  wants {pin} {mhz:g}")
    instances = re.findall(
        r"\bBUFGCE_DIV #\([^;]*?\) (\w+) \(",
        "".join(file.read_text() for file in (component.parent / "src").glob(f"{name}.v")),
    )
    if instances:
        lines.append(f"  inside {' '.join(instances)}")
    return "\n".join([*lines, "}"]) + "\n"


def standin(folder: Path, target: Path) -> list[str]:
    """Arguments of ``tclsh`` for the stand-in with the IP of a build's folder; facts go below
    ``target``."""
    about = json.loads((folder / "build.json").read_text())
    own = []
    for component in sorted((folder / "vivado" / "ip").glob("*/component.xml")):
        name = component.parent.name
        wants = {clock.replace("clk", "aclk", 1): mhz for clock, mhz in about["clocks"].items()}
        if name.startswith("moevit_clocks"):
            wants = {"clk_in": board(about["board"]).reference_mhz}
        path = target / f"{name}.facts.tcl"
        path.write_text(facts(component, wants=wants))
        own.append(str(path))
    return [str(_TCL / "standin.tcl"), str(_TCL / "facts.tcl"), *own]


def check(folder: Path) -> None:
    """Run the scripts of a build's folder, which stays as it is.

    Raises
    ------
    CheckError
        With what is wrong, or if there is no ``tclsh``.
    """
    program = shutil.which("tclsh")
    if program is None:
        raise CheckError("tclsh: not installed; apt-get install tcl")
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / "build"
        ignore = shutil.ignore_patterns("project", "moevit.v", "*.log")
        shutil.copytree(folder, copy, ignore=ignore)
        command = [program, *standin(copy, Path(scratch)), "--", "build.tcl"]
        done = subprocess.run(
            command, cwd=copy / "vivado", capture_output=True, text=True, check=False
        )
    if done.returncode or "STANDIN ok" not in done.stdout:
        said = [line for line in done.stderr.splitlines() if line.startswith("STANDIN")]
        said = said or [m for m in done.stdout.splitlines() if m.startswith("MOEVIT error")]
        said = said or done.stderr.splitlines()[:1] or ["no result"]
        raise CheckError(f"{folder}: {said[0].removeprefix('STANDIN ')}")
