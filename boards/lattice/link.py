"""The board's side of the serial link (:mod:`..driver.packets`): requests in, answers out.

One request at a time: it is taken whole, its CRC checked, then it is carried out and answered.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out

from moevit.hw.config import BEAT_BYTES
from moevit.hw.control.axi_lite import AxiLite
from moevit.hw.lib.component import Component
from moevit.hw.lib.storage import Memory

from ..driver.packets import (
    ANSWER_MAGIC,
    GAP_S,
    MOST_BEATS,
    REQUEST,
    REQUEST_MAGIC,
    VERSION,
    Operation,
    Status,
)
from .sdram import CAPACITY, access

__all__ = ["Link"]

_BEAT = 8 * BEAT_BYTES
_GIVES_WORD = (Operation.READ_REGISTER, Operation.CHECKSUM)
_TAKES_WORD = (Operation.WRITE_REGISTER, Operation.CHECKSUM)


class Link(Component):
    """Carries a host's requests out.

    Parameters
    ----------
    hz, bauds:
        Of the clock and of the line, which HELLO tells the host.

    Members
    -------
    valid, byte : In
        From the line.
    o : Out(stream of bytes)
        To the line.
    registers : Out(AxiLite)
    memory : Out(stream of access)
    read_valid, read_data : In
        What memory answers the link's reads, in order.
    reset : Out(1)
        Pulse: the accelerator is to be reset.
    """

    def __init__(self, *, hz: int, bauds: int) -> None:
        self._hz, self._bauds = hz, bauds
        super().__init__(
            {
                "valid": In(1),
                "byte": In(8),
                "o": Out(stream.Signature(unsigned(8))),
                "registers": Out(AxiLite),
                "memory": Out(stream.Signature(access)),
                "read_valid": In(1),
                "read_data": In(_BEAT),
                "reset": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC32_ETHERNET(8).create()
        m.submodules.payload = payload = Memory(shape=unsigned(_BEAT), depth=MOST_BEATS, init=[])
        put, get = payload.write_port(), payload.read_port(domain="comb")
        header = Signal(8 * REQUEST.size)  # the last byte in is the highest
        operation, sequence, count = (header[8 * n : 8 * n + 8] for n in (1, 2, 3))
        address = Signal(32)
        status = Signal(Status)
        beat = Signal(_BEAT)  # bytes move down; a word's four are the highest
        word = Signal(32)
        left, place = Signal(range(BEAT_BYTES * MOST_BEATS + 1)), Signal(range(BEAT_BYTES))
        number = Signal(range(MOST_BEATS + 1))
        beats = Signal(32)
        previous, fresh = Signal(8), Signal()  # the last write's sequence number, if there is one
        gap_cycles = int(GAP_S * self._hz)
        gap = Signal(range(gap_cycles + 1))
        damaged = Signal()

        takes_word = Cat(operation == code for code in _TAKES_WORD).any()
        once = Signal()  # a write of this number was carried out already
        m.d.comb += [
            once.eq(~fresh & (previous == sequence)),
            crc.data.eq(self.byte),
            put.addr.eq(number),
            put.data.eq(Cat(beat[8:], self.byte)),
            get.addr.eq(number),
        ]
        regs, memory = self.registers, self.memory
        about = Cat(Const(n, 32) for n in (VERSION, self._hz, self._bauds, CAPACITY))

        def move(value: Value) -> list[object]:
            return [beat.eq(Cat(beat[8:], value))]

        receiving = Signal()
        with m.If(self.valid | ~receiving):
            m.d.sync += gap.eq(gap_cycles)
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)

        def answer(with_status: Status = Status.DONE) -> None:
            m.d.sync += [status.eq(with_status), place.eq(0)]
            m.next = "ANSWER"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [left.eq(REQUEST.size - 1), damaged.eq(0), number.eq(0)]
                with m.If(self.valid & (self.byte == REQUEST_MAGIC)):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += header.eq(Cat(header[8:], self.byte))
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += receiving.eq(1)
                with m.If(self.valid):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += [header.eq(Cat(header[8:], self.byte)), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "TAKES"
                with m.Elif(gap == 0):
                    m.next = "IDLE"
            with m.State("TAKES"):
                m.d.comb += receiving.eq(1)
                m.d.sync += [address.eq(header[32:]), place.eq(0), left.eq(4)]
                m.next = "CHECK"
                with m.If(takes_word):
                    m.next = "PAYLOAD"
                with m.Elif(operation == Operation.WRITE):
                    m.d.sync += left.eq(Cat(Const(0, 4), count[:6] + 1))
                    m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                m.d.comb += receiving.eq(1)
                with m.If(self.valid):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += [*move(self.byte), place.eq(place + 1), left.eq(left - 1)]
                    with m.If(place == BEAT_BYTES - 1):
                        m.d.comb += put.en.eq(1)
                        m.d.sync += number.eq(number + 1)
                    with m.If(left == 1):
                        m.d.sync += left.eq(4)
                        m.next = "CHECK"
                with m.Elif(gap == 0):
                    m.next = "IDLE"
            with m.State("CHECK"):
                m.d.comb += receiving.eq(1)
                with m.If(self.valid):
                    m.d.sync += [left.eq(left - 1), number.eq(0), place.eq(0)]
                    m.d.sync += beats.eq(beat[-32:])
                    expected = crc.crc.word_select((4 - left)[:2], 8)
                    with m.If(self.byte != expected):
                        m.d.sync += damaged.eq(1)
                    with m.If(left == 1):
                        m.next = "ACT"
                with m.Elif(gap == 0):
                    m.next = "IDLE"
            with m.State("ACT"):
                m.d.comb += crc.start.eq(1)
                with m.If(damaged):
                    answer(Status.DAMAGED)
                with m.Else():
                    with m.Switch(operation):
                        with m.Case(Operation.HELLO):
                            m.d.sync += [beat.eq(about), fresh.eq(1)]
                            answer()
                        with m.Case(Operation.READ_REGISTER):
                            m.next = "READ_REGISTER"
                        with m.Case(Operation.WRITE_REGISTER):
                            with m.If(once):
                                answer()
                            with m.Else():
                                m.d.sync += [word.eq(beats), place.eq(0b11)]
                                m.next = "WRITE_REGISTER"
                        with m.Case(Operation.READ):
                            answer()
                        with m.Case(Operation.WRITE):
                            m.next = "WRITE"
                        with m.Case(Operation.CHECKSUM):
                            m.next = "SUM"
                        with m.Case(Operation.RESET):
                            m.d.comb += self.reset.eq(~once)
                            m.d.sync += [previous.eq(sequence), fresh.eq(0)]
                            answer()
                        with m.Default():
                            answer(Status.UNKNOWN)
            self._registers(m, regs, address, word, place, status, beat, answer)
            with m.State("WRITE_DONE"):
                m.d.sync += [previous.eq(sequence), fresh.eq(0), place.eq(0)]
                m.next = "ANSWER"
            with m.State("WRITE"):
                m.d.comb += [
                    memory.valid.eq(1),
                    memory.payload.write.eq(1),
                    memory.payload.data.eq(get.data),
                    memory.payload.mask.eq(-1),
                ]
                with m.If(memory.ready):
                    m.d.sync += [number.eq(number + 1), address.eq(address + BEAT_BYTES)]
                    with m.If(number == count[:6]):
                        answer()
            with m.State("SUM"):
                with m.If(beats == 0):
                    m.d.sync += beat.eq(crc.crc)
                    answer()
                with m.Else():
                    m.d.comb += memory.valid.eq(1)
                    with m.If(memory.ready):
                        m.next = "SUM_WAIT"
            with m.State("SUM_WAIT"):
                m.d.sync += [place.eq(0)]
                with m.If(self.read_valid):
                    m.d.sync += [
                        beat.eq(self.read_data),
                        beats.eq(beats - 1),
                        address.eq(address + BEAT_BYTES),
                    ]
                    m.next = "SUM_ADD"
            with m.State("SUM_ADD"):
                m.d.comb += [crc.valid.eq(1), crc.data.eq(beat[:8])]
                m.d.sync += [*move(Const(0, 8)), place.eq(place + 1)]
                with m.If(place == BEAT_BYTES - 1):
                    m.next = "SUM_SETTLE"
            with m.State("SUM_SETTLE"):  # the sum is a cycle behind the last byte
                m.next = "SUM"
            self._answer(m, crc, operation, sequence, count, address, status, beat, place, number)
        m.d.comb += memory.payload.address.eq(address[4:])
        return m

    def _registers(self, m, regs, address, word, place, status, beat, answer) -> None:
        """A register's access; of a write, address and data go in whatever order they are taken."""
        m.d.comb += [regs.awaddr.eq(address), regs.araddr.eq(address), regs.wdata.eq(word)]
        m.d.comb += regs.wstrb.eq(0b1111)
        with m.State("READ_REGISTER"):
            m.d.comb += regs.arvalid.eq(1)
            with m.If(regs.arready):
                m.next = "REGISTER"
        with m.State("REGISTER"):
            m.d.comb += regs.rready.eq(1)
            with m.If(regs.rvalid):
                m.d.sync += beat.eq(regs.rdata)
                answer()
                m.d.sync += status.eq(Mux(regs.rresp == 0, Status.DONE, Status.REFUSED))
        with m.State("WRITE_REGISTER"):
            m.d.comb += [regs.awvalid.eq(place[0]), regs.wvalid.eq(place[1])]
            kept = place & Cat(~regs.awready, ~regs.wready)
            m.d.sync += place.eq(kept)
            with m.If(kept == 0):
                m.next = "WRITTEN"
        with m.State("WRITTEN"):
            m.d.comb += regs.bready.eq(1)
            with m.If(regs.bvalid):
                m.d.sync += status.eq(Mux(regs.bresp == 0, Status.DONE, Status.REFUSED))
                m.next = "WRITE_DONE"

    def _answer(
        self, m, crc, operation, sequence, count, address, status, beat, place, number
    ) -> None:
        """Header, what is given, CRC."""
        o = self.o
        head = Array([Const(ANSWER_MAGIC, 8), status, sequence, count])
        done = status == Status.DONE
        with m.State("ANSWER"):
            with m.If(place == 0):
                m.d.comb += crc.start.eq(1)
            m.d.comb += [
                o.valid.eq(1),
                o.payload.eq(head[place[:2]]),
                crc.data.eq(o.payload),
                crc.valid.eq(o.ready),
            ]
            with m.If(o.ready):
                m.d.sync += place.eq(place + 1)
                with m.If(place == 3):
                    m.d.sync += [place.eq(0), number.eq(0)]
                    m.next = "SEAL"
                    with m.If(done & Cat(operation == code for code in _GIVES_WORD).any()):
                        m.d.sync += place.eq(BEAT_BYTES - 4)
                        m.next = "GIVE"
                    with m.If(done & (operation == Operation.HELLO)):
                        m.next = "GIVE"
                    with m.If(done & (operation == Operation.READ)):
                        m.next = "FETCH"
        with m.State("FETCH"):
            m.d.comb += self.memory.valid.eq(1)
            with m.If(self.memory.ready):
                m.d.sync += address.eq(address + BEAT_BYTES)
                m.next = "FETCHED"
        with m.State("FETCHED"):
            with m.If(self.read_valid):
                m.d.sync += [beat.eq(self.read_data), place.eq(0)]
                m.next = "GIVE"
        with m.State("GIVE"):
            m.d.comb += [o.valid.eq(1), o.payload.eq(beat[:8])]
            m.d.comb += [crc.data.eq(beat[:8]), crc.valid.eq(o.ready)]
            with m.If(o.ready):
                m.d.sync += [beat.eq(beat >> 8), place.eq(place + 1)]
                with m.If(place == BEAT_BYTES - 1):
                    m.d.sync += [place.eq(0), number.eq(number + 1)]
                    m.next = "SEAL"
                    with m.If((operation == Operation.READ) & (number != count[:6])):
                        m.next = "FETCH"
        with m.State("SEAL"):
            m.d.comb += [o.valid.eq(1), o.payload.eq(crc.crc.word_select(place[:2], 8))]
            with m.If(o.ready):
                m.d.sync += place.eq(place + 1)
                with m.If(place == 3):
                    m.next = "IDLE"
