"""Each unit on Verilator under cocotb, all streams stalling at random, against its reference."""

from pathlib import Path

import pytest
from support.compute import ComputeEngine

from moevit.hw import data, gate, norm, softmax, weights
from moevit.hw.config import preset
from moevit.sim.runner import run_bench

pytestmark = pytest.mark.slow

UNITS = {
    "norm": norm.Engine,
    "gate": gate.Unit,
    "softmax": softmax.Unit,
    "weights": weights.Engine,
    "data": data.Engine,
    "compute": ComputeEngine,
}


@pytest.mark.parametrize("name", UNITS)
def test_unit(name: str) -> None:
    config = preset("micro")
    for seed in (1, 2):
        search = [Path(__file__).parent, Path(__file__).parent.parent]
        assert run_bench(UNITS[name](config), f"bench_{name}", search=search, seed=seed)
