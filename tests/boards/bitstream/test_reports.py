"""Reports of several versions and both families, and what is no report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import vivado_reports as samples

from moevit.boards.bitstream import reports
from moevit.boards.bitstream.bitfile import parse, to_bin
from moevit.boards.bitstream.judge import _by_block, worst_by_block
from moevit.boards.bitstream.reports import ReportError, block_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.rpt"


@pytest.mark.parametrize("version", ["2020.2", "2021.2", "2023.2", "2025.1"])
def test_utilisation(file: Path, version: str) -> None:
    file.write_text(samples.utilisation(version))
    assert reports.version(file) == version
    found = reports.read_utilisation(file)
    assert found == {"used": samples.USED, "available": samples.HAS}


def test_utilisation_of_the_7_series(file: Path) -> None:
    file.write_text(samples.utilisation(seven=True))
    found = reports.read_utilisation(file)
    assert found["used"] == samples.USED | {"URAM": 0.0}
    assert found["available"]["URAM"] == 0.0


def test_resources_by_block(file: Path) -> None:
    file.write_text(samples.hierarchy())
    found = _by_block(reports.read_hierarchy(file))
    assert {name: (v["LUT"], v["DSP"], v["BRAM36"], v["URAM"]) for name, v in found.items()} == {
        "moevit": (500.0, 0.0, 0.0, 0.0),
        "core": (47000.0, 166.0, 140.5, 20.0),
        "compute": (3000.0, 0.0, 0.0, 0.0),
        "array": (11000.0, 0.0, 16.0, 0.0),
        "array.dot": (6000.0, 1024.0, 0.0, 0.0),
        "weights": (11000.0, 0.0, 106.0, 64.0),
        "control": (500.0, 0.0, 0.0, 0.0),
    }


@pytest.mark.parametrize("version", ["2020.2", "2025.1"])
def test_timing(file: Path, version: str) -> None:
    file.write_text(samples.timing(version))
    found = reports.read_timing(file)
    assert found.met
    assert (found.wns, found.whs, found.wpws, found.failing) == (0.051, 0.012, 0.45, 0)
    assert found.periods == {"clk_pl_0": 10.0, "made": 1.667, "clk": 3.333}
    assert [path.slack for path in found.paths] == [0.051, 0.073, 0.012]
    assert (found.paths[0].delay, found.paths[0].levels) == (3.1, 6)
    worst = worst_by_block(found)
    assert list(worst) == ["array.dot", "array", "weights", "semaphores"]
    assert worst["weights"].blocks == ("weights", "semaphores")


@pytest.mark.parametrize(
    "changes", [{"slack": -0.001}, {"hold": -0.2}, {"unclocked": 3}], ids=lambda c: next(iter(c))
)
def test_timing_that_is_not_met(file: Path, changes: dict[str, float]) -> None:
    file.write_text(samples.timing(**changes))  # type: ignore[arg-type]
    assert not reports.read_timing(file).met


def test_power_and_rules(file: Path) -> None:
    file.write_text(samples.power())
    found = reports.read_power(file)
    assert (found.total, found.dynamic, found.static) == (7.513, 6.79, 0.723)
    assert (found.junction, found.confidence) == (32.3, "Medium")
    file.write_text(samples.drc(error=True))
    rules = reports.read_drc(file)
    assert rules.violations == {"Warning": 5, "Error": 1}
    assert rules.errors == ("MDRV-1: Multiple Driver Nets",)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (reports.read_utilisation, samples.utilisation),
        (reports.read_timing, samples.timing),
        (reports.read_power, samples.power),
        (reports.read_hierarchy, samples.hierarchy),
        (reports.read_drc, samples.drc),
    ],
)  # fmt: skip
def test_half_a_report_is_an_error_with_its_name(file: Path, read, text) -> None:
    with pytest.raises(ReportError, match=r"some\.rpt: no such report"):
        read(file)
    whole = text()
    for content in ("", "hello", whole[: len(samples.head("2023.2", ""))]):
        file.write_text(content)
        with pytest.raises(ReportError, match=r"some\.rpt: is no report that is known"):
            read(file)


def test_blocks_have_the_names_of_the_estimate() -> None:
    top = "moevit_bd_i/moevit_0/inst/accelerator"
    assert block_of(f"{top}/core/compute/array/dot/dsp_0_0_1/DSP_A_B_DATA_INST/CLK") == "array.dot"
    assert block_of(f"{top}/core/compute/array/sum_reg[1]/C") == "array"
    assert block_of(f"{top}/core/data$488/load_unit/x_reg/D") == "data"
    assert block_of(f"{top}/core/take_reg/D") == "core"
    assert block_of(f"{top}/core/compute/take_reg/D") == "compute"
    assert block_of(f"{top}/core/product_reg/DSP_OUTPUT_INST/ALU_OUT[0]") == "core"
    assert block_of(f"{top}/core/compute/gate/list_reg_0_63/RAMA_D1/CLK") == "gate"
    assert block_of(f"{top}/counter_cycles_reg[3]/CE") == "moevit"
    assert block_of(f"{top}/control/irq_reg/D") == "control"
    assert block_of("moevit_bd_i/processor_0/inst/PS8_i/MAXIGP0ACLK") == "processor_0"


def test_bitstreams() -> None:
    data = samples.bitstream()
    found = parse(data)
    assert found.part == "xczu7ev-ffvc1156-2-e"
    assert found.data[16:20] == bytes.fromhex("aa995566")
    swapped = to_bin(data)
    assert swapped[16:20] == bytes.fromhex("665599aa")
    again = np.frombuffer(swapped, "<u4").astype(">u4").tobytes()
    assert again == found.data
    for wrong, said in (
        (b"", "header"), (data[:20], "field 'b'"), (data[:-4], "cut short"),
        (data.replace(bytes.fromhex("aa995566"), bytes(4)), "synchronisation"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            parse(wrong)
