"""A hardware handoff (.hwh) of the block design, in the form that PYNQ's ``pynqmetadata`` reads.

Vivado writes one of its own. This one is for designs that Vivado has not seen yet, the simulated
board among them, and for bundles made of a bitstream alone. It tells what a driver needs: where the
registers are and what they are called, which memory each port reaches, the clock, the interrupt,
and the processor's settings that PYNQ applies when it loads the bitstream (clock divisors, widths
of the ports).
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from moevit.hw.registers import Access, Control, Register, Status

__all__ = ["FAMILIES", "Family", "Handoff", "handoff", "write"]

_AXI = "xilinx.com:interface:aximm:1.0"
_CLOCKS = 4
_ACCESS = {
    Access.READ_ONLY: "read-only",
    Access.READ_WRITE: "read-write",
    Access.COMMAND: "write-only",
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A processor's names in a block design; ``{n}`` counts clocks and ports.

    ``widths``: parameters of the ports' widths, the one of registers and those of memory, whose
    number begins at ``first_port``.
    """

    arch: str
    cell: str
    version: str
    registers: str
    memory: str
    clock: str
    interrupt: str
    enable: str
    divisor: str
    source: str
    actual: str
    widths: tuple[str, str]
    first_port: int = 0


FAMILIES: Mapping[str, Family] = {
    "zynquplus": Family(
        arch="zynquplus",
        cell="zynq_ultra_ps_e",
        version="3.5",
        registers="M_AXI_HPM0_FPD",
        memory="S_AXI_HP{n}_FPD",
        clock="pl_clk{n}",
        interrupt="pl_ps_irq0",
        enable="PSU__FPGA_PL{n}_ENABLE",
        divisor="PSU__CRL_APB__PL{n}_REF_CTRL__DIVISOR{d}",
        source="PSU__CRL_APB__PL{n}_REF_CTRL__SRCSEL",
        actual="PSU__CRL_APB__PL{n}_REF_CTRL__ACT_FREQMHZ",
        widths=("C_MAXIGP0_DATA_WIDTH", "C_SAXIGP{n}_DATA_WIDTH"),
        first_port=2,  # S_AXI_GP2 to GP5 are HP0 to HP3
    ),
    "zynq": Family(
        arch="zynq",
        cell="processing_system7",
        version="5.5",
        registers="M_AXI_GP0",
        memory="S_AXI_HP{n}",
        clock="FCLK_CLK{n}",
        interrupt="IRQ_F2P",
        enable="PCW_FPGA_FCLK{n}_ENABLE",
        divisor="PCW_FCLK{n}_PERIPHERAL_DIVISOR{d}",
        source="PCW_FCLK{n}_PERIPHERAL_CLKSRC",
        actual="PCW_ACT_FPGA{n}_PERIPHERAL_FREQMHZ",
        widths=("C_M_AXI_GP0_DATA_WIDTH", "C_S_AXI_HP{n}_DATA_WIDTH"),
    ),
}
"""The processors: Zynq UltraScale+ and Zynq-7000."""


@dataclass(frozen=True, kw_only=True)
class Handoff:
    """What a handoff says.

    ``clock_mhz``: as the PLL gives it, with ``divisors`` of it. ``ports``: memory ports, each
    ``memory_bits`` wide at the processor and reaching ``memory_bytes`` from address 0.
    """

    family: str
    device: str
    package: str
    speed: str
    board: str = ""
    name: str = "moevit_bd"
    instance: str = "moevit_0"
    vlnv: str = "moevit.org:ip:moevit:1.0"
    clock_mhz: float
    divisors: tuple[int, int]
    register_base: int
    register_bytes: int = 4096
    ports: int
    memory_bits: int = 128
    memory_bytes: int = 1 << 31
    vivado: str = "2024.1"
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Further parameters of the processor."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ValueError(f"Unknown family {self.family!r}; expected one of {known}")
        if not 1 <= self.ports <= 4:
            raise ValueError(f"ports must be from 1 to 4, not {self.ports!r}")


