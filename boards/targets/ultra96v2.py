"""Avnet Ultra96-V2: Zynq UltraScale+ XCZU3EG, 2 GB of LPDDR4."""

from __future__ import annotations

from ..parts import ZU3EG
from .base import Board
from .processors import ZYNQ_ULTRASCALE

__all__ = ["BOARD"]

BOARD = Board(
    name="ultra96v2",
    title="Avnet Ultra96-V2",
    part=ZU3EG,
    part_name="xczu3eg-sbva484-1-i",
    board_parts="*:ultra96v2:*",
    free_edition=True,
    processor=ZYNQ_ULTRASCALE,
    mmcm=True,
    reference_mhz=100.0,
    clock_mhz=250.0,
    memory_base=0,
    memory_bytes=1 << 31,
    registers=0xA000_0000,
    primitives="dsp48e2",
    presets=("default", "micro"),
    interrupt=89,
    host="PYNQ 3 image, over WLAN or USB",
)
