"""AMD Kria KV260: the K26 module (XCK26), 4 GB of DDR4, the lower 2 GB in use."""

from __future__ import annotations

from ..parts import K26
from .base import Board
from .processors import ZYNQ_ULTRASCALE

__all__ = ["BOARD"]

BOARD = Board(
    name="kv260",
    title="AMD Kria KV260",
    part=K26,
    part_name="xck26-sfvc784-2LV-c",
    board_parts="*:kv260_som:*",
    free_edition=True,
    processor=ZYNQ_ULTRASCALE,
    mmcm=True,
    reference_mhz=100.0,
    clock_mhz=300.0,
    memory_base=0,
    memory_bytes=1 << 31,
    registers=0xA000_0000,
    primitives="dsp48e2",
    presets=("default", "micro"),
    interrupt=89,
    host="Ubuntu for Kria or PetaLinux, over Ethernet",
)
