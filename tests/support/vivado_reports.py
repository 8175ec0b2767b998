"""Reports in the layouts of Vivado's, and a bitstream file; numbers as a test wants them.

The layouts are those of reports in public repositories, 2018.2 to 2024.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["bitstream", "drc", "hierarchy", "power", "timing", "utilisation", "write_samples"]

PATH = "moevit_bd_i/moevit_0/inst/accelerator"


def head(version: str, command: str, *, device: str = "xczu7ev-ffvc1156-2-e") -> str:
    """What every report begins with; a second owner since 2022.2."""
    owners = "Copyright 1986-2022 Xilinx, Inc. All Rights Reserved."
    if version >= "2022.2":
        owners += " Copyright 2022-2024 Advanced Micro Devices, Inc. All Rights Reserved."
    rule = "-" * 100
    rows = {
        "Tool Version": f"Vivado v.{version} (lin64) Build 4029153 Fri Oct 13 20:13:54 MDT 2023",
        "Date": "Fri Nov 27 12:00:00 2026", "Host": "host running 64-bit Ubuntu 22.04.5 LTS",
        "Command": command, "Design": "moevit_bd_wrapper", "Device": device, "Speed File": "-2",
        "Design State": "Physopt postRoute",
    }  # fmt: skip
    lines = [f"| {key:<12} : {value}" for key, value in rows.items()]
    return "\n".join([owners, rule, *lines, rule]) + "\n\n"


def drawn(rows: list[tuple[str, ...]]) -> str:
    """A table as Vivado draws them, the heading first."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"

    def line(row: tuple[str, ...], first: bool) -> str:
        cells = [
            cell.center(width) if first else cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |"

    body = [line(row, False) for row in rows[1:]]
    return "\n".join([rule, line(rows[0], True), rule, *body, rule]) + "\n"


USED = {"LUT": 81234.0, "FF": 60111.0, "DSP": 1190.0, "BRAM36": 262.5, "URAM": 84.0}
HAS = {"LUT": 230400.0, "FF": 460800.0, "DSP": 1728.0, "BRAM36": 312.0, "URAM": 96.0}


def utilisation(
    version: str = "2023.2", *, used: Mapping[str, float] = USED, seven: bool = False
) -> str:
    """``report_utilization``; ``seven``: of a device of the 7 series, without ultra RAM."""
    prohibited = version >= "2021.1"
    kind = "Slice" if seven else "CLB"

    def table(*rows: tuple[str, str]) -> str:
        heading = ["Site Type", "Used", "Fixed", *(["Prohibited"] * prohibited), "Available"]
        drawn_rows: list[tuple[str, ...]] = [(*heading, "Util%")]
        for label, what in rows:
            amount, all_of_it = used.get(what, 1.0), HAS.get(what, 2.0)
            share = f"{100 * amount / all_of_it:.2f}"
            zero = ["0"] * (1 + prohibited)
            drawn_rows.append((label, f"{amount:g}", *zero, f"{all_of_it:g}", share))
        return drawn(drawn_rows)

    ram = [("Block RAM Tile", "BRAM36"), ("  RAMB36/FIFO*", "?"), ("  RAMB18", "?")]
    if not seven:
        ram.append(("URAM", "URAM"))
    return (
        head(version, "report_utilization -file reports/utilization.rpt")
        + f"Utilization Design Information\n\nTable of Contents\n1. {kind} Logic\n"
        + f"\n1. {kind} Logic\n------------\n\n"
        + table((f"{kind} LUTs", "LUT"), ("  LUT as Logic", "?"), (f"{kind} Registers", "FF"))
        + "\n3. BLOCKRAM\n-----------\n\n" + table(*ram)
        + "\n4. ARITHMETIC\n-------------\n\n" + table(("DSPs", "DSP"), ("  DSP48E2 only", "?"))
    )  # fmt: skip


ROWS = (
    # depth, instance, LUT, FF, RAMB36, RAMB18, URAM, DSP
    (0, "moevit_bd_wrapper", 81234, 60111, 260, 5, 84, 1190),
    (1, "moevit_bd_i", 81234, 60111, 260, 5, 84, 1190),
    (2, "moevit_0", 79000, 58000, 260, 5, 84, 1190),
    (3, "inst", 79000, 58000, 260, 5, 84, 1190),
    (4, "accelerator", 79000, 58000, 260, 5, 84, 1190),
    (5, "core", 78000, 57000, 260, 5, 84, 1190),
    (6, "compute", 20000, 15000, 16, 0, 0, 1024),
    (7, "array", 17000, 13000, 16, 0, 0, 1024),
    (8, "dot", 6000, 5000, 0, 0, 0, 1024),
    (6, "weights", 11000, 6800, 104, 4, 64, 0),
    (7, "ring", 0, 0, 0, 0, 64, 0),
    (5, "control", 500, 200, 0, 0, 0, 0),
    (2, "control_0", 2000, 2000, 0, 0, 0, 0),
)


def hierarchy(version: str = "2023.2") -> str:
    """``report_utilization -hierarchical``."""
    rows: list[tuple[str, ...]] = [
        ("Instance", "Module", "Total LUTs", "Logic LUTs", "LUTRAMs", "SRLs", "FFs", "RAMB36",
         "RAMB18", "URAM", "DSP Blocks")
    ]  # fmt: skip
    for depth, name, lut, ff, ram, half, ultra, dsp in ROWS:
        numbers = (lut, lut, 0, 0, ff, ram, half, ultra, dsp)
        rows.append(("  " * depth + name, "m", *map(str, numbers)))
        if depth == 5:
            rows.append(("  " * (depth + 1) + f"({name})", "m", *map(str, numbers)))
    title = "Utilization Design Information\n\n1. Utilization by Hierarchy\n" + "-" * 27 + "\n\n"
    return head(version, "report_utilization -hierarchical") + title + drawn(rows)


PATHS = (
    # slack, kind, from, to
    (0.051, "Setup", "core/compute/array/dot/p_reg[3]/C", "core/compute/array/sums_reg[3]/D"),
    (0.073, "Setup", "core/weights/beat_reg/C", "core/semaphores/credit_reg[1]/D"),
    (0.012, "Hold", "core/control_reg/C", "control/bus_reg/D"),
)


def timing(
    version: str = "2023.2", *, slack: float = 0.051, hold: float = 0.012, unclocked: int = 0,
    paths: Iterable[tuple[float, str, str, str]] = PATHS, clocks: Mapping[str, float] | None = None,
) -> str:  # fmt: skip
    """``report_timing_summary``."""
    names = ("WNS(ns)", "TNS(ns)", "TNS Failing Endpoints", "TNS Total Endpoints", "WHS(ns)",
             "THS(ns)", "THS Failing Endpoints", "THS Total Endpoints", "WPWS(ns)", "TPWS(ns)",
             "TPWS Failing Endpoints", "TPWS Total Endpoints")  # fmt: skip
    late = 17 if slack < 0 else 0
    values = (f"{slack:.3f}", "0.000", str(late), "190000", f"{hold:.3f}", "0.000",
              str(3 if hold < 0 else 0), "190000", "0.450", "0.000", "0", "60000")  # fmt: skip
    widths = [max(len(n), len(v)) for n, v in zip(names, values, strict=True)]

    def row(cells: Iterable[str]) -> str:
        return "    " + "  ".join(c.rjust(w) for c, w in zip(cells, widths, strict=True)) + "  \n"

    rule = "-" * 96
    text = head(version, "report_timing_summary") + "Timing Summary Report\n\n"
    text += f"1. checking no_clock ({unclocked})\n2. checking constant_clock (0)\n\n"
    text += f"{rule}\n| Design Timing Summary\n| {'-' * 21}\n{rule}\n\n"
    text += row(names) + row("-" * len(n) for n in names) + row(values) + "\n\n"
    text += f"{rule}\n| Clock Summary\n| -------------\n{rule}\n\n"
    text += "Clock      Waveform(ns)         Period(ns)      Frequency(MHz)\n"
    text += "-----      ------------         ----------      --------------\n"
    for name, period in (clocks or {"clk_pl_0": 10.0, "made": 1.667, "clk": 3.333}).items():
        text += f"{name:<10} {{0.000 {period / 2:.3f}}}  {period:.3f}  {1e3 / period:.3f}  \n"
    text += "\n\nMax Delay Paths\n" + "-" * 86 + "\n"
    for amount, kind, start, end in paths:
        state = "MET" if amount >= 0 else "VIOLATED"
        text += (
            f"Slack ({state}) :   {amount:.3f}ns  (required time - arrival time)\n"
            f"  Source:                 {PATH}/{start}\n"
            "                            (rising edge-triggered cell FDRE clocked by clk)\n"
            f"  Destination:            {PATH}/{end}\n"
            "                            (rising edge-triggered cell FDRE clocked by clk)\n"
            "  Path Group:             clk\n"
            f"  Path Type:              {kind} (Max at Slow Process Corner)\n"
            "  Requirement:            3.333ns  (clk rise@3.333ns - clk rise@0.000ns)\n"
            "  Data Path Delay:        3.100ns  (logic 1.000ns (32.3%)  route 2.100ns (67.7%))\n"
            "  Logic Levels:           6  (CARRY8=1 LUT6=5)\n"
            "  Clock Path Skew:        -0.031ns (DCD - SCD + CPR)\n\n"
            "    Location             Delay type                Incr(ns)  Path(ns)\n\n"
        )
    return text


def power(version: str = "2023.2") -> str:
    """``report_power``."""
    rows = (
        ("Total On-Chip Power (W)", "7.513"), ("Design Power Budget (W)", "Unspecified*"),
        ("Dynamic (W)", "6.790"), ("Device Static (W)", "0.723"), ("Effective TJA (C/W)", "1.0"),
        ("Junction Temperature (C)", "32.3"), ("Confidence Level", "Medium"),
    )  # fmt: skip
    width = max(len(name) for name, _ in rows)
    rule = "+" + "-" * (width + 2) + "+" + "-" * 14 + "+\n"
    body = "".join(f"| {name:<{width}} | {value:<12} |\n" for name, value in rows)
    return (
        head(version, "report_power")
        + "Power Report\n\n1. Summary\n----------\n\n"
        + rule
        + body
        + rule
    )


def drc(version: str = "2023.2", *, error: bool = False) -> str:
    """``report_drc``."""
    rows: list[tuple[str, ...]] = [("Rule", "Severity", "Description", "Violations")]
    rows.append(("DPIP-2", "Warning", "Input pipelining", "5"))
    if error:
        rows.append(("MDRV-1", "Error", "Multiple Driver Nets", "1"))
    text = head(version, "report_drc") + "Report DRC\n\n1. REPORT SUMMARY\n-----------------\n"
    text += f"            Netlist: netlist\n             Violations found: {5 + error}\n"
    return text + drawn(rows)


def bitstream(part: str = "xczu7ev-ffvc1156-2-e", words: int = 64) -> bytes:
    """A ``.bit`` file with ``words`` words behind the synchronisation word."""
    fields = {"a": "moevit_bd_wrapper;UserID=0XFFFFFFFF;Version=2023.2", "b": part,
              "c": "2026/11/27", "d": "12:00:00"}  # fmt: skip
    data = bytes.fromhex("ffffffff" * 4 + "aa995566") + bytes(range(256)) * (words // 64)
    out = bytes.fromhex("00090ff00ff00ff00ff0000001")
    for tag, text in fields.items():
        value = text.encode() + b"\0"
        out += tag.encode() + len(value).to_bytes(2, "big") + value
    return out + b"e" + len(data).to_bytes(4, "big") + data


def write_samples(folder: Path, version: str = "2023.2", **changes: str | bytes) -> str:
    """Writes one of each and returns Tcl that makes the stand-in give them; ``changes``: others."""
    samples: dict[str, str | bytes] = {
        "report_utilization": utilisation(version), "report_hierarchy": hierarchy(version),
        "report_timing_summary": timing(version), "report_power": power(version),
        "report_drc": drc(version), "report_methodology": head(version, "report_methodology"),
        "report_clock_interaction": head(version, "report_clock_interaction"),
        "bitstream": bitstream(),
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    for name, content in (samples | changes).items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    return (
        f"proc standin_report {{kind file}} {{ file copy -force {folder}/$kind $file }}\n"
        f"proc standin_bitstream {{file}} {{ file mkdir [file dirname $file]; "
        f"file copy -force {folder}/bitstream $file }}\n"
    )
