"""The ULX3S around the system: oscillator and PLL, serial bridge, SDRAM, an LED.

Places are the board's published pinout (github.com/emard/ulx3s, ``ulx3s_v20.lpf``).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    IOPort,
    Module,
    Signal,
)

from .system import System

__all__ = ["OSCILLATOR_MHZ", "PINS", "BoardTop", "ClockError", "constraints", "pll"]

OSCILLATOR_MHZ = 25

PINS: dict[str, str] = {
    "clk_25mhz": "G2",
    "ftdi_txd": "M1",
    "ftdi_rxd": "L4",
    "led": "B2",
    "sdram_clk": "F19",
    "sdram_cke": "F20",
    "sdram_csn": "P20",
    "sdram_wen": "T20",
    "sdram_casn": "T19",
    "sdram_rasn": "R20",
    "sdram_dqm": "U19 E20",
    "sdram_ba": "P19 N20",
    "sdram_a": "M20 M19 L20 L19 K20 K19 K18 J20 J19 H20 N19 G20 G19",
    "sdram_d": "J16 L18 M18 N18 P18 T18 T17 U20 E19 D20 D19 C20 E18 F18 J18 J17",
}
"""Balls of each port, bit 0 first. ``ftdi_txd`` is what the bridge sends."""

_VCO_MHZ = (400, 800)
_PHASE_MHZ = 3.125
"""Least frequency at the PLL's phase detector."""


class ClockError(ValueError):
    """The board's PLL cannot make this frequency."""


def pll(mhz: float) -> tuple[int, int, int]:
    """Dividers of the input, of the feedback and of the output for ``mhz`` from the oscillator.

    Raises :class:`ClockError` naming the nearest frequencies that there are.
    """
    found = []
    for divide in range(1, 9):
        if OSCILLATOR_MHZ / divide < _PHASE_MHZ:
            break
        for times in range(1, 81):
            made = OSCILLATOR_MHZ * times / divide
            outputs = [n for n in range(1, 129) if _VCO_MHZ[0] <= made * n <= _VCO_MHZ[1]]
            if outputs:
                found.append((abs(made - mhz), made, (divide, times, outputs[len(outputs) // 2])))
    error, made, dividers = min(found)
    if error > 1e-6 * mhz:
        raise ClockError(
            f"a clock of {mhz:g} MHz cannot be made of {OSCILLATOR_MHZ} MHz; "
            f"the nearest is {made:g} MHz"
        )
    return dividers


def constraints(mhz: float) -> str:
    """nextpnr's LPF file."""
    lines = [
        "BLOCK RESETPATHS;",
        "BLOCK ASYNCPATHS;",
        f'FREQUENCY PORT "clk_25mhz" {OSCILLATOR_MHZ} MHZ;',
        f'FREQUENCY NET "clk" {mhz:g} MHZ;',
        "SYSCONFIG CONFIG_IOVOLTAGE=3.3 COMPRESS_CONFIG=ON MCCLK_FREQ=38.8 "
        "SLAVE_SPI_PORT=DISABLE MASTER_SPI_PORT=ENABLE SLAVE_PARALLEL_PORT=DISABLE;",
    ]
    for port, balls in PINS.items():
        places = balls.split()
        names = [port] if len(places) == 1 else [f"{port}[{n}]" for n in range(len(places))]
        fast = " DRIVE=4 SLEWRATE=FAST" if port.startswith("sdram") else ""
        for name, ball in zip(names, places, strict=True):
            lines += [
                f'LOCATE COMP "{name}" SITE "{ball}";',
                f'IOBUF PORT "{name}" PULLMODE=NONE IO_TYPE=LVCMOS33{fast};',
            ]
    return "\n".join(lines) + "\n"


class BoardTop(Elaboratable):
    """``system`` between its pads, clocked at ``mhz``.

    ``ports``: name to ``(value, direction)``; directions are ``"i"``, ``"o"`` and ``"io"``.
    """

    def __init__(self, system: System, mhz: float) -> None:
        self._system, self._dividers, self._mhz = system, pll(mhz), mhz
        self._data = IOPort(16, name="sdram_d")
        self.ports: dict[str, tuple[Any, str]] = {"sdram_d": (self._data, "io")}
        for name, balls in PINS.items():
            if name != "sdram_d":
                direction = "i" if name in ("clk_25mhz", "ftdi_txd") else "o"
                self.ports[name] = (Signal(len(balls.split()), name=name), direction)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        system, pads = self._system, self._system.sdram.pads
        at = {name: value for name, (value, _) in self.ports.items()}
        m.submodules.system = system
        divide, times, output = self._dividers
        clk = Signal(name="clk", attrs={"keep": 1})
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=str(OSCILLATOR_MHZ),
            a_FREQUENCY_PIN_CLKOP=f"{self._mhz:g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_CLKI_DIV=divide,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=output,
            p_CLKOP_CPHASE=output // 2,
            p_CLKOP_FPHASE=0,
            p_FEEDBK_PATH="CLKOP",
            p_CLKFB_DIV=times,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_CLKI=at["clk_25mhz"],
            i_CLKFB=clk,
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1),
            i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            o_CLKOP=clk,
        )
        m.domains.blink = ClockDomain("blink", reset_less=True)
        blink = Signal(25)
        m.d.blink += blink.eq(blink + 1)
        m.submodules.clock = Instance(
            "ODDRX1F", i_D0=Const(1), i_D1=Const(0), i_SCLK=clk, i_RST=Const(0),
            o_Q=at["sdram_clk"],
        )  # fmt: skip
        taken = Signal(16)
        for n in range(16):
            m.submodules[f"data_{n}"] = Instance(
                "BB", i_I=pads.dq_o[n], i_T=~pads.dq_oe, o_O=taken[n], io_B=self._data[n]
            )
        m.d.comb += [
            ClockSignal("blink").eq(clk),
            system.clk.eq(clk),
            system.rx.eq(at["ftdi_txd"]),
            at["ftdi_rxd"].eq(system.tx),
            at["led"].eq(blink[-1]),
            at["sdram_cke"].eq(1),
            at["sdram_csn"].eq(0),
            at["sdram_rasn"].eq(~pads.command[0]),
            at["sdram_casn"].eq(~pads.command[1]),
            at["sdram_wen"].eq(~pads.command[2]),
            at["sdram_ba"].eq(pads.ba),
            at["sdram_a"].eq(pads.a),
            at["sdram_dqm"].eq(pads.dqm),
            pads.dq_i.eq(taken),
        ]
        return m
