"""The accelerator: control registers, sequencer, engines, and its ports by their AXI names."""

from __future__ import annotations

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

from .config import AcceleratorConfig
from .control import axi_lite as control
from .control.sequencer import QUEUES, Sequencer
from .core import Core
from .registers import Counter

__all__ = ["Top"]


class Top(Elaboratable):
    """The whole accelerator for one configuration.

    ``ports`` maps the names of docs/spec.md, "Top-level ports", to ``(signal, is_input)``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.core = Core(config)
        self.sequencer = Sequencer(config)
        self.control = control.ControlRegisters(config)
        self.clk, self.rst = Signal(name="clk"), Signal(name="rst")
        self.ports: dict[str, tuple[Any, bool]] = {
            "clk": (self.clk, True),
            "rst": (self.rst, True),
            "irq": (self.control.irq, False),
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

        core, seq, regs = self.core, self.sequencer, self.control
        m.submodules.core = ResetInserter(seq.reset)(core)
        m.submodules.sequencer = seq
        m.submodules.control = regs
        for name in QUEUES:
            connect(m, getattr(seq, name), getattr(core, name))
        connect(m, core.code, seq.code)
        m.d.comb += [
            seq.start.eq(regs.start),
            seq.abort_request.eq(regs.abort),
            seq.bad_base.eq(regs.bad_base),
            seq.program.eq(regs.program_base),
            core.program.eq(regs.program_base),
            core.image.eq(regs.image_base),
            core.output.eq(regs.output_base),
            core.header_start.eq(seq.header_start),
            seq.header_valid.eq(core.header_valid),
            seq.header_data.eq(core.header_data),
            core.code_start.eq(seq.code_start),
            core.code_address.eq(seq.code_address),
            core.code_count.eq(seq.code_count),
            core.stream_start.eq(seq.stream_start),
            core.stream_base.eq(seq.stream_base),
            core.stream_beats.eq(seq.stream_beats),
            core.cancel.eq(seq.cancel),
            seq.engines_busy.eq(core.busy),
            seq.progress.eq(core.progress),
            seq.fault.eq(core.fault),
            seq.quiet.eq(core.quiet),
            regs.busy.eq(seq.busy),
            regs.done.eq(seq.done),
            regs.failed.eq(seq.failed),
            regs.error.eq(seq.error),
            regs.experts.eq(core.experts),
        ]
        for counter in Counter:
            total = Signal(32, name=f"counter_{counter.name.lower()}")
            with m.If(regs.start):
                m.d.sync += total.eq(0)
            with m.Elif(seq.busy):
                m.d.sync += total.eq(total + core.counts[int(counter)])
            m.d.comb += regs.counters[int(counter)].eq(total)
        return m
