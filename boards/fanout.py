"""Nets of a mapped netlist that drive most, and what they drive.

A net goes through the ports of the blocks that were mapped on their own: what it drives in there
counts where its driver is. Clocks are left out; they have wires of their own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

__all__ = ["MOST", "Net", "PortLoads", "widest"]

MOST = 512
"""Loads of a net, beyond which a register should be copied."""

_CLOCKS = ("C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK")

PortLoads = dict[str, list["Counter[str]"]]
"""What each bit of a block's inputs drives in it: pins by cell and port."""


@dataclass(frozen=True)
class Net:
    """``driver``: the type of the cell that drives it; ``drives``: loads by cell and pin."""

    name: str
    driver: str
    loads: int
    drives: dict[str, int]

    @property
    def reset(self) -> bool:
        """Whether all it drives are resets, for which there are trees."""
        return all(pin.split(".")[1] in ("R", "S", "CLR", "PRE") for pin in self.drives)


def widest(
    netlist: dict[str, Any], inside: dict[str, PortLoads], count: int
) -> tuple[list[Net], PortLoads]:
    """The ``count`` nets with most loads of those driven in ``netlist``, most first, and what its
    inputs drive. ``inside``: the latter of its black boxes, by type."""
    loads: dict[int, Counter[str]] = defaultdict(Counter)
    drivers: dict[int, str] = {}
    for cell in netlist["cells"].values():
        kind = cell["type"]
        if kind.startswith("$"):
            continue
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "output":
                drivers.update((bit, kind) for bit in bits if isinstance(bit, int))
            elif kind in inside:
                for bit, driven in zip(bits, inside[kind].get(port, ()), strict=False):
                    if isinstance(bit, int):
                        loads[bit].update(driven)
            elif port not in _CLOCKS:
                # Of a look-up table it does not matter which input.
                pin = "LUT.I" if kind.startswith("LUT") else f"{kind}.{port}"
                for bit in bits:
                    if isinstance(bit, int):
                        loads[bit][pin] += 1
    most = sorted((bit for bit in loads if bit in drivers), key=lambda bit: -loads[bit].total())
    most = most[:count]
    names = _names(netlist, set(most))
    nets = [
        Net(
            names.get(bit, "?"),
            drivers[bit],
            loads[bit].total(),
            dict(sorted(loads[bit].items(), key=lambda item: (-item[1], item[0]))),
        )
        for bit in most
    ]
    inputs = {
        port: [loads.get(bit, Counter()) for bit in about["bits"]]
        for port, about in netlist["ports"].items()
        if about["direction"] == "input"
    }
    return nets, inputs


def _names(netlist: dict[str, Any], wanted: set[int]) -> dict[int, str]:
    """The shortest name that the design gives each bit."""
    names: dict[int, str] = {}
    for name, net in netlist["netnames"].items():
        if net.get("hide_name"):
            continue
        for index, bit in enumerate(net["bits"]):
            if bit in wanted and (bit not in names or len(name) < len(names[bit])):
                names[bit] = f"{name}[{index}]" if len(net["bits"]) > 1 else name
    return names
