"""The accelerator with its memory and its host's link: everything on an ULX3S but the pins."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Elaboratable, Module, Signal
from amaranth.lib.wiring import connect

from moevit.hw.config import AcceleratorConfig
from moevit.hw.top import Top

from .link import Link
from .port import MemoryPort
from .sdram import Sdram, Timing
from .uart import Receiver, Transmitter

__all__ = ["System"]

_RESET_CYCLES = 16


class System(Elaboratable):
    """Clock, serial line and SDRAM pins; domain ``half`` is the clock's falling edge.

    Parameters
    ----------
    config:
        One memory port.
    hz, bauds:
        Of the clock and of the serial line; a bit is a whole number of cycles.
    timing:
        Of the SDRAM, by default for ``hz``.

    Attributes
    ----------
    clk:
        The core's clock.
    ports:
        By name: ``(signal, is_input)``.
    """

    def __init__(
        self, config: AcceleratorConfig, *, hz: int, bauds: int, timing: Timing | None = None
    ) -> None:
        if config.memory.ports != 1:
            raise ValueError(
                f"MemoryConfig.ports must be 1 on a board with one SDRAM, not {config.memory.ports}"
            )
        self.accelerator = Top(config)
        self.link = Link(hz=hz, bauds=bauds)
        self.sdram = Sdram(timing or Timing.at(hz))
        self._divisor = round(hz / bauds)
        self.clk = Signal(name="clk")
        self.rx, self.tx = Signal(name="rx", init=1), Signal(name="tx")
        pads = self.sdram.pads
        self.ports: dict[str, tuple[Any, bool]] = {
            "clk": (self.clk, True),
            "rx": (self.rx, True),
            "tx": (self.tx, False),
            "sdram_command": (pads.command, False),
            "sdram_ba": (pads.ba, False),
            "sdram_a": (pads.a, False),
            "sdram_dqm": (pads.dqm, False),
            "sdram_dq_o": (pads.dq_o, False),
            "sdram_dq_oe": (pads.dq_oe, False),
            "sdram_dq_i": (pads.dq_i, True),
        }

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Registers begin with their reset values when the device is configured, so only the
        # accelerator has a reset: the link's.
        m.domains.sync = ClockDomain("sync", reset_less=True)
        m.domains.half = ClockDomain("half", reset_less=True, clk_edge="neg")
        m.d.comb += [ClockSignal("sync").eq(self.clk), ClockSignal("half").eq(self.clk)]
        m.submodules.receiver = receiver = Receiver(self._divisor)
        m.submodules.transmitter = transmitter = Transmitter(self._divisor)
        m.submodules.port = port = MemoryPort()
        m.submodules.link, m.submodules.sdram = link, sdram = self.link, self.sdram
        top = self.accelerator
        m.submodules.accelerator = DomainRenamer({"sync": "core"})(top)
        resetting = Signal(range(_RESET_CYCLES + 1), init=_RESET_CYCLES)
        with m.If(link.reset):
            m.d.sync += resetting.eq(_RESET_CYCLES)
        with m.Elif(resetting != 0):
            m.d.sync += resetting.eq(resetting - 1)
        m.d.comb += [
            top.clk.eq(self.clk),
            top.rst.eq(resetting != 0),
            receiver.line.eq(self.rx),
            self.tx.eq(transmitter.line),
            link.valid.eq(receiver.valid),
            link.byte.eq(receiver.byte),
            link.read_valid.eq(port.link_valid),
            link.read_data.eq(port.data),
            port.read_valid.eq(sdram.valid),
            port.read_data.eq(sdram.data),
        ]
        connect(m, link.o, transmitter.i)
        connect(m, link.registers, top.control.bus)
        connect(m, link.memory, port.link)
        connect(m, top.core.axi[0], port.axi)
        connect(m, top.core.axi_write, port.axi_write)
        connect(m, port.memory, sdram.i)
        return m
