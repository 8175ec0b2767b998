"""The system around the accelerator on Lattice boards: SDRAM, serial link, pins, open tools."""

from __future__ import annotations

__all__: list[str] = []
