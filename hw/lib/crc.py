"""CRC-32 of blocks of beats, a beat a cycle (the software of it is ``hw/checks.py``).

The register after a beat is an exclusive-or of a linear function of the register before it and one
of the beat. The second, half of a beat's 128 bits for each of 32, is a pipeline stage of its own;
what remains in the loop is 17 bits for each of 32.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from ..checks import CHECK_BYTES, START, crc32
from ..config import BEAT_BYTES
from .component import Component

__all__ = ["CRC_BITS", "BlockCheck", "Fold", "folded"]

CRC_BITS = 8 * CHECK_BYTES
_BEAT_BITS = 8 * BEAT_BYTES


def folded(beat: bytes) -> int:
    """What :class:`Fold` makes of a beat."""
    return crc32(beat, 0)


def _linear(value: Value, images: list[int]) -> Value:
    """Exclusive-or of the images of the bits that are 1."""
    out = []
    for bit in range(CRC_BITS):
        mask = sum(1 << n for n, image in enumerate(images) if image >> bit & 1)
        out.append((value & Const(mask, len(value))).xor())
    return Cat(out)


_OF_BEAT = [folded((1 << n).to_bytes(BEAT_BYTES, "little")) for n in range(_BEAT_BITS)]
_OF_REGISTER = [crc32(bytes(BEAT_BYTES), 1 << n) for n in range(CRC_BITS)]


class Fold(Component):
    """A beat's part of the register behind it, a cycle later.

    Members
    -------
    i, o:
        In(128), Out(32).
    """

    def __init__(self) -> None:
        super().__init__({"i": In(_BEAT_BITS), "o": Out(CRC_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.o.eq(_linear(self.i, _OF_BEAT))
        return m


class BlockCheck(Component):
    """Compares the CRC of blocks with what it should be.

    Parameters
    ----------
    tag:
        Shape of what names a block.

    Members
    -------
    beat, last, folded:
        In(1), In(1), In(32). A beat of a block as :class:`Fold` has it; it is the block's last.
    expected, checked, tag:
        In. The block's CRC, whether it counts, and its name, with the block's first beat.
    clear:
        In(1). The next beat is a block's first.
    done, damaged, name:
        Out(1), Out(1), Out(tag). Two cycles after a last beat: the block has been looked at; its
        CRC is another. Its name stays until the cycle after the next block's first beat.
    """

    def __init__(self, tag: Any) -> None:
        super().__init__(
            {
                "beat": In(1),
                "last": In(1),
                "folded": In(CRC_BITS),
                "expected": In(CRC_BITS),
                "checked": In(1),
                "tag": In(tag),
                "clear": In(1),
                "done": Out(1),
                "damaged": Out(1),
                "name": Out(tag),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first = Signal(init=1)
        register, wanted = Signal(CRC_BITS), Signal(CRC_BITS)
        checked, ended, name = Signal(), Signal(), Signal.like(self.tag)
        before = _linear(register, _OF_REGISTER)
        start = crc32(bytes(BEAT_BYTES), START)
        with m.If(self.beat):
            m.d.sync += [register.eq(self.folded ^ Mux(first, start, before)), first.eq(self.last)]
            with m.If(first):
                m.d.sync += [
                    wanted.eq(self.expected),
                    checked.eq(self.checked),
                    name.eq(self.tag),
                ]
        with m.If(self.clear):
            m.d.sync += first.eq(1)
        m.d.sync += [
            ended.eq(self.beat & self.last & ~self.clear),
            self.done.eq(ended),
            self.damaged.eq(ended & checked & (register != wanted)),
            self.name.eq(name),
        ]
        return m
