"""The Verilog that a bitstream is made of: the accelerator, and the two modules around it.

``moevit_ip`` gives every AXI port all the signals that Vivado's interconnect knows, with the widths
that it wants equal, and turns the reset's sense. ``moevit_clocks`` makes the accelerator's clocks
of the processor's: one MMCM, and a buffer for each clock behind the same output, so that clocks of
twice the rate stay in phase (AMD UG572, UltraScale clocking resources).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from moevit.hw.config import AcceleratorConfig
from moevit.hw.verilog import TOP_NAME, write

from ..memories import vendor_text
from ..targets.base import Board

__all__ = [
    "ACCELERATOR",
    "CLOCKS_NAME",
    "IP_NAME",
    "Mmcm",
    "Port",
    "Sources",
    "clock_mhz",
    "clocks_module",
    "generate",
    "ip_ports",
    "mmcm",
    "ports",
    "wrapper",
]

IP_NAME, CLOCKS_NAME = "moevit_ip", "moevit_clocks"
ACCELERATOR = "accelerator"
"""The accelerator's instance in ``moevit_ip``; blocks are found in reports by it."""

_ID_BITS = 2
_SLOWEST, _FASTEST = 800, 1500
"""MHz of an MMCM's oscillator."""
_TIED = {
    # Modifiable and bufferable, not allocated: the ports are not coherent. No lock, no protection.
    "lock": ("1'b0", 1), "cache": ("4'b0011", 4), "prot": ("3'b000", 3), "qos": ("4'b0000", 4),
}  # fmt: skip


@dataclass(frozen=True)
class Port:
    """A port of a Verilog module."""

    name: str
    width: int
    is_input: bool

    def declare(self) -> str:
        """As in a module's header."""
        span = f"[{self.width - 1}:0] " if self.width > 1 else ""
        return f"{'input' if self.is_input else 'output'} wire {span}{self.name}"


@dataclass(frozen=True)
class Sources:
    """``files``: Verilog by name. ``about``: the sidecar. ``top``: ports of ``moevit_ip``.
    ``clocks``: MHz by the accelerator's clock input, its own first."""

    files: dict[str, str]
    about: dict[str, Any]
    top: tuple[Port, ...]
    clocks: dict[str, float]


def ports(text: str, module: str = TOP_NAME) -> tuple[Port, ...]:
    """Ports of a module of Yosys's Verilog, in the order of its declarations."""
    found = re.search(rf"^module {module}\b(.*?)^endmodule", text, re.M | re.S)
    if found is None:
        raise ValueError(f"Verilog: no module {module}")
    pattern = r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$"
    return tuple(
        Port(name, int(high or 0) + 1, way == "input")
        for way, high, name in re.findall(pattern, found[1], re.M)
    )


def clock_mhz(config: AcceleratorConfig, board: Board) -> float:
    """The clock that a configuration is built for on this board."""
    return min(config.clock_mhz, board.clock_mhz)


def _masters(inner: tuple[Port, ...]) -> list[str]:
    found = {m[0] for p in inner if (m := re.match(r"m_axi_\d+", p.name))}
    return sorted(found, key=lambda name: int(name.removeprefix("m_axi_")))


def _clock_pins(clocks: dict[str, float]) -> dict[str, str]:
    """Pin of the IP by clock input of the accelerator: ``aclk``, ``aclk2x``."""
    return {name: name.replace("clk", "aclk", 1) for name in clocks}


def ip_ports(inner: tuple[Port, ...], clocks: dict[str, float]) -> tuple[Port, ...]:
    """Ports of ``moevit_ip`` around an accelerator with ports ``inner``."""
    found = [Port(pin, 1, True) for pin in _clock_pins(clocks).values()]
    found.append(Port("aresetn", 1, True))
    for port in inner:
        if port.name in clocks or port.name == "rst":
            continue
        is_id = port.name.startswith("m_axi") and re.search(r"_(ar|aw|r|b)id$", port.name)
        found.append(Port(port.name, _ID_BITS if is_id else port.width, port.is_input))
    names = {port.name for port in inner}
    for master in _masters(inner):
        for channel in ("ar", "aw"):
            if f"{master}_{channel}addr" in names:
                found += [Port(f"{master}_{channel}{n}", w, False) for n, (_, w) in _TIED.items()]
    found += [Port(f"s_axil_{channel}prot", 3, True) for channel in ("ar", "aw")]
    return tuple(found)


