"""On-chip memories: which kind of RAM each one becomes, and how much of it.

Every memory of the accelerator is a :class:`Memory`, which names its kind to synthesis
(``ram_style``). The kind follows from the size alone, so that hw/footprint.py knows what a
configuration takes without building it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import memory
from amaranth.utils import ceil_log2

__all__ = ["BANK_BITS", "KEEP", "Bank", "Memory", "Style", "banks_of", "sections", "style"]

BANK_BITS = 64
"""Memories are built of banks no wider than this: one machine word of a simulator, and a natural
width of block and ultra RAM."""

_DISTRIBUTED_DEPTH = 128
"""Deepest memory that is made of look-up tables, which hold 64 bits each: a quarter of what a block
RAM has for as many bits a cycle."""
_ULTRA_DEPTH, _ULTRA_BITS = 2048, 36
"""An ultra RAM has 4,096 words of 72 bits; what fills less than a quarter of it is block RAM."""
_ULTRA_WORDS = 4096


KEEP = {"keep": "true"}
"""Attributes of a register that synthesis merges with no other: one of several copies."""


class Style(StrEnum):
    """Values of the attribute ``ram_style``."""

    DISTRIBUTED = "distributed"
    """look-up tables"""
    BLOCK = "block"
    """block RAM, 36 Kbit with one write and one read port of up to 72 bits"""
    ULTRA = "ultra"
    """ultra RAM, 288 Kbit, without initial contents"""
    LOGIC = "registers"
    """plain logic; for small tables"""


def style(width: int, depth: int, *, initialised: bool = False) -> Style:
    """What a memory of ``depth`` words of ``width`` bits is made of."""
    if depth <= _DISTRIBUTED_DEPTH:
        return Style.DISTRIBUTED
    if depth >= _ULTRA_DEPTH and width >= _ULTRA_BITS and not initialised:
        return Style.ULTRA
    return Style.BLOCK


class Memory(memory.Memory):  # type: ignore[type-arg]  # generic in its types only
    """:class:`amaranth.lib.memory.Memory` that tells synthesis its kind of RAM.

    Parameters
    ----------
    shape, depth, init
        As Amaranth's.
    ram_style
        For a memory that cannot follow :func:`style`, such as one read without a clock.
    """

    def __init__(self, *, shape: Any, depth: int, init: Any, ram_style: Style | None = None):
        initial = list(init)
        kind = ram_style or style(Shape.cast(shape).width, depth, initialised=bool(initial))
        attrs = {"ram_style": str(kind)}
        super().__init__(shape=shape, depth=depth, init=initial, attrs=attrs, src_loc_at=1)


@dataclass(frozen=True)
class Bank:
    """``count`` memories of ``depth`` words of ``width`` bits, one write and one read port each."""

    width: int
    depth: int
    count: int = 1
    initialised: bool = False

    @property
    def style(self) -> Style:
        """Kind of RAM."""
        return style(self.width, self.depth, initialised=self.initialised)

    @property
    def block_rams(self) -> float:
        """Block RAMs of 36 Kbit; a half is one of 18 Kbit."""
        if self.style != Style.BLOCK:
            return 0
        # 18 Kbit: 512 x 36, 1,024 x 18 ... 4,096 x 4; 36 Kbit: twice as wide.
        deep = max(9, ceil_log2(self.depth))
        rows = 1
        if deep > 12:
            rows, deep = -(-self.depth // 4096), 12
        half = {9: 36, 10: 18, 11: 9, 12: 4}[deep]
        whole = {9: 72, 10: 36, 11: 18, 12: 9}[deep]
        fewest = min(
            2 * full + -(-max(self.width - full * whole, 0) // half)
            for full in range(-(-self.width // whole) + 1)
        )
        return self.count * rows * fewest / 2

    @property
    def ultra_rams(self) -> int:
        """Ultra RAMs."""
        if self.style != Style.ULTRA:
            return 0
        return self.count * -(-self.width // 72) * -(-self.depth // 4096)


def sections(depth: int) -> list[int]:
    """Depths of the memories, one behind the other, that make a deep one of ultra RAM.

    Up to 1,024 words beyond a multiple of 4,096 take block RAM instead of as many ultra RAMs again.
    """
    rest = depth % _ULTRA_WORDS
    return [depth - rest, rest] if depth > _ULTRA_WORDS and 0 < rest <= 1024 else [depth]


def banks_of(width: int, depth: int, *, bank: int = BANK_BITS, count: int = 1) -> list[Bank]:
    """``count`` memories of ``width`` bits in banks of at most ``bank``."""
    full, rest = divmod(width, bank)
    found = [Bank(bank, depth, count * full)] if full else []
    return found + ([Bank(rest, depth, count)] if rest else [])
