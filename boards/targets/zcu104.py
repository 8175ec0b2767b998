"""AMD ZCU104: Zynq UltraScale+ XCZU7EV, 2 GB of DDR4."""

from __future__ import annotations

from ..parts import ZCU104
from .base import Board
from .processors import FASTEST_SLICES, ZYNQ_ULTRASCALE

__all__ = ["BOARD"]

BOARD = Board(
    name="zcu104",
    title="AMD ZCU104",
    part=ZCU104,
    part_name="xczu7ev-ffvc1156-2-e",
    board_parts="*:zcu104:*",
    free_edition=True,
    processor=ZYNQ_ULTRASCALE,
    mmcm=True,
    reference_mhz=100.0,
    clock_mhz=300.0,
    memory_base=0,
    memory_bytes=1 << 31,
    registers=0xA000_0000,
    primitives=FASTEST_SLICES,
    presets=("zcu104", "default", "micro"),
    interrupt=89,
    host="PYNQ 3 image or PetaLinux, over Ethernet",
)
