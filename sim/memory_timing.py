"""What the simulated memory makes the accelerator wait for."""

from dataclasses import dataclass, replace
from typing import Self

__all__ = ["MemoryTiming"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTiming:
    """What the memory makes the accelerator wait for.

    Parameters
    ----------
    bytes_per_cycle:
        The bandwidth that all ports share, both directions together; may be a fraction.
    read_latency:
        Cycles from the handshake of a read address to the first beat of its data.
    write_latency:
        Cycles from the last beat of a write to its response.
    refresh_period, refresh_cycles:
        How often, and for how long, no data moves. A period of 0 is no refresh.
    outstanding:
        Bursts that a port may have open in each direction.
    stall_probability:
        Of withholding each ready and each new valid in a cycle: 0 for a memory, more for a test.
    reorder:
        Bursts with different ids overtake one another at random, as AXI allows.
    seed:
        Of stalls and reordering.
    """

    bytes_per_cycle: float = 16.0
    read_latency: int = 64
    write_latency: int = 32
    refresh_period: int = 0
    refresh_cycles: int = 0
    outstanding: int = 16
    stall_probability: float = 0.0
    reorder: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.bytes_per_cycle > 0:
            raise ValueError(f"bytes_per_cycle must be positive, not {self.bytes_per_cycle!r}")
        for name in ("read_latency", "write_latency", "outstanding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not 0 <= self.stall_probability < 1:
            raise ValueError(
                f"stall_probability must be from 0 to below 1, not {self.stall_probability!r}"
            )
        if self.refresh_period and not 0 <= self.refresh_cycles < self.refresh_period:
            raise ValueError(
                f"refresh_cycles must be from 0 to below the period of {self.refresh_period}, "
                f"not {self.refresh_cycles!r}"
            )

    @classmethod
    def ddr4(cls, *, clock_mhz: float, ports: int, beat_bytes: int = 16) -> Self:
        """The 64-bit DDR4-2400 of a ZCU104 as the programmable logic sees it.

        The pins give 19.2 GB/s, of which streams of long bursts get about 80 %; a port gives one
        beat a cycle at most. A read takes about 200 ns through the interconnect and controller. A
        refresh of 350 ns every 7.8 us is JEDEC's for 8 Gb parts (JESD79-4: tRFC1, tREFI).
        """
        cycle_ns = 1e3 / clock_mhz
        return cls(
            bytes_per_cycle=min(0.8 * 19.2 * cycle_ns, float(ports * beat_bytes)),
            read_latency=max(1, round(200 / cycle_ns)),
            write_latency=max(1, round(120 / cycle_ns)),
            refresh_period=round(7800 / cycle_ns),
            refresh_cycles=round(350 / cycle_ns),
        )

    def but(self, **changes: float | int | bool) -> Self:
        """A copy with other values."""
        return replace(self, **changes)  # type: ignore[arg-type]
