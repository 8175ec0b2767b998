"""Each unit on Verilator under cocotb, all streams stalling at random, against its reference."""

import random
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.compute import ComputeBench
from support.windows import Windows, window_cases

from moevit.hw.compute import gate, norm, softmax
from moevit.hw.config import preset
from moevit.hw.isa import ACTIVATED
from moevit.hw.transfer import data, weights
from moevit.sim.runner import run_bench, to_verilog

pytestmark = pytest.mark.slow

UNITS = {
    "norm": norm.NormEngine,
    "gate": gate.Gate,
    "softmax": softmax.Softmax,
    "weights": weights.WeightEngine,
    "data": data.DataEngine,
    "compute": ComputeBench,
}


SEARCH = [Path(__file__).parent, Path(__file__).parent.parent]


@pytest.mark.parametrize("name", UNITS)
def test_unit(name: str) -> None:
    config = preset("micro")
    for seed in (1, 2):
        assert run_bench(UNITS[name](config), f"bench_{name}", search=SEARCH, seed=seed)


@pytest.mark.parametrize("seed", [1, 2])
def test_data_of_two_ports(seed: int) -> None:
    engine = data.DataEngine(
        preset("micro").but(array__inputs=16, array__outputs=8, memory__ports=2)
    )
    assert run_bench(engine, "bench_data", search=SEARCH, parameters={"ports": 2}, seed=seed)


@cache
def _engine() -> str:
    return to_verilog(ComputeBench(preset("micro")), "top")


@pytest.mark.parametrize("seed", [1, 2])
def test_gemms(seed: int) -> None:
    """One tile or several, one word or several, one output tile or several; in any order."""
    sizes = [(t, *words) for t in (1, 2, 5) for words in ((1, 1), (3, 2), (2, 5))]
    modes = ("ACT8", *(d.name for d in ACTIVATED), "RESIDUAL")
    cases = [(*size, mode) for mode in modes for size in sizes]
    random.Random(seed).shuffle(cases)
    parameters = {"cases": cases, "seed": seed}
    assert run_bench(_engine(), "bench_gemms", search=SEARCH, parameters=parameters, seed=seed)


@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(cases=st.lists(window_cases(), min_size=6, max_size=10), seed=st.integers(0, 1000))
def test_windows(cases: list[Windows], seed: int) -> None:
    """Windows of maps: RTL, interpreter and arrays agree."""
    parameters = {"cases": [asdict(case) for case in cases], "seed": seed}
    assert run_bench(_engine(), "bench_windows", search=SEARCH, parameters=parameters, seed=seed)