def wrapper(inner: tuple[Port, ...], clocks: dict[str, float]) -> str:
    """Verilog of ``moevit_ip``."""
    outer = ip_ports(inner, clocks)
    widths = {port.name: port.width for port in outer}
    own = {port.name for port in inner}
    pins, lines, wires, drives = _clock_pins(clocks), [], [], []
    for port in inner:
        if port.name in clocks:
            signal = pins[port.name]
        elif port.name == "rst":
            signal = "~aresetn"
        elif widths[port.name] == port.width:
            signal = port.name
        elif port.is_input:
            signal = f"{port.name}[{port.width - 1}:0]"
        else:
            signal = f"{port.name}_narrow"
            wires.append(f"  wire [{port.width - 1}:0] {signal};")
            zeros = widths[port.name] - port.width
            drives.append(f"  assign {port.name} = {{{zeros}'b0, {signal}}};")
        lines.append(f"    .{port.name}({signal})")
    for port in outer:
        tied = re.match(r"m_axi_\d+_a[rw](lock|cache|prot|qos)$", port.name)
        if tied and port.name not in own:
            drives.append(f"  assign {port.name} = {_TIED[tied[1]][0]};")
    header = ",\n".join("  " + port.declare() for port in outer)
    body = "\n".join([*wires, *drives])
    return (
        f"// The accelerator with complete AXI ports and a reset that is active low.\n"
        f"module {IP_NAME} (\n{header}\n);\n{body}\n"
        f"  {TOP_NAME} {ACCELERATOR} (\n" + ",\n".join(lines) + "\n  );\nendmodule\n"
    )


@dataclass(frozen=True)
class Mmcm:
    """Settings of an MMCME4: ``reference * multiply / divide`` MHz, the oscillator within its
    range."""

    reference_mhz: float
    multiply: Fraction
    divide: int

    @property
    def oscillator_mhz(self) -> float:
        """Of the voltage controlled oscillator."""
        return float(Fraction(self.reference_mhz) * self.multiply)

    @property
    def mhz(self) -> float:
        """Of the output."""
        return self.oscillator_mhz / self.divide


def mmcm(reference_mhz: float, wanted_mhz: float) -> Mmcm:
    """Settings with exactly ``wanted_mhz``, the fastest oscillator of those.

    The oscillator runs at 800 to 1,600 MHz, its multiplier counts in eighths from 2 to 128 (AMD
    DS925, "MMCM Specification"; UG572); the fastest is left to parts that know their reference
    better than a processor's PLL does. Raises ``ValueError`` where there are none.
    """
    reference, wanted = Fraction(reference_mhz), Fraction(wanted_mhz)
    for divide in range(int(_FASTEST / wanted), 0, -1):
        multiply = wanted * divide / reference
        eighths = (multiply * 8).denominator == 1 and 2 <= multiply <= 128
        if eighths and _SLOWEST <= wanted * divide <= _FASTEST:
            return Mmcm(reference_mhz, multiply, divide)
    raise ValueError(f"MMCM: no settings make {wanted_mhz:g} MHz of {reference_mhz:g} MHz")


_MMCM_OPEN = (
    "CLKFBOUTB", "CLKOUT0B", "CLKOUT1", "CLKOUT1B", "CLKOUT2", "CLKOUT2B", "CLKOUT3", "CLKOUT3B",
    "CLKOUT4", "CLKOUT5", "CLKOUT6", "DO", "DRDY", "CDDCDONE", "PSDONE", "CLKINSTOPPED",
    "CLKFBSTOPPED",
)  # fmt: skip
_MMCM_ZERO = {
    "CLKIN2": 1, "PWRDWN": 1, "DADDR": 7, "DCLK": 1, "DEN": 1, "DI": 16, "DWE": 1, "CDDCREQ": 1,
    "PSCLK": 1, "PSEN": 1, "PSINCDEC": 1,
}  # fmt: skip


