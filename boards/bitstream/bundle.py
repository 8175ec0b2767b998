"""The bundle of a finished build: the folder that goes to the board."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..contents import add_driver, add_program
from ..driver.bundle import Manifest, Timing, Writer
from ..targets.base import Board
from .bitfile import to_bin
from .design import CELL
from .ipxact import vlnv
from .judge import Judgement
from .overlay import compile_overlay
from .reports import ReportError

__all__ = ["write_bundle"]


def write_bundle(
    folder: Path, board: Board, about: dict[str, Any], found: Judgement, *, allow_timing: bool
) -> list[str]:
    """Write ``folder/bundle`` and return notes on what it lacks.

    Raises
    ------
    TimingNotMetError
        If timing is not met and that is not allowed; no bundle is written.
    ReportError
        If the bitstream is damaged or for another part.
    """
    if not allow_timing:
        found.require_timing()
    outputs, notes = folder / "vivado" / "outputs", []
    source = folder / "overlay" / "moevit.dtso"
    binary = source.with_suffix(".dtbo")
    if missing := compile_overlay(source, binary):
        notes.append(f"no compiled overlay: {missing}")
    bit = (outputs / "moevit.bit").read_bytes()
    try:
        swapped = to_bin(bit)
    except ValueError as error:
        raise ReportError(f"{outputs / 'moevit.bit'}: {error}") from None
    handoff = (outputs / "moevit.hwh").read_bytes()
    timing = found.timing
    if not timing.met:
        notes.append("timing is not met; the bundle was allowed all the same")
    manifest = Manifest(
        board=board.name,
        part=board.part_name,
        config_name=about["config"]["name"],
        config_hash=about["hash"].removeprefix("0x"),
        clock_mhz=_actual_mhz(handoff, board, about["clocks"]["clk"]),
        register_base=board.registers,
        register_bytes=board.register_bytes,
        memory_base=board.memory_base,
        memory_bytes=board.memory_bytes,
        vlnv=vlnv("moevit"),
        instance=CELL,
        timing=Timing(met=timing.met, wns_ns=timing.wns, allowed=not timing.met),
        notes=tuple(notes),
    )
    with Writer(folder / "bundle", manifest) as bundle:
        bundle.add("moevit.bit", bit, role="bitstream")
        bundle.add("moevit.bit.bin", swapped, role="bitstream-bin")
        bundle.add("moevit.hwh", handoff, role="handoff")
        bundle.add("moevit.xsa", (outputs / "moevit.xsa").read_bytes(), role="platform")
        bundle.add("moevit.dtso", source.read_bytes(), role="overlay-source")
        if not missing:
            bundle.add("moevit.dtbo", binary.read_bytes(), role="overlay")
        config = json.dumps(about["config"], indent=2) + "\n"
        bundle.add("config.json", config.encode(), role="config")
        for program in sorted((folder / "programs").iterdir()):
            add_program(bundle, program.stem, program.read_bytes())
        bundle.add_files(
            "reports", sorted((folder / "vivado" / "reports").iterdir()), role="report"
        )
        bundle.add(
            "reports/build.json", json.dumps(found.to_dict(), indent=2).encode(), role="report"
        )
        add_driver(bundle)
    return notes


_ACTUAL = re.compile(
    rb'NAME="(?:PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ|PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ)"'
    rb' VALUE="([0-9.]+)"'
)
"""What the processor's PLL makes of the clock that was asked of it."""


def _actual_mhz(handoff: bytes, board: Board, asked: float) -> float:
    """The accelerator's clock, which is as far off as the processor's."""
    found = _ACTUAL.search(handoff)
    if found is None:
        return asked
    return round(asked * float(found[1]) / board.processor_mhz(asked), 6)
