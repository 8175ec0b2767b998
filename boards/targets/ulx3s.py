"""Radiona ULX3S with the ECP5 LFE5U-85F: built by open tools from PyPI alone (boards/lattice).

No processor: the host is behind the USB serial bridge, memory is one SDR SDRAM of 16 bits.
"""

from __future__ import annotations

from .base import OpenBoard

__all__ = ["BOARD"]

BOARD = OpenBoard(
    name="ulx3s",
    title="Radiona ULX3S",
    part_name="LFE5U-85F-6BG381C",
    clock_mhz=50.0,
    memory_bytes=32 << 20,
    presets=("ulx3s",),
    multipliers=156,
    block_rams=208,
    bauds=3_000_000,
    host="USB serial bridge",
)
