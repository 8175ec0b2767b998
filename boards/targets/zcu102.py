"""AMD ZCU102: Zynq UltraScale+ XCZU9EG, 4 GB of DDR4, the lower 2 GB in use."""

from __future__ import annotations

from ..parts import ZCU102
from .base import Board
from .processors import FASTEST_SLICES, ZYNQ_ULTRASCALE

__all__ = ["BOARD"]

BOARD = Board(
    name="zcu102",
    title="AMD ZCU102",
    part=ZCU102,
    part_name="xczu9eg-ffvb1156-2-e",
    board_parts="*:zcu102:*",
    free_edition=False,
    processor=ZYNQ_ULTRASCALE,
    mmcm=True,
    reference_mhz=100.0,
    clock_mhz=300.0,
    memory_base=0,
    memory_bytes=1 << 31,
    registers=0xA000_0000,
    primitives=FASTEST_SLICES,
    presets=("zcu102", "default", "micro"),
    interrupt=89,
    host="PetaLinux, over Ethernet",
)