def write(about: Handoff, path: Path) -> None:
    """Writes the handoff to ``path``."""
    path.write_text(handoff(about), encoding="utf-8")


def handoff(about: Handoff) -> str:
    """The text of the handoff."""
    family = FAMILIES[about.family]
    processor = f"{family.cell}_0"
    root = Element("EDKSYSTEM", EDWVERSION="1.2", VIVADOVERSION=about.vivado)
    SubElement(
        root,
        "SYSTEMINFO",
        ARCH=family.arch,
        BOARD=about.board,
        DEVICE=about.device,
        NAME=about.name,
        PACKAGE=about.package,
        SPEEDGRADE=about.speed,
    )
    SubElement(root, "EXTERNALPORTS")
    SubElement(root, "EXTERNALINTERFACES")
    modules = SubElement(root, "MODULES")
    _accelerator(modules, about, family, processor)
    _processor(modules, about, family, processor)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n' + ElementTree.tostring(
        root, encoding="unicode"
    )


def _module(parent: Element, instance: str, vlnv: str) -> Element:
    _, _, kind, version = vlnv.split(":")
    return SubElement(
        parent,
        "MODULE",
        COREREVISION="1",
        FULLNAME=f"/{instance}",
        HWVERSION=version,
        INSTANCE=instance,
        IPTYPE="PERIPHERAL",
        IS_ENABLE="1",
        MODCLASS="PERIPHERAL",
        MODTYPE=kind,
        VLNV=vlnv,
    )


def _accelerator(parent: Element, about: Handoff, family: Family, processor: str) -> None:
    module = _module(parent, about.instance, about.vlnv)
    blocks = SubElement(module, "ADDRESSBLOCKS")
    block = SubElement(
        blocks,
        "ADDRESSBLOCK",
        ACCESS="read-write",
        INTERFACE="s_axil",
        NAME="reg0",
        RANGE=str(about.register_bytes),
        USAGE="register",
    )
    registers = SubElement(block, "REGISTERS")
    for register in Register:
        _register(registers, register)
    SubElement(module, "PARAMETERS")
    ports = SubElement(module, "PORTS")
    clock, interrupt = family.clock.format(n=0), family.interrupt
    _pin(ports, "I", "clk", (processor, clock), SIGIS="clk", CLKFREQUENCY=_hertz(about))
    _pin(
        ports,
        "O",
        "irq",
        (processor, interrupt),
        SIGIS="INTERRUPT",
        SENSITIVITY="LEVEL_HIGH",
    )
    buses = SubElement(module, "BUSINTERFACES")
    _bus(buses, "s_axil", "SLAVE", 32, "registers")
    for n in range(about.ports):
        _bus(buses, f"m_axi_{n}", "MASTER", 128, f"{about.instance}_m_axi_{n}")
    ranges = SubElement(module, "MEMORYMAP")
    for n in range(about.ports):
        _range(
            ranges,
            block=f"HP{n}_DDR_LOW",
            span=(0, about.memory_bytes),
            target=processor,
            master=f"m_axi_{n}",
            slave=family.memory.format(n=n),
            kind="MEMORY",
        )


def _processor(parent: Element, about: Handoff, family: Family, processor: str) -> None:
    module = _module(parent, processor, f"xilinx.com:ip:{family.cell}:{family.version}")
    module.set("IS_PL", "FALSE")
    values = SubElement(module, "PARAMETERS")
    for name, value in {**_parameters(about, family), **about.parameters}.items():
        SubElement(values, "PARAMETER", NAME=name, VALUE=str(value))
    ports = SubElement(module, "PORTS")
    _pin(
        ports,
        "O",
        family.clock.format(n=0),
        (about.instance, "clk"),
        SIGIS="clk",
        CLKFREQUENCY=_hertz(about),
    )
    _pin(
        ports,
        "I",
        family.interrupt,
        (about.instance, "irq"),
        SIGIS="INTERRUPT",
        LEFT="0",
        RIGHT="0",
    )
    buses = SubElement(module, "BUSINTERFACES")
    _bus(buses, family.registers, "MASTER", 128 if family.arch == "zynquplus" else 32, "control")
    for n in range(about.ports):
        bus = f"{about.instance}_m_axi_{n}"
        _bus(buses, family.memory.format(n=n), "SLAVE", about.memory_bits, bus)
    ranges = SubElement(module, "MEMORYMAP")
    _range(
        ranges,
        block="reg0",
        span=(about.register_base, about.register_bytes),
        target=about.instance,
        master=family.registers,
        slave="s_axil",
        kind="REGISTER",
    )


