"""``component.xml``: the description by which Vivado knows a packaged IP (IEEE 1685-2009).

Vivado writes and reads the 2009 edition of the standard, with extensions of its own in the elements
that the standard leaves to vendors. The bus types are those of Vivado's interface catalogue.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .registers import RegisterInfo, register_map
from .rtl import CLOCKS_NAME, IP_NAME, Port

__all__ = ["NAMESPACE", "VENDOR", "VERSION", "accelerator", "clock_generator", "vlnv", "xgui"]

NAMESPACE = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
_XILINX = "http://www.xilinx.com"
VENDOR, LIBRARY, VERSION = "moevit.org", "ip", "1.0"

_AXI = ("xilinx.com", "interface", "aximm")
_SIGNALS = {"clock": "CLK", "reset": "RST", "interrupt": "INTERRUPT"}
_FAMILIES = ("zynquplus", "zynq")


def vlnv(name: str) -> str:
    """Vendor, library, name and version as Vivado writes them; ``name``: moevit, moevit_clocks."""
    return f"{VENDOR}:{LIBRARY}:{name}:{VERSION}"


def xgui() -> str:
    """The page that Vivado shows for an IP without anything to set."""
    return 'proc init_gui { IPINST } {\n  ipgui::add_param $IPINST -name "Component_Name"\n}\n'


@dataclass
class _Bus:
    name: str
    kind: tuple[str, str, str]
    master: bool
    ports: dict[str, str]
    """physical by logical"""
    parameters: dict[str, str]
    memory_map: str = ""
    address_space: str = ""


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _add(parent: ET.Element, name: str, text: str = "", /, **attributes: str) -> ET.Element:
    child = ET.SubElement(parent, _tag(name), {_tag(k): v for k, v in attributes.items()})
    if text:
        child.text = text
    return child


def _name_pair(parent: ET.Element, name: str, value: str, ident: str = "") -> None:
    parameter = _add(parent, "parameter")
    _add(parameter, "name", name)
    _add(parameter, "value", value, **({"id": ident} if ident else {}))


def _interface(parent: ET.Element, bus: _Bus) -> None:
    vendor, library, name = bus.kind
    found = _add(parent, "busInterface")
    _add(found, "name", bus.name)
    for element, what in (("busType", name), ("abstractionType", f"{name}_rtl")):
        _add(found, element, vendor=vendor, library=library, name=what, version="1.0")
    role = _add(found, "master" if bus.master else "slave")
    if bus.memory_map:
        _add(role, "memoryMapRef", memoryMapRef=bus.memory_map)
    if bus.address_space:
        _add(role, "addressSpaceRef", addressSpaceRef=bus.address_space)
    maps = _add(found, "portMaps")
    for logical, physical in bus.ports.items():
        pair = _add(maps, "portMap")
        _add(_add(pair, "logicalPort"), "name", logical)
        _add(_add(pair, "physicalPort"), "name", physical)
    if bus.parameters:
        parameters = _add(found, "parameters")
        for key, value in bus.parameters.items():
            ident = f"BUSIFPARAM_VALUE.{bus.name.upper()}.{key}"
            _name_pair(parameters, key, value, ident)


def _signal(kind: str, name: str, pin: str, master: bool, parameters: Mapping[str, str]) -> _Bus:
    return _Bus(
        name, ("xilinx.com", "signal", kind), master, {_SIGNALS[kind]: pin}, dict(parameters)
    )


def _axi(name: str, ports: Iterable[Port], *, master: bool, parameters: dict[str, str]) -> _Bus:
    pins = {p.name.removeprefix(f"{name}_").upper(): p.name for p in ports
            if p.name.startswith(f"{name}_")}  # fmt: skip
    return _Bus(name, _AXI, master, pins, parameters)


def _ports(model: ET.Element, ports: Iterable[Port]) -> None:
    parent = _add(model, "ports")
    for port in ports:
        found = _add(parent, "port")
        _add(found, "name", port.name)
        wire = _add(found, "wire")
        _add(wire, "direction", "in" if port.is_input else "out")
        if port.width > 1:
            vector = _add(wire, "vector")
            _add(vector, "left", str(port.width - 1), format="long")
            _add(vector, "right", "0", format="long")
        types = _add(_add(wire, "wireTypeDefs"), "wireTypeDef")
        _add(types, "typeName", "wire")
        for view in _VIEWS:
            _add(types, "viewNameRef", view)
        if port.is_input and port.name.endswith("prot"):
            _add(_add(wire, "driver"), "defaultValue", "0", format="long")


_VIEWS = {
    "xilinx_anylanguagesynthesis": ":vivado.xilinx.com:synthesis",
    "xilinx_anylanguagebehavioralsimulation": ":vivado.xilinx.com:simulation",
}


def _registers(parent: ET.Element, registers: Iterable[RegisterInfo], size: int) -> None:
    memory_map = _add(parent, "memoryMap")
    _add(memory_map, "name", "s_axil")
    block = _add(memory_map, "addressBlock")
    _add(block, "name", "reg0")
    _add(block, "baseAddress", "0", format="bitString", resolve="user", bitStringLength="12")
    _add(block, "range", str(size), format="long")
    _add(block, "width", "32", format="long")
    _add(block, "usage", "register")
    _add(block, "access", "read-write")
    for register in registers:
        found = _add(block, "register")
        _add(found, "name", register.name)
        if register.description:
            _add(found, "description", register.description)
        if register.count > 1:
            _add(found, "dim", str(register.count))
        _add(found, "addressOffset", f"{register.offset:#x}")
        _add(found, "size", "32", format="long")
        _add(found, "volatile", "true" if register.access == "read-only" else "false")
        _add(found, "access", register.access)
        for field in register.fields:
            bit = _add(found, "field")
            _add(bit, "name", field.name)
            _add(bit, "description", field.description)
            _add(bit, "bitOffset", str(field.bit))
            _add(bit, "bitWidth", "1", format="long")
            _add(bit, "access", register.access)


def _component(
    name: str,
    title: str,
    module: str,
    buses: Iterable[_Bus],
    ports: tuple[Port, ...],
    files: Iterable[str],
    *,
    registers: tuple[RegisterInfo, ...] = (),
    register_bytes: int = 0,
    spaces: Mapping[str, int] | None = None,
) -> str:
    ET.register_namespace("spirit", NAMESPACE)
    ET.register_namespace("xilinx", _XILINX)
    root = ET.Element(_tag("component"))
    for key, value in (
        ("vendor", VENDOR), ("library", LIBRARY), ("name", name), ("version", VERSION)
    ):  # fmt: skip
        _add(root, key, value)
    interfaces = _add(root, "busInterfaces")
    for bus in buses:
        _interface(interfaces, bus)
    if spaces:
        parent = _add(root, "addressSpaces")
        for space, bits in spaces.items():
            found = _add(parent, "addressSpace")
            _add(found, "name", space)
            _add(found, "range", str(1 << bits), format="long")
            _add(found, "width", "128", format="long")
    if registers:
        _registers(_add(root, "memoryMaps"), registers, register_bytes)
    model = _add(root, "model")
    views = _add(model, "views")
    for view, environment in _VIEWS.items():
        found = _add(views, "view")
        _add(found, "name", view)
        _add(found, "displayName", view.removeprefix("xilinx_anylanguage").capitalize())
        _add(found, "envIdentifier", environment)
        _add(found, "language", "verilog")
        _add(found, "modelName", module)
        _add(_add(found, "fileSetRef"), "localName", f"{view}_view_fileset")
    page = _add(views, "view")
    _add(page, "name", "xilinx_xpgui")
    _add(page, "displayName", "UI Layout")
    _add(page, "envIdentifier", ":vivado.xilinx.com:xgui.ui")
    _add(_add(page, "fileSetRef"), "localName", "xilinx_xpgui_view_fileset")
    _ports(model, ports)
    _file_sets(root, name, tuple(files))
    _add(root, "description", title)
    parameters = _add(root, "parameters")
    parameter = _add(parameters, "parameter")
    _add(parameter, "name", "Component_Name")
    _add(parameter, "value", f"{name}_v1_0", resolve="user", id="PARAM_VALUE.Component_Name")
    _extensions(root, title)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _file_sets(root: ET.Element, name: str, files: tuple[str, ...]) -> None:
    sets = _add(root, "fileSets")
    for view in _VIEWS:
        found = _add(sets, "fileSet")
        _add(found, "name", f"{view}_view_fileset")
        for path in files:
            file = _add(found, "file")
            _add(file, "name", path)
            _add(file, "fileType", "verilogSource")
    page = _add(sets, "fileSet")
    _add(page, "name", "xilinx_xpgui_view_fileset")
    file = _add(page, "file")
    _add(file, "name", f"xgui/{name}_v1_0.tcl")
    _add(file, "fileType", "tclSource")


def _extensions(root: ET.Element, title: str) -> None:
    core = ET.SubElement(_add(root, "vendorExtensions"), f"{{{_XILINX}}}coreExtensions")
    families = ET.SubElement(core, f"{{{_XILINX}}}supportedFamilies")
    for family in _FAMILIES:
        found = ET.SubElement(
            families, f"{{{_XILINX}}}family", {f"{{{_XILINX}}}lifeCycle": "Production"}
        )
        found.text = family
    taxonomies = ET.SubElement(core, f"{{{_XILINX}}}taxonomies")
    ET.SubElement(taxonomies, f"{{{_XILINX}}}taxonomy").text = "/UserIP"
    ET.SubElement(core, f"{{{_XILINX}}}displayName").text = title
    ET.SubElement(core, f"{{{_XILINX}}}coreRevision").text = "1"


def accelerator(
    ports: tuple[Port, ...], *, experts: int, register_bytes: int, files: Iterable[str]
) -> str:
    """The accelerator's ``component.xml``; ``ports``: those of ``moevit_ip``.

    The registers' address block is ``s_axil/reg0``; every master ``m_axi_n`` has an address space
    of 4 GB by its own name.
    """
    names = [port.name for port in ports]
    masters = sorted({m[0] for n in names if (m := re.match(r"m_axi_\d+", n))})
    clocks = [n for n in names if n.startswith("aclk")]
    slave = _axi("s_axil", ports, master=False, parameters={"PROTOCOL": "AXI4LITE"})
    slave.memory_map = "s_axil"
    buses = [slave]
    for master in masters:
        writes = f"{master}_awaddr" in names
        about = {"PROTOCOL": "AXI4", "READ_WRITE_MODE": "READ_WRITE" if writes else "READ_ONLY",
                 "SUPPORTS_NARROW_BURST": "0"}  # fmt: skip
        bus = _axi(master, ports, master=True, parameters=about)
        bus.address_space = master
        buses.append(bus)
    buses.append(_signal("reset", "aresetn", "aresetn", False, {"POLARITY": "ACTIVE_LOW"}))
    buses.append(_signal("interrupt", "irq", "irq", True, {"SENSITIVITY": "LEVEL_HIGH"}))
    for clock in clocks:
        own = {"ASSOCIATED_BUSIF": ":".join(["s_axil", *masters]), "ASSOCIATED_RESET": "aresetn"}
        buses.append(_signal("clock", clock, clock, False, own if clock == "aclk" else {}))
    return _component(
        "moevit", "moevit accelerator", IP_NAME, buses, ports, files,
        registers=register_map(experts), register_bytes=register_bytes,
        spaces=dict.fromkeys(masters, 32),
    )  # fmt: skip


def clock_generator(clocks: Mapping[str, float], reference_mhz: float, files: Iterable[str]) -> str:
    """The clock generator's ``component.xml``; ``clocks``: MHz by output."""
    ports = (
        Port("clk_in", 1, True),
        Port("resetn", 1, True),
        *(Port(name, 1, False) for name in clocks),
        Port("locked", 1, False),
    )
    buses = [
        _signal("clock", "clk_in", "clk_in", False, {"ASSOCIATED_RESET": "resetn"}),
        _signal("reset", "resetn", "resetn", False, {"POLARITY": "ACTIVE_LOW"}),
    ]
    for name, mhz in clocks.items():
        buses.append(_signal("clock", name, name, True, {"FREQ_HZ": str(round(mhz * 1e6))}))
    title = f"moevit clocks from {reference_mhz:g} MHz"
    return _component("moevit_clocks", title, CLOCKS_NAME, buses, ports, files)
