"""TUL PYNQ-Z2: Zynq-7000 XC7Z020, 512 MB of DDR3.

The part has no ultra RAM, its multipliers are 25 bits by 18, so that two int8 products do not share
one, and its memory ports are AXI3 of 64 bits, half of what a port of the accelerator moves a cycle.
"""

from __future__ import annotations

from ..parts import Z7020
from .base import Board
from .processors import ZYNQ_7000

__all__ = ["BOARD"]

BOARD = Board(
    name="pynq-z2",
    title="TUL PYNQ-Z2",
    part=Z7020,
    part_name="xc7z020clg400-1",
    board_parts="*:pynq-z2:*",
    free_edition=True,
    processor=ZYNQ_7000,
    mmcm=False,
    reference_mhz=100.0,
    clock_mhz=100.0,
    memory_base=0,
    memory_bytes=1 << 29,
    registers=0x43C0_0000,
    primitives="none",
    presets=("pynq-z2", "micro"),
    interrupt=29,
    host="PYNQ image, over Ethernet",
)
