"""The cells of a mapped netlist: what each takes, and its part in a path.

Delays are rules of thumb in ns for speed grade -2, each with the net in front of it, and no
substitute for place and route. Sources: the average of 0.37 ns for a look-up table and its net is
what leaves 8 levels at 300 MHz; block RAM has 1.5 ns from clock to output without its output
register and 0.4 ns with it (AMD UG949, "Optimizing Paths with Dedicated Blocks"). The others are
assumptions of ours: 1.8 ns for ultra RAM, 1.9 ns through a multiplier whose operands and product
are registers (which the DSP48E2 takes in).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "CLOCK_TO_Q",
    "LEVEL",
    "SETUP",
    "UNCERTAINTY",
    "Arc",
    "Cost",
    "Timing",
    "resources",
    "timing",
]

CLOCK_TO_Q = 0.08
"""Flip-flop, clock to output."""
SETUP = 0.06
"""Flip-flop, data input; it shares a slice with the look-up table in front of it."""
LEVEL = 0.37
"""A look-up table with the net in front of it; also the net to a flip-flop's enable or reset."""
UNCERTAINTY = 0.10
"""Clock uncertainty and skew."""
_MUX = 0.12
_CARRY_IN, _CARRY_ON = 0.15, 0.05
_RAM_OUT, _RAM_OUT_REGISTERED, _ULTRA_OUT = 1.5, 0.4, 1.8
_BLOCK_IN = 0.6
"""Net and set-up at a RAM's or a DSP's input."""
_MULTIPLY = 1.9
_DSP_OUT = 0.4

_LUTRAM = {
    # name: look-up tables
    "RAM32M": 4, "RAM32M16": 8, "RAM64M": 4, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2,
    "RAM128X1D": 4, "RAM256X1D": 8, "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4,
    "RAM512X1S": 8,
}  # fmt: skip
_SHIFT = ("SRL16E", "SRLC16E", "SRLC32E")
_FREE = ("MUXF7", "MUXF8", "MUXF9", "CARRY4", "CARRY8", "INV", "BUFG", "GND", "VCC")
_RAMB = {"RAMB18E2": 0.5, "RAMB36E2": 1.0, "RAMB18E1": 0.5, "RAMB36E1": 1.0}
_DSPS = ("DSP48E2", "DSP48E1")


def resources(cell: str) -> dict[str, float]:
    """What a cell of this type takes; raises ``ValueError`` for a type that is not known."""
    if cell.startswith("LUT") and cell[3:].isdigit():
        return {"LUT": 1}
    if cell in _LUTRAM:
        return {"LUT": _LUTRAM[cell]}
    if cell in _SHIFT:
        return {"LUT": 1}
    if cell.startswith("FD"):
        return {"FF": 1}
    if cell in _RAMB:
        return {"BRAM36": _RAMB[cell]}
    if cell == "URAM288":
        return {"URAM": 1}
    if cell in _DSPS:
        return {"DSP": 1}
    if cell in _FREE:
        return {}
    raise ValueError(f"Cell {cell}: not known; expected a primitive of UltraScale+ or the 7 series")


class Cost(NamedTuple):
    """Of a path or a part of one; the longer of two is the one of more ns."""

    ns: float
    luts: int = 0
    carries: int = 0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(self.ns + other.ns, self.luts + other.luts, self.carries + other.carries)


Bits = tuple[str, int | None]
"""A bit of a port, or all of them."""


@dataclass(frozen=True)
class Arc:
    """What passes without a clock: each of ``targets`` comes ``cost`` after the last of
    ``sources``."""

    sources: tuple[Bits, ...]
    targets: tuple[Bits, ...]
    cost: Cost
    mark: str = ""


@dataclass(frozen=True)
class Timing:
    """A cell's part in paths.

    ``starts``: from the clock to each output port; ``ends``: from each input port to the clock;
    ``arcs``: what passes through. ``mark``: named in a path that begins or ends here.
    """

    starts: dict[str, Cost]
    ends: dict[str, Cost]
    arcs: tuple[Arc, ...] = ()
    mark: str = ""


def timing(cell: str, parameters: dict[str, str], ports: dict[str, int]) -> Timing:
    """Paths of a cell with these parameters and port widths (outputs as well as inputs)."""
    if cell.startswith("FD"):
        pins = ("CE", "R", "S", "CLR", "PRE")
        control: dict[str, Cost] = {p: Cost(LEVEL) for p in pins if p in ports}
        return Timing({"Q": Cost(CLOCK_TO_Q)}, {"D": Cost(SETUP), **control})
    if cell.startswith(("LUT", "MUXF")) or cell == "INV":
        is_lut = cell.startswith("LUT")
        ns = LEVEL if is_lut else _MUX if cell.startswith("MUXF") else 0.0
        inputs = tuple((p, 0) for p in ports if p != "O")
        return Timing({}, {}, (Arc(inputs, (("O", 0),), Cost(ns, int(is_lut))),))
    if cell in _CARRY:
        return Timing({}, {}, _CARRY[cell])
    if cell in _LUTRAM:
        return _lutram(ports)
    if cell in _SHIFT:
        address = tuple((p, None) for p in ports if p.startswith("A"))
        read = Arc(address, (("Q", 0),), Cost(LEVEL, 1))
        outputs = {p: Cost(LEVEL, 1) for p in ports if p.startswith("Q")}
        return Timing(outputs, {"D": Cost(SETUP), "CE": Cost(LEVEL)}, (read,), "SRL")
    if cell in _RAMB or cell == "URAM288":
        return _ram(cell, parameters, ports)
    if cell in _DSPS:
        return _dsp(parameters, ports)
    raise ValueError(f"Cell {cell}: not known; expected a primitive of UltraScale+ or the 7 series")


