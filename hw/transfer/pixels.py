"""From beats of an interleaved image to patches in the activation memory."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..config import BEAT_BYTES, AcceleratorConfig
from ..interfaces import ActivationWrite
from ..lib.component import Component

__all__ = ["Unpacker"]

_Fields = isa.Load.layout()
_SIGN = 0x80


class Unpacker(Component):
    """LOAD PIXELS: every pixel row arrives as whole beats from its own first beat on.

    A cycle takes as many bytes as lie together in a beat, a patch row and an activation word: patch
    rows of a multiple of 16 bytes pass at a beat a cycle when words are no shorter than a beat.
    There is one more cycle a pixel row. All counters advance by addition; a patch row's bytes must
    be a multiple of ``config.piece_bytes``.

    Members
    -------
    start, fields:
        In(1) pulse, In(``isa.Load.layout()``). The fields stay until ``done``.
    i:
        In(stream of a beat).
    o:
        Out(ActivationWrite). Bytes less 128.
    done:
        Out(1). Everything since ``start`` was accepted at ``o``.
    bad_address:
        Out(1), held. A word outside the memory.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "fields": In(_Fields),
                "i": In(stream.Signature(unsigned(8 * BEAT_BYTES))),
                "o": Out(ActivationWrite(config)),
                "done": Out(1),
                "bad_address": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fields, config = self.fields, self._config
        piece = config.piece_bytes
        in_beat, in_word = BEAT_BYTES // piece, config.array.inputs // piece
        shift = ceil_log2(piece)

        # Where we are: in the beat, in the word, and how much of the patch row is missing (pieces).
        beat_at, word_at = Signal(range(in_beat)), Signal(range(in_word))
        left = Signal(len(fields.patch_bytes) - shift)
        address = Signal(isa.ADDRESS_BITS)
        # The first patch's next row begins where its row before ended; other patches follow.
        row_address, row_word_at = Signal(isa.ADDRESS_BITS), Signal(range(in_word))
        begin = Signal.like(row_word_at)  # in the word, of every patch in this row
        next_patch, next_strip = Signal(isa.ADDRESS_BITS), Signal(isa.ADDRESS_BITS)
        patches, rows, strips = (
            Signal.like(field) for field in (fields.patches, fields.patch_rows, fields.strips)
        )
        first_patch, first_row = Signal(), Signal()

        limit, count = Signal(range(max(in_beat, in_word) + 1)), Signal(range(in_beat + 1))
        beat_room, word_room = Signal(range(in_beat + 1)), Signal(range(in_word + 1))
        m.d.comb += [
            beat_room.eq(in_beat - beat_at),
            word_room.eq(in_word - word_at),
            limit.eq(Mux(beat_room < word_room, beat_room, word_room)),
            count.eq(Mux(left < limit, left, limit)),
        ]
        beat_ends, word_ends, patch_row_ends = Signal(), Signal(), Signal()
        m.d.comb += [
            beat_ends.eq(count == beat_room),
            word_ends.eq(count == word_room),
            patch_row_ends.eq(left == count),
        ]
        word_at_next, address_next = Signal.like(word_at), Signal.like(address)
        m.d.comb += [
            word_at_next.eq(Mux(word_ends, 0, word_at + count)),
            address_next.eq(address + word_ends),
        ]

        outside, slot, step = Signal(), Signal(), Signal()
        m.d.comb += [
            slot.eq(~self.o.valid | self.o.ready),
            outside.eq(address >= config.memory.activation_words),
        ]
        self._write(m, step, address, beat_at, word_at, count)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.done.eq(~self.o.valid)
                m.d.sync += [
                    row_address.eq(fields.target),
                    row_word_at.eq(0),
                    rows.eq(fields.patch_rows),
                    strips.eq(fields.strips),
                    first_row.eq(1),
                ]
                with m.If(self.start):
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.sync += [
                    address.eq(row_address),
                    word_at.eq(row_word_at),
                    begin.eq(row_word_at),
                    next_patch.eq(row_address + fields.stride),
                    beat_at.eq(0),
                    left.eq(fields.patch_bytes >> shift),
                    patches.eq(fields.patches),
                    first_patch.eq(1),
                ]
                m.next = "MOVE"
            with m.State("MOVE"):
                with m.If(self.i.valid & slot & ~outside):
                    m.d.comb += [step.eq(1), self.i.ready.eq(beat_ends)]
                    m.d.sync += [
                        beat_at.eq(Mux(beat_ends, 0, beat_at + count)),
                        word_at.eq(word_at_next),
                        address.eq(address_next),
                        left.eq(left - count),
                    ]
                    with m.If(patch_row_ends):
                        m.d.sync += [
                            address.eq(next_patch),
                            word_at.eq(begin),
                            next_patch.eq(next_patch + fields.stride),
                            left.eq(fields.patch_bytes >> shift),
                            patches.eq(patches - 1),
                            first_patch.eq(0),
                        ]
                        with m.If(first_patch):
                            m.d.sync += [row_address.eq(address_next), row_word_at.eq(word_at_next)]
                        with m.If(patches == 1):
                            m.d.comb += self.i.ready.eq(1)  # the row's last beat may hold padding
                            m.d.sync += [rows.eq(rows - 1), first_row.eq(0)]
                            m.next = "ROW"
                            with m.If(first_row):
                                m.d.sync += next_strip.eq(next_patch)
                            with m.If(rows == 1):
                                m.next = "STRIP"
                with m.If(self.i.valid & outside):
                    m.d.sync += self.bad_address.eq(1)
            with m.State("STRIP"):
                m.d.sync += [
                    row_address.eq(next_strip),
                    row_word_at.eq(0),
                    rows.eq(fields.patch_rows),
                    strips.eq(strips - 1),
                    first_row.eq(1),
                ]
                m.next = "ROW"
                with m.If(strips == 1):
                    m.next = "IDLE"
        return m

    def _write(
        self,
        m: Module,
        step: Signal,
        address: Signal,
        beat_at: Signal,
        word_at: Signal,
        count: Signal,
    ) -> None:
        """The beat's pieces turned to their place in the word; ``count`` of them are written."""
        config = self._config
        piece = config.piece_bytes
        in_beat, in_word = BEAT_BYTES // piece, config.array.inputs // piece
        source = [self.i.payload.word_select(k, 8 * piece) for k in range(in_beat)]
        turn = Signal(range(in_beat))
        m.d.comb += turn.eq(beat_at - word_at)
        word, mask = [], []
        for k in range(in_word):
            word.append(Array(source)[(turn + k)[: len(turn)]])
            below = Const(1) if k == in_word - 1 else word_at <= k
            mask.append(below & (k < word_at + count))
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(step):
            m.d.sync += [
                self.o.valid.eq(1),
                self.o.payload.addr.eq(address),
                self.o.payload.mask.eq(Cat(mask)),
                self.o.payload.data.eq(
                    Cat(byte ^ _SIGN for byte in _bytes(Cat(word), config.array.inputs))
                ),
            ]


def _bytes(value: Value, count: int) -> list[Value]:
    """The bytes of a value, lowest first."""
    return [value.word_select(k, 8) for k in range(count)]
