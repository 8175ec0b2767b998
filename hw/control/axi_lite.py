"""The AXI4-Lite slave of the register map (hw/registers.py): identity, start, status, counters."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ..config import ISA_VERSION, AcceleratorConfig
from ..interfaces import damage_place, dial
from ..lib.component import Component
from ..lib.queue import SmallFifo
from ..registers import (
    COUNTER_BASE,
    DEVICE_ID,
    DIAL,
    EXPERT_BASE,
    REGISTER_ADDRESS_BITS,
    Control,
    Counter,
    Error,
    Register,
    Status,
)
from .look_ahead import frame_bases

__all__ = ["WAITING", "AxiLite", "ControlRegisters"]

WAITING = 2
"""Frames that can wait behind the one that runs."""
_OKAY, _SLAVE_ERROR = 0, 2

AxiLite = Signature(
    {
        "awaddr": Out(REGISTER_ADDRESS_BITS),
        "awvalid": Out(1),
        "awready": In(1),
        "wdata": Out(32),
        "wstrb": Out(4),
        "wvalid": Out(1),
        "wready": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
        "araddr": Out(REGISTER_ADDRESS_BITS),
        "arvalid": Out(1),
        "arready": In(1),
        "rdata": In(32),
        "rresp": In(2),
        "rvalid": In(1),
        "rready": Out(1),
    }
)
"""AXI4-Lite, seen from the master."""

_BASES = {register: register.alignment for register in Register if register.alignment}
"""Alignment that a frame needs."""


class ControlRegisters(Component):
    """Registers between a host and the sequencer.

    One access at a time in each direction; a read takes three cycles, a write two. A write needs
    address and data together, in any order of their arrival. The two low address bits are ignored.
    Writing a register that cannot be written, and any address without a register, give SLVERR and
    change nothing. A START takes the bases and the dial as they are into a queue of ``WAITING``
    frames behind the one that runs, which a failed frame empties.

    Members
    -------
    bus:
        In(AxiLite).
    frames:
        Out(stream of ``frame_bases``). ``bad``: a base is not aligned as its register demands; the
        sequencer then fails the frame.
    abort:
        Out, pulse.
    irq:
        Out(1). DONE or FAILED, while enabled.
    busy, done, failed, error, damage:
        In. Level, pulse, pulse, and the error code and place that belong to ``failed``.
    counters, experts:
        In(ArrayLayout). What COUNTER_BASE and EXPERT_BASE read.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "bus": In(AxiLite),
                "frames": Out(stream.Signature(frame_bases)),
                "abort": Out(1),
                "irq": Out(1),
                "busy": In(1),
                "done": In(1),
                "failed": In(1),
                "error": In(4),
                "damage": In(damage_place),
                "counters": In(ArrayLayout(32, len(Counter))),
                "experts": In(ArrayLayout(16, config.limits.experts)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        done, failed, irq_enable = Signal(), Signal(), Signal()
        error = Signal(Error)
        damage = Signal(damage_place)
        busy = Signal()  # from START on, also before the sequencer says so
        start = Signal()
        bases = {register: Signal(32, name=register.name.lower()) for register in _BASES}
        limits = {
            register: Signal(dial[field].shape, name=register.name.lower())
            for register, field in DIAL.items()
        }
        m.submodules.waiting = ResetInserter(self.failed)(
            waiting := SmallFifo(frame_bases, WAITING)
        )
        wiring.connect(m, waiting.o, wiring.flipped(self.frames))
        frame = waiting.i.payload
        m.d.comb += [
            busy.eq(self.busy | start | waiting.o.valid),
            self.irq.eq(irq_enable & (done | failed)),
            waiting.i.valid.eq(start),
            frame.program.eq(bases[Register.PROGRAM_BASE]),
            frame.image.eq(bases[Register.IMAGE_BASE]),
            frame.output.eq(bases[Register.OUTPUT_BASE]),
            *(frame.dial[field].eq(limits[register]) for register, field in DIAL.items()),
            frame.bad.eq(
                Cat(
                    bases[register][: ceil_log2(alignment)].any()
                    for register, alignment in _BASES.items()
                ).any()
            ),
        ]
        frames = Signal(32)
        with m.If(self.done | self.failed):
            m.d.sync += frames.eq(frames + 1)
        with m.If(self.done):
            m.d.sync += done.eq(1)
        with m.If(self.failed):
            m.d.sync += [failed.eq(1), error.eq(self.error), damage.eq(self.damage)]

        status = Signal(len(Status))
        m.d.comb += [
            status[Status.BUSY].eq(busy),
            status[Status.DONE].eq(done),
            status[Status.FAILED].eq(failed),
            status[Status.FULL].eq(~waiting.i.ready),
        ]
        writable = {**bases, **limits, Register.IRQ_ENABLE: irq_enable}
        begins, clear = self._write(m, writable, start, waiting.i.ready, busy & ~self.failed)
        with m.If(clear | (begins & ~busy)):
            m.d.sync += [done.eq(0), failed.eq(0)]
        with m.If(begins & ~busy):
            m.d.sync += [error.eq(Error.NONE), damage.eq(0)]
        self._read(
            m,
            {
                Register.ID: DEVICE_ID,
                Register.VERSION: ISA_VERSION,
                Register.HASH_LOW: self._config.hash & 0xFFFF_FFFF,
                Register.HASH_HIGH: self._config.hash >> 32,
                Register.CONTROL: 0,
                Register.STATUS: status,
                Register.ERROR: error,
                Register.FRAMES: frames,
                Register.DAMAGE: damage,
                **writable,
            },
        )
        return m

    def _write(
        self, m: Module, writable: dict[Register, Any], start: Signal, room: Value, runs: Value
    ) -> tuple[Signal, Signal]:
        """Registers in ``writable`` and CONTROL; returns "a START is taken" and CLEAR_IRQ.

        ``room``: for a START; ``runs``: a frame does, so that a chained one may be taken.
        """
        bus = self.bus
        take, starts, clear = Signal(), Signal(), Signal()
        m.d.comb += [
            take.eq(bus.awvalid & bus.wvalid & ~bus.bvalid),
            bus.awready.eq(take),
            bus.wready.eq(take),
        ]
        m.d.sync += [start.eq(starts), self.abort.eq(0)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(take):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(_SLAVE_ERROR)]
            with m.Switch(bus.awaddr[2:]):
                with m.Case(Register.CONTROL >> 2):
                    m.d.sync += bus.bresp.eq(_OKAY)
                    with m.If(bus.wstrb[0]):
                        m.d.comb += [
                            starts.eq(
                                bus.wdata[Control.START]
                                & room
                                & (runs | ~bus.wdata[Control.CHAINED])
                            ),
                            clear.eq(bus.wdata[Control.CLEAR_IRQ]),
                        ]
                        m.d.sync += self.abort.eq(bus.wdata[Control.ABORT])
                for register, signal in writable.items():
                    with m.Case(register >> 2):
                        m.d.sync += bus.bresp.eq(_OKAY)
                        for low in range(0, len(signal), 8):
                            with m.If(bus.wstrb[low // 8]):
                                m.d.sync += signal[low : low + 8].eq(
                                    bus.wdata[low : min(low + 8, len(signal))]
                                )
        return starts, clear

    def _read(self, m: Module, readable: dict[Register, Any]) -> None:
        """Address, then one word of each group, then the answer."""
        bus = self.bus
        accepted, selected = Signal(), Signal()
        word = Signal(REGISTER_ADDRESS_BITS - 2)
        plain, known = Signal(32), Signal()
        m.d.comb += bus.arready.eq(~accepted & ~selected & ~bus.rvalid)
        with m.If(bus.arready):
            m.d.sync += [accepted.eq(bus.arvalid), word.eq(bus.araddr[2:])]
        with m.Else():
            m.d.sync += accepted.eq(0)

        m.d.sync += [selected.eq(accepted), plain.eq(0), known.eq(0)]
        with m.Switch(word):
            for register, value in readable.items():
                with m.Case(register >> 2):
                    m.d.sync += [plain.eq(value), known.eq(1)]
        answer: Value = plain
        found: Value = known
        for base, values in ((COUNTER_BASE, self.counters), (EXPERT_BASE, self.experts)):
            bits = ceil_log2(max(len(values), 2))
            here = Signal(name=f"in_{base:x}")
            value = Signal(32, name=f"of_{base:x}")
            m.d.sync += [
                here.eq((word >= base >> 2) & (word < (base >> 2) + len(values))),
                value.eq(Array(values)[word[:bits]]),
            ]
            answer, found = Mux(here, value, answer), found | here
        with m.If(selected):
            m.d.sync += [
                bus.rvalid.eq(1),
                bus.rdata.eq(answer),
                bus.rresp.eq(Mux(found, _OKAY, _SLAVE_ERROR)),
            ]
        with m.Elif(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
