"""What a board is: its part, its processor, its memory, and the configurations that fit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..parts import Part

__all__ = ["Board", "MissingFlowError", "OpenBoard", "Processor"]


class MissingFlowError(ValueError):
    """The board is known, but there is no such way to build or describe a bitstream for it."""


@dataclass(frozen=True, kw_only=True)
class OpenBoard:
    """A board without a processor whose bitstream is made by Yosys and nextpnr.

    Attributes
    ----------
    name, title, part_name:
        As of :class:`Board`.
    clock_mhz:
        Target; the board's PLL must be able to make it.
    memory_bytes:
        Of the SDRAM.
    presets:
        Configurations that were placed and routed, the one to build first.
    multipliers, block_rams:
        MULT18X18D and DP16KD that the part has.
    bauds:
        Of the serial line to the host.
    host:
        How a host reaches the board.
    """

    name: str
    title: str
    part_name: str
    clock_mhz: float
    memory_bytes: int
    presets: tuple[str, ...]
    multipliers: int
    block_rams: int
    bauds: int
    host: str


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A family's processing system as a cell of a block design.

    Names with ``{port}`` are those of memory port 0, 1, ...; ``{gp}`` is the number that the same
    port has among the processor's slaves.

    Attributes
    ----------
    ip, rule:
        The cell's IP, and the rule of block automation that applies a board's preset to it.
    automation:
        Configuration of that rule; ``{preset}`` is 1 where the board's files are installed.
    parameters, port_parameters:
        What the cell is set to, and what for each memory port in use. ``{mhz}``: the clock asked
        of the processor's PLL.
    unused:
        Parameters that are set for each memory port that is not in use.
    clock, reset, interrupt:
        Pins of the clock, of its reset (active low), and of the interrupts.
    control, control_clock:
        The master interface through which software reaches registers, and its clock pin.
    memory, memory_clock, segment:
        The slave interface to memory, its clock pin, and its address segment.
    first_gp:
        ``{gp}`` of memory port 0.
    ports:
        Memory ports there are.
    memory_bits:
        Data width of a memory port. A narrower one than the accelerator's 128 bits, or one that is
        no AXI4, is reached through a SmartConnect.
    memory_protocol:
        AXI4 or AXI3.
    registers_between:
        First and last address that the control interface can reach.
    """

    ip: str
    rule: str
    automation: str
    parameters: Mapping[str, str]
    port_parameters: Mapping[str, str]
    unused: Mapping[str, str]
    clock: str
    reset: str
    interrupt: str
    control: str
    control_clock: str
    memory: str
    memory_clock: str
    segment: str
    first_gp: int
    ports: int
    memory_bits: int
    memory_protocol: str
    registers_between: tuple[int, int]

    @property
    def converts(self) -> bool:
        """Whether a SmartConnect stands between the accelerator and each memory port."""
        return self.memory_bits != 128 or self.memory_protocol != "AXI4"


@dataclass(frozen=True, kw_only=True)
class Board:
    """All that differs between boards.

    Attributes
    ----------
    name, title:
        The name in commands, and the one on the box.
    part, part_name:
        What the device has, and its full name for the vendor's tool.
    board_parts:
        Pattern of the board's own files in the tool's store. The newest that is installed is used;
        without any the processor keeps its default settings, and the boot loader's count.
    free_edition:
        Whether the tool's free edition has the part.
    processor:
        The family's processing system.
    reference_mhz:
        With ``mmcm`` an MMCM makes the accelerator's clocks of this one, which the processor's PLL
        makes; without, that PLL makes the accelerator's clock itself.
    clock_mhz:
        Target for this part. A configuration that aims higher is built for this clock.
    memory_base, memory_bytes:
        Memory that every port of the accelerator reaches.
    registers:
        Where software finds the accelerator's registers.
    primitives:
        What the array's multipliers are made of (:data:`moevit.boards.PRIMITIVES`).
    presets:
        Configurations that fit, the one to build first.
    interrupt:
        The line's number for a device tree: of the shared peripheral interrupts, from 0.
    host:
        How a host reaches the board.
    """

    name: str
    title: str
    part: Part
    part_name: str
    board_parts: str
    free_edition: bool
    processor: Processor
    mmcm: bool
    reference_mhz: float
    clock_mhz: float
    memory_base: int
    memory_bytes: int
    registers: int
    primitives: str
    presets: tuple[str, ...]
    interrupt: int
    host: str
    register_bytes: int = field(default=4096)

    def processor_mhz(self, clock_mhz: float) -> float:
        """What is asked of the processor's PLL for an accelerator at ``clock_mhz``."""
        return self.reference_mhz if self.mmcm else clock_mhz

    def __post_init__(self) -> None:
        low, high = self.processor.registers_between
        if not low <= self.registers <= high - self.register_bytes + 1:
            raise ValueError(
                f"Board.registers must be within {low:#x}..{high:#x}, not {self.registers:#x}"
            )
        if not self.presets:
            raise ValueError("Board.presets must name the preset to build first")
