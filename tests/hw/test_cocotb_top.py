"""The whole accelerator under cocotb: cocotbext-axi on every port, all channels pausing."""

from pathlib import Path

import pytest

from moevit.hw import verilog
from moevit.hw.config import preset
from moevit.sim.runner import run_bench

pytestmark = pytest.mark.slow


def test_frames() -> None:
    text = verilog.generate(preset("micro"))
    search = [Path(__file__).parent, Path(__file__).parent.parent]
    assert run_bench(text, "bench_top", top=verilog.TOP_NAME, search=search, seed=4) == 1
