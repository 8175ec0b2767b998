"""The accelerator: control registers, sequencer, engines, and its ports by their AXI names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Elaboratable,
    Module,
    ResetInserter,
    ResetSignal,
    Signal,
)
from amaranth.lib.wiring import connect

from .clocks import Clock
from .config import AcceleratorConfig
from .control import axi_lite as control
from .control.sequencer import QUEUES, Sequencer
from .core import Core
from .registers import Counter

__all__ = ["Top"]


class Top(Elaboratable):
    """The whole accelerator for one configuration.

    ``ports`` maps the names of docs/spec.md, "Top-level ports", to ``(signal, is_input)``.
    ``clocks``: those that the board's primitives need beside ``clk``.
    """

    def __init__(self, config: AcceleratorConfig, clocks: Iterable[Clock] = ()) -> None:
        self.config = config
        self.core = Core(config)
        self.sequencer = Sequencer(config)
        self.control = control.ControlRegisters(config)
        self.clk, self.rst = Signal(name="clk"), Signal(name="rst")
        self._clocks = {clock: Signal(name=clock.port) for clock in clocks}
        self.ports: dict[str, tuple[Any, bool]] = {
            "clk": (self.clk, True),
            "rst": (self.rst, True),
            "irq": (self.control.irq, False),
            **{clock.port: (signal, True) for clock, signal in self._clocks.items()},
        }
        self._bind("s_axil", self.control.bus, slave=True)
        for p, master in enumerate(self.core.axi):
            self._bind(f"m_axi_{p}", master)
        self._bind("m_axi_0", self.core.axi_write)

    def _bind(self, prefix: str, bus: Any, *, slave: bool = False) -> None:
        """Give the members of ``bus`` their port names."""
        for name, member in bus.signature.members.items():
            # A slave's signature is written from the slave's side, a master's from the master's.
            self.ports[f"{prefix}_{name}"] = (getattr(bus, name), member.flow.name == "In")

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The reset is registered once: everything behind it sees a flip-flop.
        m.domains.sync = ClockDomain("sync", local=False)
        m.domains.pin = ClockDomain("pin", reset_less=True, local=True)
        reset = Signal(init=1)
        m.d.pin += reset.eq(self.rst)
        m.d.comb += [
            ClockSignal("sync").eq(self.clk),
            ClockSignal("pin").eq(self.clk),
            ResetSignal("sync").eq(reset),
        ]
        for clock, signal in self._clocks.items():
            m.domains += ClockDomain(clock.domain, reset_less=True)
            m.d.comb += ClockSignal(clock.domain).eq(signal)

        core, seq, regs = self.core, self.sequencer, self.control
        m.submodules.core = ResetInserter(seq.reset)(core)
        m.submodules.sequencer = seq
        m.submodules.control = regs
        for name in QUEUES:
            connect(m, getattr(seq, name), getattr(core, name))
        connect(m, core.code, seq.code)
        m.d.comb += [
            seq.abort_request.eq(regs.abort),
            core.program.eq(seq.program),
            core.image.eq(seq.image),
            core.output.eq(seq.output),
            core.dial.eq(seq.dial),
            core.clean.eq(seq.clean),
            core.between.eq(seq.between),
            core.header_start.eq(seq.header_start),
            core.header_address.eq(seq.header_address),
            seq.header_valid.eq(core.header_valid),
            seq.header_data.eq(core.header_data),
            seq.header_damaged.eq(core.header_damaged),
            core.code_start.eq(seq.code_start),
            core.code_address.eq(seq.code_address),
            core.code_count.eq(seq.code_count),
            core.stream_start.eq(seq.stream_start),
            core.stream_base.eq(seq.stream_base),
            core.stream_beats.eq(seq.stream_beats),
            core.cancel.eq(seq.cancel),
            seq.stream_ready.eq(core.stream_ready),
            seq.stream_busy.eq(core.stream_busy),
            seq.engines_busy.eq(core.busy),
            seq.progress.eq(core.progress),
            seq.fault.eq(core.fault),
            seq.place.eq(core.place),
            seq.quiet.eq(core.quiet),
            regs.busy.eq(seq.busy),
            regs.done.eq(seq.done),
            regs.failed.eq(seq.failed),
            regs.error.eq(seq.error),
            regs.damage.eq(seq.damage),
        ]
        connect(m, regs.frames, seq.frames)
        # What is told of a frame stays until the next one ends.
        ended = seq.done | seq.failed
        with m.If(ended):
            m.d.sync += regs.experts.eq(core.experts)
        for counter in Counter:
            total = Signal(32, name=f"counter_{counter.name.lower()}")
            counted = core.counts[int(counter)]
            with m.If(ended):
                # What comes in this cycle is the next frame's already, if there is one.
                m.d.sync += [total.eq(counted), regs.counters[int(counter)].eq(total)]
            with m.Elif(seq.busy):
                m.d.sync += total.eq(total + counted)
            with m.Else():
                m.d.sync += total.eq(0)
        return m