def clocks_module(settings: Mmcm, clocks: dict[str, float]) -> str:
    """Verilog of ``moevit_clocks``: outputs named as the clocks, and ``locked``.

    The fastest clock comes through a buffer that divides by one, slower ones through one that
    divides by their ratio.
    """
    fastest = max(clocks.values())
    outputs = "".join(f"  output wire {name},\n" for name in clocks)
    buffers = "".join(
        f"  BUFGCE_DIV #(.BUFGCE_DIVIDE({round(fastest / mhz)})) buffer_{name} (\n"
        f"    .I(made), .CE(1'b1), .CLR(1'b0), .O({name})\n  );\n"
        for name, mhz in clocks.items()
    )
    tied = [f"    .{pin}({width}'b0)" for pin, width in _MMCM_ZERO.items()]
    tied += [f"    .{pin}()" for pin in _MMCM_OPEN]
    unused = ",\n".join(tied)
    made = (
        f"{settings.reference_mhz:g} MHz x {float(settings.multiply):g} = "
        f"{settings.oscillator_mhz:g} MHz, / {settings.divide} = {settings.mhz:g} MHz"
    )
    return f"""\
// {made}.
module {CLOCKS_NAME} (
  input wire clk_in,
  input wire resetn,
{outputs}  output wire locked
);
  wire made, feedback;
  MMCME4_ADV #(
    .BANDWIDTH("OPTIMIZED"), .COMPENSATION("AUTO"), .STARTUP_WAIT("FALSE"),
    .CLKIN1_PERIOD({1e3 / settings.reference_mhz:.3f}), .DIVCLK_DIVIDE(1),
    .CLKFBOUT_MULT_F({float(settings.multiply):.3f}),
    .CLKOUT0_DIVIDE_F({settings.divide:.3f}), .CLKOUT0_DUTY_CYCLE(0.5), .CLKOUT0_PHASE(0.0)
  ) mmcm (
    .CLKIN1(clk_in), .CLKINSEL(1'b1), .RST(~resetn), .LOCKED(locked),
    .CLKFBIN(feedback), .CLKFBOUT(feedback), .CLKOUT0(made),
{unused}
  );
{buffers}endmodule
"""


def generate(config: AcceleratorConfig, board: Board, folder: Path, platform: Any) -> Sources:
    """The Verilog for a board; ``folder`` is where the accelerator is written on the way.

    Memories are named as the vendor's tool wants it (:func:`..memories.vendor_text`).
    """
    built = config.but(clock_mhz=clock_mhz(config, board))
    verilog, sidecar = write(built, folder, platform)
    text, about = verilog.read_text(), json.loads(sidecar.read_text())
    text = vendor_text(text, ultra=board.part.has["URAM"] > 0)
    told = about.get("clocks", {"clk": {"mhz": built.clock_mhz}})
    clocks = {name: float(clock["mhz"]) for name, clock in told.items()}
    inner = ports(text)
    if missing := clocks.keys() - {port.name for port in inner}:
        raise ValueError(f"{sidecar.name}: names clocks {', '.join(missing)}, which no port is")
    files = {f"{TOP_NAME}.v": text, f"{IP_NAME}.v": wrapper(inner, clocks)}
    if board.mmcm:
        settings = mmcm(board.reference_mhz, max(clocks.values()))
        files[f"{CLOCKS_NAME}.v"] = clocks_module(settings, clocks)
    elif len(clocks) > 1:
        raise ValueError(f"{board.name}: has one clock; primitives {board.primitives} need two")
    return Sources(files, about, ip_ports(inner, clocks), clocks)
