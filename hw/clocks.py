"""Clocks beside the accelerator's own, which the primitives of a board may need."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Clock"]


@dataclass(frozen=True, kw_only=True)
class Clock:
    """An input of the top that carries ``times`` the clock ``clk``, in phase with it.

    Every rising edge of ``clk`` is one of this clock too: both come from one source (an MMCM whose
    output is divided for ``clk``), with balanced delays. A platform names those that it needs in
    its ``clocks``; ``domain`` is the clock domain's name in its logic.
    """

    domain: str
    port: str
    times: int