def _carry(bits: int) -> Iterator[Arc]:
    for bit in range(bits):
        # Into the chain at this bit, and on to the ones above.
        above = tuple((p, n) for n in range(bit + 1, bits) for p in ("O", "CO"))
        yield Arc((("S", bit),), (("O", bit), ("CO", bit)), Cost(_CARRY_IN, 0, 1))
        yield Arc((("DI", bit),), (("CO", bit),), Cost(_CARRY_IN, 0, 1))
        if above:
            yield Arc((("S", bit), ("DI", bit)), above, Cost(_CARRY_IN + _CARRY_ON, 0, 1))
    first = (("CI", 0), ("CI_TOP", 0), ("CYINIT", 0))
    yield Arc(first, (("O", None), ("CO", None)), Cost(_CARRY_ON, 0, 1))


_CARRY = {"CARRY4": tuple(_carry(4)), "CARRY8": tuple(_carry(8))}
"""Yosys writes chains in fours; a slice of UltraScale+ holds two of them."""


def _lutram(ports: dict[str, int]) -> Timing:
    outputs = [p for p in ports if p.startswith("DO") or p in ("O", "SPO", "DPO")]
    arcs = []
    for output in outputs:
        address = {"O": "A", "SPO": "A", "DPO": "DPRA"}.get(output, "ADDR" + output[2:])
        sources = tuple(
            (p, None)
            for p in ports
            if p not in outputs and (p == address or p.removeprefix(address).isdigit())
        )
        arcs.append(Arc(sources, ((output, None),), Cost(LEVEL, 1)))
    ends = {p: Cost(LEVEL) for p in ports if p not in outputs and "CLK" not in p}
    return Timing(dict.fromkeys(outputs, Cost(2 * LEVEL, 1)), ends, tuple(arcs), "LUT RAM")


def _ram(cell: str, parameters: dict[str, str], ports: dict[str, int]) -> Timing:
    outputs = [p for p in ports if "DOUT" in p or p.startswith(("CAS_OUT", "RDACCESS"))]
    ultra = cell == "URAM288"
    ns = _ULTRA_OUT if ultra else _RAM_OUT
    if _value(parameters.get("OREG_A" if ultra else "DOA_REG", "0")):
        ns = _RAM_OUT_REGISTERED
    ends = {p: Cost(_BLOCK_IN) for p in ports if p not in outputs and "CLK" not in p}
    return Timing(dict.fromkeys(outputs, Cost(ns)), ends, (), "URAM" if ultra else "BRAM")


_DSP_OUTPUTS = ("P", "PCOUT", "CARRYOUT", "CARRYCASCOUT", "ACOUT", "BCOUT", "XOROUT")


def _dsp(parameters: dict[str, str], ports: dict[str, int]) -> Timing:
    def has(*names: str) -> bool:
        return any(_value(parameters.get(name, "1")) for name in names)

    outputs = [p for p in ports if p in _DSP_OUTPUTS]
    inputs = [p for p in ports if p not in outputs and p != "CLK"]
    operands, in_front = ("A", "B", "C", "D"), has("AREG", "BREG")
    ends = dict.fromkeys(inputs, Cost(_BLOCK_IN))
    # A column's own wires.
    ends |= {p: Cost(0.0) for p in ("PCIN", "ACIN", "BCIN", "CARRYCASCIN") if p in ends}
    if has("PREG"):
        if not has("AREG", "BREG", "MREG"):
            ends |= {p: Cost(_MULTIPLY) for p in operands if p in ends}
        return Timing(dict.fromkeys(outputs, Cost(_DSP_OUT)), ends, (), "DSP")
    if in_front or has("MREG"):
        ns = _MULTIPLY / 2 if has("MREG") else _MULTIPLY
        return Timing(dict.fromkeys(outputs, Cost(ns)), ends, (), "DSP")
    sources = tuple((p, None) for p in inputs if p in operands)
    targets = tuple((q, None) for q in outputs)
    return Timing({}, {}, (Arc(sources, targets, Cost(_MULTIPLY), "DSP"),), "DSP")


def _value(parameter: str) -> int:
    text = str(parameter).strip()
    if text in ("FALSE", "TRUE"):
        return int(text == "TRUE")
    return int(text, 2) if set(text) <= {"0", "1"} else int(text)
