"""Board targets: primitives of their devices behind the components that hw/ leaves open."""

from __future__ import annotations

from typing import Any

__all__ = ["PRIMITIVES", "platform"]

PRIMITIVES = ("none", "dsp48e2", "dsp48e2x2", "mult18x18d")
"""What the multipliers can be made of: plain Verilog, DSP48E2 slices, these at twice the clock."""


def platform(primitives: str) -> Any:
    """What :func:`moevit.hw.verilog.generate` takes; raises ``ValueError`` for an unknown name."""
    if primitives == "none":
        return None
    if primitives == "dsp48e2":
        from .dsp48e2 import Platform

        return Platform()
    if primitives == "dsp48e2x2":
        from . import dsp48e2x2

        return dsp48e2x2.Platform()
    if primitives == "mult18x18d":
        from . import mult18x18d

        return mult18x18d.Platform()
    raise ValueError(f"Unknown primitives {primitives!r}; expected one of {', '.join(PRIMITIVES)}")
