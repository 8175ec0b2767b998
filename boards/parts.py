"""The board's part and what a design may take of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RESOURCES", "ZCU104", "Part", "part", "primitives"]

RESOURCES = ("LUT", "FF", "DSP", "BRAM36", "URAM")
"""Kinds of resources, in the order of every table."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A device: what it has, and the share of it that a design may take.

    ``budget`` holds absolute numbers. A device filled further than that is unlikely to be routed
    at the target clock.
    """

    name: str
    device: str
    speed: str
    has: dict[str, int]
    budget: dict[str, int]

    def __post_init__(self) -> None:
        for what in ("has", "budget"):
            if tuple(getattr(self, what)) != RESOURCES:
                raise ValueError(
                    f"Part.{what} must name {', '.join(RESOURCES)}, not {', '.join(self.has)}"
                )


ZCU104 = Part(
    name="zcu104",
    device="XCZU7EV",
    speed="-2",
    has={"LUT": 230_400, "FF": 460_800, "DSP": 1_728, "BRAM36": 312, "URAM": 96},
    # 75 % of the LUTs, all flip-flops (there are two a LUT), 90 % of both kinds of RAM.
    budget={"LUT": 172_800, "FF": 460_800, "DSP": 1_350, "BRAM36": 280, "URAM": 86},
)
"""AMD ZCU104 (Zynq UltraScale+ XCZU7EV-2)."""


def part(preset: str) -> Part:
    """The part that a preset is meant for: there is one board."""
    del preset
    return ZCU104


def primitives(preset: str) -> str:
    """What the multipliers of a preset are made of on its part, a name in ``boards.PRIMITIVES``."""
    return "dsp48e2x2" if preset == "zcu104" else "dsp48e2"
