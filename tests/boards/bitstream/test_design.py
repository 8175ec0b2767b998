"""The scripts of a build in plain tclsh, against the stand-in; and broken in every line."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bitstreams import written

from moevit.boards.bitstream import check as checks
from moevit.boards.bitstream.check import CheckError, check, standin
from moevit.boards.fit import least, shortage, suggestion
from moevit.boards.targets import MissingFlowError, board, names
from moevit.hw.config import preset

BOARDS = [name for name in names() if name != "ulx3s"]
CASES = {
    # One clock and two, as many memory ports as there are, and the family with converters.
    "zcu104": ("zcu104", "zcu104", 2),
    "pynq-z2": ("pynq-z2", "micro", 1),
}


def test_a_board_of_open_tools_says_so() -> None:
    with pytest.raises(MissingFlowError, match=r"ulx3s.*no vendor's flow"):
        board("ulx3s")
    with pytest.raises(
        ValueError, match=r"Unknown board 'zcu105'; expected one of kv260, .*zcu104"
    ):
        board("zcu105")


@pytest.mark.parametrize("name", BOARDS)
def test_the_scripts_of_each_board_pass(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(written(tmp_path / "b", name, preset(board(name).presets[0]), monkeypatch))


@pytest.mark.parametrize("name", BOARDS)
def test_presets_fit(name: str) -> None:
    chosen = board(name)
    for config in map(preset, chosen.presets):
        assert not shortage(config, chosen.part, chosen.primitives), config.name
    assert suggestion(chosen.part, chosen.primitives) != "none"


def test_what_does_not_fit_is_counted() -> None:
    small = board("pynq-z2")
    said = shortage(preset("default"), small.part, small.primitives)
    assert said.startswith("512 DSP of 220, ")
    # Ultra RAM counts as block RAM where there is none of it.
    here = least(preset("zcu104"), board("zcu104").part, "dsp48e2")
    there = least(preset("zcu104"), board("zcu102").part, "dsp48e2")
    assert there["URAM"] == 0
    assert there["BRAM36"] > here["BRAM36"] + 7 * here["URAM"]


def test_without_tclsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda _name: None)
    with pytest.raises(CheckError, match="tclsh: not installed; apt-get install tcl"):
        check(tmp_path)


@pytest.fixture(scope="module", params=CASES)
def build(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], str]]:
    """Runs a build's scripts with one file changed, and returns what the stand-in said."""
    name, config, times = CASES[request.param]
    scratch = tmp_path_factory.mktemp("mutants")
    with pytest.MonkeyPatch.context() as monkeypatch:
        whole = written(scratch / "b", name, preset(config), monkeypatch, times=times)
    folder = whole / "vivado"
    tclsh = shutil.which("tclsh")
    assert tclsh, "tclsh: not installed; apt-get install tcl"
    command = [tclsh, *standin(whole, scratch), "--", "build.tcl"]
    texts = {n: (folder / n).read_text() for n in ("design.tcl", "moevit.xdc", "build.tcl")}

    def run(file: str, text: str) -> str:
        shutil.rmtree(folder / "project", ignore_errors=True)
        (folder / file).write_text(text)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        (folder / file).write_text(texts[file])
        assert done.returncode == 0 or done.stderr or "MOEVIT error" in done.stdout
        return "" if done.returncode == 0 else (done.stderr or done.stdout)

    run.texts = texts  # type: ignore[attr-defined]
    run.name = request.param  # type: ignore[attr-defined]
    yield run


def statements(text: str) -> list[str]:
    """Of a script: lines, those that go on as one."""
    return re.findall(r"(?:.*\\\n)*.*\n", text)


def test_every_statement_is_needed(build: Callable[[str, str], str]) -> None:
    whole = build.texts["design.tcl"]  # type: ignore[attr-defined]
    assert build("design.tcl", whole) == ""
    parts = statements(whole)
    assert len(parts) > 25
    for n, part in enumerate(parts):
        left = "".join(parts[:n] + parts[n + 1 :])
        assert build("design.tcl", left), f"nobody missed: {part}"


def test_every_parameter_is_needed_and_known(build: Callable[[str, str], str]) -> None:
    whole = build.texts["design.tcl"]  # type: ignore[attr-defined]
    found = re.findall(r"  CONFIG\.\w+ \{.*\} \\\n", whole)
    assert len(found) > 10
    for line in found:
        assert build("design.tcl", whole.replace(line, "", 1)), f"nobody missed: {line}"
        name = line.split()[0]
        wrong = line.replace(name, name[:-1] + "_" + name[-1])
        said = build("design.tcl", whole.replace(line, wrong, 1))
        assert f"unknown parameter {wrong.split()[0]}" in said


