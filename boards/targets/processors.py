"""The processing systems of AMD's Zynq families in a block design.

Names of parameters, pins and segments are those of block designs that Vivado wrote: base.tcl of
the PYNQ overlays for the ZCU104 (Vivado 2022.1) and the PYNQ-Z2 in Xilinx/PYNQ on GitHub.
"""

from __future__ import annotations

from .. import PRIMITIVES
from .base import Processor

__all__ = ["FASTEST_SLICES", "ZYNQ_7000", "ZYNQ_ULTRASCALE"]

FASTEST_SLICES = next(name for name in ("dsp48e2x2", "dsp48e2") if name in PRIMITIVES)
"""The UltraScale+ multipliers with the most products: at twice the clock, where there are such."""

ZYNQ_ULTRASCALE = Processor(
    ip="zynq_ultra_ps_e",
    rule="xilinx.com:bd_rule:zynq_ultra_ps_e",
    automation='apply_board_preset "{preset}"',
    parameters={
        "PSU__USE__M_AXI_GP0": "1",
        "PSU__USE__M_AXI_GP1": "0",
        "PSU__USE__M_AXI_GP2": "0",
        "PSU__MAXIGP0__DATA_WIDTH": "32",
        "PSU__USE__IRQ0": "1",
        "PSU__USE__FABRIC__RST": "1",
        "PSU__NUM_FABRIC_RESETS": "1",
        "PSU__FPGA_PL0_ENABLE": "1",
        "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": "{mhz}",
    },
    port_parameters={
        "PSU__USE__S_AXI_GP{gp}": "1",
        "PSU__SAXIGP{gp}__DATA_WIDTH": "128",
    },
    unused={"PSU__USE__S_AXI_GP{gp}": "0"},
    clock="pl_clk0",
    reset="pl_resetn0",
    interrupt="pl_ps_irq0",
    control="M_AXI_HPM0_FPD",
    control_clock="maxihpm0_fpd_aclk",
    memory="S_AXI_HP{port}_FPD",
    memory_clock="saxihp{port}_fpd_aclk",
    segment="SAXIGP{gp}/HP{port}_DDR_LOW",
    first_gp=2,
    ports=4,
    memory_bits=128,
    memory_protocol="AXI4",
    registers_between=(0xA000_0000, 0xAFFF_FFFF),
)
"""Zynq UltraScale+: four AXI4 ports of 128 bits to memory (HP0 to HP3)."""

ZYNQ_7000 = Processor(
    ip="processing_system7",
    rule="xilinx.com:bd_rule:processing_system7",
    automation='make_external "FIXED_IO, DDR" apply_board_preset "{preset}"',
    parameters={
        "PCW_USE_M_AXI_GP0": "1",
        "PCW_USE_M_AXI_GP1": "0",
        "PCW_USE_FABRIC_INTERRUPT": "1",
        "PCW_IRQ_F2P_INTR": "1",
        "PCW_EN_CLK0_PORT": "1",
        "PCW_EN_RST0_PORT": "1",
        "PCW_FPGA0_PERIPHERAL_FREQMHZ": "{mhz}",
    },
    port_parameters={
        "PCW_USE_S_AXI_HP{gp}": "1",
        "PCW_S_AXI_HP{gp}_DATA_WIDTH": "64",
    },
    unused={"PCW_USE_S_AXI_HP{gp}": "0"},
    clock="FCLK_CLK0",
    reset="FCLK_RESET0_N",
    interrupt="IRQ_F2P",
    control="M_AXI_GP0",
    control_clock="M_AXI_GP0_ACLK",
    memory="S_AXI_HP{port}",
    memory_clock="S_AXI_HP{port}_ACLK",
    segment="S_AXI_HP{port}/HP{port}_DDR_LOWOCM",
    first_gp=0,
    ports=4,
    memory_bits=64,
    memory_protocol="AXI3",
    registers_between=(0x4000_0000, 0x7FFF_FFFF),
)
"""Zynq-7000: four AXI3 ports of 64 bits to memory (HP0 to HP3)."""
