"""The boards' parts and what a design may take of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["K26", "RESOURCES", "Z7020", "ZCU102", "ZCU104", "ZU3EG", "Part", "part", "primitives"]

RESOURCES = ("LUT", "FF", "DSP", "BRAM36", "URAM")
"""Kinds of resources, in the order of every table."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A device: what it has, and the share of it that a design may take.

    ``budget`` holds absolute numbers. A device filled further than that is unlikely to be routed
    at the target clock. ``family``: the name that Yosys has for its primitives. ``dsp``: the
    multiplier that it has.
    """

    name: str
    device: str
    speed: str
    has: dict[str, int]
    budget: dict[str, int]
    family: str = "xcup"
    dsp: str = "DSP48E2"

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


def _part(*amounts: int, name: str, device: str, speed: str, **family: str) -> Part:
    """A part with the ZCU104's shares: 75 % of the LUTs, 90 % of RAM, and of DSPs too."""
    has = dict(zip(RESOURCES, amounts, strict=True))
    share = {"LUT": 0.75, "FF": 1.0, "DSP": 0.9, "BRAM36": 0.9, "URAM": 0.9}
    budget = {what: int(share[what] * amount) for what, amount in has.items()}
    return Part(name=name, device=device, speed=speed, has=has, budget=budget, **family)


# Amounts: AMD DS891 (Zynq UltraScale+), DS987 (K26), DS190 (Zynq-7000), tables of each device.
ZCU102 = _part(274_080, 548_160, 2_520, 912, 0, name="zcu102", device="XCZU9EG", speed="-2")
"""AMD ZCU102 (Zynq UltraScale+ XCZU9EG-2)."""

K26 = _part(117_120, 234_240, 1_248, 144, 64, name="kv260", device="XCK26", speed="-2LV")
"""AMD Kria K26 module (Zynq UltraScale+), on the KV260."""

ZU3EG = _part(70_560, 141_120, 360, 216, 0, name="ultra96v2", device="XCZU3EG", speed="-1")
"""Avnet Ultra96-V2 (Zynq UltraScale+ XCZU3EG-1)."""

Z7020 = _part(
    *(53_200, 106_400, 220, 140, 0), name="pynq-z2", device="XC7Z020", speed="-1",
    family="xc7", dsp="DSP48E1",
)  # fmt: skip
"""TUL PYNQ-Z2 (Zynq-7000 XC7Z020-1)."""


def part(preset: str) -> Part:
    """The part that a preset is meant for: there is one board."""
    del preset
    return ZCU104


def primitives(preset: str) -> str:
    """What the multipliers of a preset are made of on its part, a name in ``boards.PRIMITIVES``."""
    return "dsp48e2x2" if preset == "zcu104" else "dsp48e2"