def test_every_pin_and_cell_is_known(build: Callable[[str, str], str]) -> None:
    whole = build.texts["design.tcl"]  # type: ignore[attr-defined]
    spots = [m.span(1) for m in re.finditer(r"\[get_bd_\w+ ([\w/]+)\]", whole)]
    assert len(spots) > 35
    for start, end in spots:
        for name in (whole[start : end - 1] + "z", "z" + whole[start + 1 : end]):
            wrong = whole[:start] + name + whole[end:]
            assert build("design.tcl", wrong), f"nobody noticed: {name}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("reset_0/peripheral_aresetn", "reset_0/peripheral_reset", "is a resetn, .* a reset"),
        ("moevit_0/irq", "reset_0/mb_reset", "is a interrupt, .* a reset"),
        ("0/aclk]\n", "0/aclk] [get_bd_pins moevit_0/irq]\n", "is an output, driven by"),
        ("moevit_0/aresetn]\n", "moevit_0/aresetn] [get_bd_pins moevit_0/aclk]\n", "driven by"),
        ("[moevit_newest smartconnect]", "xilinx.com:ip:smartconnekt:1.0", "no IP"),
        ("[moevit_newest smartconnect]", "[moevit_newest axi_smc]", "IP axi_smc: this Vivado"),
        ("_DATA_WIDTH {128}", "_DATA_WIDTH {64}", "width 128 and 64"),
        ("_DATA_WIDTH {128}", "_DATA_WIDTH {96}", "is 96; expected 32 64 128"),
        ("REF_CTRL__FREQMHZ {100}", "REF_CTRL__FREQMHZ {99}", "99 MHz, expected 100"),
        ("-offset 0xa0000000", "-offset 0x80000000", "outside what processor_0/Data reaches"),
        ("-offset 0xa0000000", "-offset 0xa0000800", "not aligned"),
        ("-range 0x1000 ", "-range 0x2000 ", "8192 bytes of 4096"),
        ("-range 0x80000000", "-range 0x100000000", "bytes of"),
        ("HP1_DDR_LOW", "HP1_QSPI", "2147483648 bytes of 0x20000000"),
        ("SAXIGP3/HP1_DDR_LOW", "SAXIGP2/HP0_DDR_LOW", "does not reach"),
        ("-target_address_space", "-target_adress_space", "unknown option"),
        ("validate_bd_design", "validate_bd_desing", "unknown command validate_bd_desing"),
        ("clocks_0/clk2x", "clocks_0/clk", "clk2x: connected to nothing"),
        ("processor_0/saxihp0_fpd_aclk", "processor_0/saxihpc0_fpd_aclk", "no pins"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    build: Callable[[str, str], str], old: str, new: str, said: str
) -> None:
    if build.name != "zcu104":  # type: ignore[attr-defined]
        pytest.skip("the other family has other names")
    whole = build.texts["design.tcl"]  # type: ignore[attr-defined]
    assert old in whole
    assert re.search(said, build("design.tcl", whole.replace(old, new, 1)))


def test_twice_is_too_often(build: Callable[[str, str], str]) -> None:
    parts = statements(build.texts["design.tcl"])  # type: ignore[attr-defined]
    for part in parts:
        if part.startswith(("connect_bd", "create_bd_cell", "assign_bd_address")):
            again = "".join(parts).replace(part, part * 2, 1)
            said = build("design.tcl", again)
            assert re.search("driven by|connected twice|is there already|overlap", said), part


def test_clocks_are_balanced_together(build: Callable[[str, str], str]) -> None:
    if build.name != "zcu104":  # type: ignore[attr-defined]
        pytest.skip("no MMCM")
    whole = build.texts["moevit.xdc"]  # type: ignore[attr-defined]
    parts = [part for part in statements(whole) if not part.startswith("#")]
    assert len(parts) == 2
    for part in parts:
        assert "in 0 clock delay groups" in build("moevit.xdc", whole.replace(part, ""))
    other = whole.replace("GROUP moevit", "GROUP other", 1)
    assert "several clock delay groups" in build("moevit.xdc", other)
    assert "nothing matches" in build("moevit.xdc", whole.replace("buffer_clk2x", "buffer_clk3x"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("launch_runs synth_1", "launch_run synth_1"),
        ("-report_unconstrained", "-report_unconstraint"),
        ("STEPS.PHYS_OPT_DESIGN", "STEPS.PHYSOPT_DESIGN"),
        ("open_run $best", ""),
        ("moevit_wait synth_1", "moevit_wait synth_2"),
        ("source design.tcl", ""),
        ("set_property used_in_synthesis", "set_property used_in_sythesis"),
    ],
)
def test_the_run_itself_is_checked(build: Callable[[str, str], str], old: str, new: str) -> None:
    whole = build.texts["build.tcl"]  # type: ignore[attr-defined]
    assert old in whole
    assert build("build.tcl", whole.replace(old, new, 1))
