"""CRCs of the tables that LOADs read."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..config import BEAT_BYTES
from ..isa import LoadKind
from ..lib.component import Component
from ..lib.crc import BlockCheck, Fold
from ..registers import DAMAGE_BITS, DAMAGE_UNIT

__all__ = ["TableCheck"]


class TableCheck(Component):
    """Compares the CRC of each LOAD's beats with its check, as they leave a landing buffer.

    A block RAM's output is too late for the CRC's gates: there is a register between them. LOADs of
    pixels, and those that are not ``checked``, pass.

    Members
    -------
    load:
        In(``isa.Load.layout()``). The LOAD that the beat belongs to. The next one's first beat
        comes three cycles after this one's last, or later.
    beat, data:
        In(1), In(128). A beat leaves the buffer.
    damaged, name:
        Out(1), Out. Pulse, four cycles after a last beat; the table's address in DAMAGE_UNIT bytes.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "load": In(isa.Load.layout()),
                "beat": In(1),
                "data": In(8 * BEAT_BYTES),
                "damaged": Out(1),
                "name": Out(DAMAGE_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fold = fold = Fold()
        m.submodules.check = check = BlockCheck(DAMAGE_BITS)
        load = self.load
        count = Signal(load.beats.shape(), init=1)  # of the beat that comes, from 1
        mine, last, took, was_last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            mine.eq(self.beat & (load.kind != LoadKind.PIXELS)),
            last.eq(count == load.beats),
            check.folded.eq(fold.o),
            self.damaged.eq(check.damaged),
            self.name.eq(check.name),
        ]
        m.d.sync += [
            fold.i.eq(self.data),
            took.eq(mine),
            was_last.eq(last),
            check.beat.eq(took),
            check.last.eq(was_last),
        ]
        with m.If(mine):
            m.d.sync += count.eq(Mux(last, 1, count + 1))
            with m.If(count == 1):
                m.d.sync += [
                    check.expected.eq(load.check),
                    check.checked.eq(load.checked),
                    check.tag.eq(load.address >> ceil_log2(DAMAGE_UNIT)),
                ]
        return m
