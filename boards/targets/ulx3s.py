"""Radiona ULX3S (ECP5 LFE5U-85F): known, not built yet."""

from __future__ import annotations

__all__ = ["BOARD"]

BOARD = "there is no flow for the ECP5 yet (no SDRAM controller and no host link)"
