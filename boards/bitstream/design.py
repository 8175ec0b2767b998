"""Tcl of the block design, constraints and settings of a build.

One statement a line and one parameter a line, so that a change reads well in a diff and the checks
can break each of them. Versions of IP and of board files are asked of the tool that runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..targets.base import Board
from .ipxact import vlnv

__all__ = ["CELL", "DESIGN", "STRATEGIES", "TOP", "block_design", "constraints", "settings"]

DESIGN, TOP = "moevit_bd", "moevit_bd_wrapper"
CELL = "moevit_0"
"""The accelerator in the block design."""
_CLOCKS, _RESET, _PS, _CONTROL = "clocks_0", "reset_0", "processor_0", "control_0"

STRATEGIES = (
    "Performance_ExplorePostRoutePhysOpt",
    "Performance_ExtraTimingOpt",
    "Performance_NetDelay_high",
    "Performance_Retiming",
)
"""Implementation strategies that are tried; those that the installed tool lacks are left out."""


def _pin(cell: str, pin: str) -> str:
    return f"[get_bd_pins {cell}/{pin}]"


def _bus(cell: str, interface: str) -> str:
    return f"[get_bd_intf_pins {cell}/{interface}]"


def _net(source: str, *sinks: str) -> list[str]:
    """A line each, so that none hides behind another."""
    return [f"connect_bd_net {source} {sink}" for sink in sinks]


def _set(cell: str, parameters: Mapping[str, str]) -> Iterable[str]:
    yield "set_property -dict [list \\"
    for name, value in parameters.items():
        yield f"  CONFIG.{name} {{{value}}} \\"
    yield f"] [get_bd_cells {cell}]"


def _cell(ip: str, cell: str) -> str:
    return f"create_bd_cell -type ip -vlnv [moevit_newest {ip}] {cell}"


def _processor(board: Board, ports: int, mhz: float) -> list[str]:
    ps = board.processor
    parameters = {k: v.format(mhz=f"{mhz:g}") for k, v in ps.parameters.items()}
    for port in range(ps.ports):
        chosen = ps.port_parameters if port < ports else ps.unused
        gp = port + ps.first_gp
        parameters |= {k.format(port=port, gp=gp): v for k, v in chosen.items()}
    preset = ps.automation.format(preset="$preset")
    return [
        _cell(ps.ip, _PS),
        "set preset [expr {[get_property board_part [current_project]] ne {}}]",
        f"apply_bd_automation -rule {ps.rule} -config [subst {{{preset}}}] [get_bd_cells {_PS}]",
        *_set(_PS, parameters),
    ]


def block_design(board: Board, *, clocks: Mapping[str, float], ports: int) -> str:
    """The whole block design; ``ports``: memory ports of the accelerator, at most the board's.

    Raises
    ------
    ValueError
        If the board has fewer memory ports.
    """
    ps = board.processor
    if ports > ps.ports:
        raise ValueError(f"{board.name}: has {ps.ports} memory ports, the configuration {ports}")
    pins = {name: name.replace("clk", "aclk", 1) for name in clocks}
    mhz = board.processor_mhz(clocks["clk"])
    lines = [f"create_bd_design {DESIGN}", *_processor(board, ports, mhz)]
    lines.append(f"create_bd_cell -type ip -vlnv {vlnv('moevit')} {CELL}")
    lines.append(_cell("proc_sys_reset", _RESET))
    lines.append(_cell("smartconnect", _CONTROL))
    lines += _set(_CONTROL, {"NUM_SI": "1", "NUM_MI": "1"})
    if ps.converts:
        for port in range(ports):
            lines.append(_cell("smartconnect", f"memory_{port}"))
            lines += _set(f"memory_{port}", {"NUM_SI": "1", "NUM_MI": "1"})

    # Clocks and resets.
    processor_clock, processor_reset = _pin(_PS, ps.clock), _pin(_PS, ps.reset)
    source = processor_clock
    if board.mmcm:
        lines.append(f"create_bd_cell -type ip -vlnv {vlnv('moevit_clocks')} {_CLOCKS}")
        lines += _net(processor_clock, _pin(_CLOCKS, "clk_in"))
        lines += _net(processor_reset, _pin(_CLOCKS, "resetn"))
        lines += _net(_pin(_CLOCKS, "locked"), _pin(_RESET, "dcm_locked"))
        source = _pin(_CLOCKS, "clk")
        for clock, pin in pins.items():
            if clock != "clk":
                lines += _net(_pin(_CLOCKS, clock), _pin(CELL, pin))
    connects = [_CONTROL, *(f"memory_{p}" for p in range(ports) if ps.converts)]
    lines += _net(
        source,
        _pin(CELL, "aclk"),
        _pin(_RESET, "slowest_sync_clk"),
        _pin(_PS, ps.control_clock),
        *(_pin(_PS, ps.memory_clock.format(port=port)) for port in range(ports)),
        *(_pin(cell, "aclk") for cell in connects),
    )
    lines += _net(processor_reset, _pin(_RESET, "ext_reset_in"))
    lines += _net(
        _pin(_RESET, "peripheral_aresetn"),
        _pin(CELL, "aresetn"),
        *(_pin(cell, "aresetn") for cell in connects),
    )

    # Registers, memory, interrupt.
    lines.append(f"connect_bd_intf_net {_bus(_PS, ps.control)} {_bus(_CONTROL, 'S00_AXI')}")
    lines.append(f"connect_bd_intf_net {_bus(_CONTROL, 'M00_AXI')} {_bus(CELL, 's_axil')}")
    for port in range(ports):
        master = _bus(CELL, f"m_axi_{port}")
        memory = _bus(_PS, ps.memory.format(port=port))
        if ps.converts:
            lines.append(f"connect_bd_intf_net {master} {_bus(f'memory_{port}', 'S00_AXI')}")
            master = _bus(f"memory_{port}", "M00_AXI")
        lines.append(f"connect_bd_intf_net {master} {memory}")
    lines += _net(_pin(CELL, "irq"), _pin(_PS, ps.interrupt))
    lines.append(
        f"assign_bd_address -offset {board.registers:#010x} -range {board.register_bytes:#x} "
        f"-target_address_space [get_bd_addr_spaces {_PS}/Data] "
        f"[get_bd_addr_segs {CELL}/s_axil/reg0]"
    )
    for port in range(ports):
        segment = ps.segment.format(port=port, gp=port + ps.first_gp)
        lines.append(
            f"assign_bd_address -offset {board.memory_base:#010x} -range {board.memory_bytes:#x} "
            f"-target_address_space [get_bd_addr_spaces {CELL}/m_axi_{port}] "
            f"[get_bd_addr_segs {_PS}/{segment}]"
        )
    lines += ["validate_bd_design", "save_bd_design"]
    return "\n".join(lines) + "\n"


def constraints(board: Board, clocks: Mapping[str, float]) -> str:
    """Design constraints for implementation.

    Clocks are derived by the tool from the processor's; what it cannot know is that buffers of one
    MMCM output are to be balanced, so that paths between clocks in phase keep their whole period.
    """
    if not board.mmcm:
        return "# Every clock is the processor's, which its IP constrains.\n"
    pins = " ".join(f"*/{_CLOCKS}/inst/buffer_{name}/O" for name in clocks)
    lines = [f"# {', '.join(clocks)} of one MMCM."]
    for pattern in pins.split():
        lines.append(
            "set_property CLOCK_DELAY_GROUP moevit "
            f"[get_nets -of_objects [get_pins -hierarchical -filter {{NAME =~ {pattern}}}]]"
        )
    return "\n".join(lines) + "\n"


def settings(
    board: Board, *, strategies: Iterable[str] = STRATEGIES, jobs: int, oldest: str, newest: str
) -> str:
    """``settings.tcl``: the values that ``build.tcl`` reads."""
    values = {
        "board": board.name,
        "part": board.part_name,
        "board_parts": board.board_parts,
        "design": DESIGN,
        "top": TOP,
        "strategies": " ".join(strategies),
        "jobs": str(jobs),
        "oldest": oldest,
        "newest": newest,
    }
    width = max(map(len, values))
    return "".join(f"set moevit({k}){' ' * (width - len(k))} {{{v}}}\n" for k, v in values.items())