def _parameters(about: Handoff, family: Family) -> dict[str, object]:
    """Of the processor: those that PYNQ reads. Only the first clock is used."""
    control, memory = family.widths
    values: dict[str, object] = {control: 128 if family.arch == "zynquplus" else 32}
    for n in range(about.ports):
        values[memory.format(n=n + family.first_port)] = about.memory_bits
    for n in range(_CLOCKS):
        used = n == 0
        values[family.enable.format(n=n)] = int(used)
        for d in range(2):
            values[family.divisor.format(n=n, d=d)] = about.divisors[d] if used else 1
        values[family.source.format(n=n)] = "IOPLL" if family.arch == "zynquplus" else "IO PLL"
        values[family.actual.format(n=n)] = f"{about.clock_mhz if used else 100:.6f}"
    return values


def _hertz(about: Handoff) -> str:
    return str(round(about.clock_mhz * 1e6))


def _register(parent: Element, register: Register) -> None:
    element = SubElement(parent, "REGISTER", NAME=register.name)
    about = {
        "DESCRIPTION": register.meaning,
        "ADDRESS_OFFSET": f"{register:#x}",
        "ACCESS": _ACCESS[register.access],
        "IS_ENABLED": "true",
        "RESET_VALUE": "0x0",
        "SIZE": "32",
    }
    for name, value in about.items():
        SubElement(element, "PROPERTY", NAME=name, VALUE=value)
    if register.fields not in (Control, Status):  # bits, not values
        return
    fields = SubElement(element, "FIELDS")
    for bit in register.fields:
        one = SubElement(fields, "FIELD", NAME=bit.name)
        for name, value in (
            ("DESCRIPTION", bit.meaning),
            ("BIT_OFFSET", str(int(bit))),
            ("BIT_WIDTH", "1"),
            ("ACCESS", _ACCESS[register.access]),
        ):
            SubElement(one, "PROPERTY", NAME=name, VALUE=value)


def _pin(parent: Element, direction: str, name: str, other: tuple[str, str], **more: str) -> None:
    pin = SubElement(parent, "PORT", {"DIR": direction, "NAME": name, **more})
    links = SubElement(pin, "CONNECTIONS")
    SubElement(links, "CONNECTION", INSTANCE=other[0], PORT=other[1])


def _bus(parent: Element, name: str, kind: str, width: int, bus: str) -> None:
    element = SubElement(
        parent, "BUSINTERFACE", BUSNAME=bus, DATAWIDTH=str(width), NAME=name, TYPE=kind, VLNV=_AXI
    )
    SubElement(element, "PARAMETER", NAME="DATA_WIDTH", VALUE=str(width))
    SubElement(element, "PORTMAPS")


def _range(
    parent: Element,
    *,
    block: str,
    span: tuple[int, int],
    target: str,
    master: str,
    slave: str,
    kind: str,
) -> None:
    base, count = span
    SubElement(
        parent,
        "MEMRANGE",
        ADDRESSBLOCK=block,
        BASENAME="C_BASEADDR",
        BASEVALUE=f"0x{base:08X}",
        HIGHNAME="C_HIGHADDR",
        HIGHVALUE=f"0x{base + count - 1:08X}",
        INSTANCE=target,
        IS_DATA="TRUE",
        IS_INSTRUCTION="TRUE",
        MASTERBUSINTERFACE=master,
        MEMTYPE=kind,
        SLAVEBUSINTERFACE=slave,
    )
