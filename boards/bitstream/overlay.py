"""Device-tree overlay: how Linux loads the bitstream and sees the accelerator.

The accelerator is a `generic-uio` device with its interrupt; memory for programs and pictures comes
from `u-dma-buf`. On Zynq UltraScale+ the ports' widths are set as well, since a boot loader that
was built for another design may have left them at 32 or 64 bits: `xlnx,afi-fpga` takes pairs of
register and value, values 0 for 128 bits (Linux for Zynq, drivers/fpga; AMD UG1087, AFIFM).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..targets.base import Board

__all__ = ["compile_overlay", "source"]

_BUFFER_BYTES = 1 << 27


def source(board: Board, clock_mhz: float) -> str:
    """The overlay's source; ``clock_mhz``: of the accelerator."""
    ultra = board.processor.ip == "zynq_ultra_ps_e"
    cells = 2 if ultra else 1
    fpga, bus, gic = ("fpga_full", "amba", "gic") if ultra else ("fpga_full", "amba", "intc")
    clock = "zynqmp_clk 71" if ultra else "clkc 15"
    rate = round(board.processor_mhz(clock_mhz) * 1e6)

    def cell(value: int) -> str:
        return f"0x0 {value:#x}" if cells == 2 else f"{value:#x}"

    afi = ""
    if ultra:
        # Registers 4 to 11: read and write width of HP0 to HP3; 14: width of HPM0 and HPM1, 0 for
        # 32 bits.
        afi = """
	moevit_afi: afi0 {
		compatible = "xlnx,afi-fpga";
		config-afi = <4 0>, <5 0>, <6 0>, <7 0>, <8 0>, <9 0>, <10 0>, <11 0>, <14 0x000>;
	};
"""
    return f"""\
/dts-v1/;
/plugin/;
/* moevit on {board.title}: {clock_mhz:g} MHz. */
&{fpga} {{
	#address-cells = <{cells}>;
	#size-cells = <{cells}>;
	firmware-name = "moevit.bit.bin";
}};
&{bus} {{
	#address-cells = <{cells}>;
	#size-cells = <{cells}>;
	moevit_clock: moevit_clock {{
		#clock-cells = <0>;
		compatible = "xlnx,fclk";
		clocks = <&{clock}>;
		assigned-clocks = <&{clock}>;
		assigned-clock-rates = <{rate}>;
	}};
{afi}	moevit: moevit@{board.registers:x} {{
		compatible = "moevit,accelerator", "generic-uio";
		reg = <{cell(board.registers)} {cell(board.register_bytes)}>;
		interrupt-parent = <&{gic}>;
		interrupts = <0 {board.interrupt} 4>;
		clocks = <&moevit_clock>;
	}};
	moevit_memory: udmabuf-moevit {{
		compatible = "ikwzm,u-dma-buf";
		device-name = "moevit0";
		size = <{cell(_BUFFER_BYTES)}>;
		dma-mask = <32>;
	}};
}};
"""


def compile_overlay(source: Path, target: Path) -> str:
    """Compile with ``dtc``; an empty string, or why there is no ``.dtbo``."""
    program = shutil.which("dtc")
    if program is None:
        return "dtc: not installed; apt-get install device-tree-compiler"
    command = [program, "-@", "-I", "dts", "-O", "dtb", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        target.unlink(missing_ok=True)
        return f"dtc: {' '.join(done.stderr.split())}"
    return ""
