"""The shipped model keeps its accuracy in integers; docs/accuracy.md has all validation scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moevit.model.checkpoint import load_shipped
from moevit.model.evaluation.evaluate import float_backend
from moevit.model.evaluation.tallies import Tallies, paired, tally
from moevit.model.training.data import samples
from moevit.quant.analysis.report import compare
from moevit.quant.float.network import FloatNetwork
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.ptq.calibrate import Calibration, calibrate
from moevit.quant.ptq.quantize import Options, quantise

IMAGES = 32
BOUNDS = {8: 0.3, 4: 1.0}
"""Delta-m may fall by so many percent, by bits of the experts' weights."""


def backend(network: Network) -> Any:
    golden = Golden(network)
    found: dict[bytes, Any] = {}

    def run(images: Any, task: str) -> Any:
        key = images.tobytes()
        if key not in found:
            found.clear()
            found[key] = golden.run_batch(images)
        return golden.dequantise(np.stack([r.output for r in found[key][task]]), task)

    return run


@pytest.fixture(scope="module")
def shipped() -> tuple[FloatNetwork, Calibration, Any, Tallies]:
    from moevit.model.export.float_network import to_float_network

    model = load_shipped("nano")
    net = to_float_network(model)
    images = [s.image for s in samples("calibration", 32, *model.config.image)]
    scenes = list(samples("validation", IMAGES, *model.config.image))
    reference = tally(float_backend(model), model.config, scenes)
    return net, calibrate(net, np.stack(images)), (model.config, scenes), reference


@pytest.mark.slow
@pytest.mark.parametrize("bits", BOUNDS)
def test_delta_m(bits: int, shipped: Any) -> None:
    net, stats, (config, scenes), reference = shipped
    quantised = quantise(net, stats, Options(expert_bits=bits))
    found = paired(tally(backend(quantised), config, scenes), reference, resamples=100)
    assert found.delta_m.value > -BOUNDS[bits]
    assert min(change.value for change in found.change.values()) > -4 * BOUNDS[bits]
    comparison = compare(net, quantised, np.stack([scene.image for scene in scenes[:4]]))
    for task in config.task_names:
        assert comparison.decibels(task, "head") > {8: 24, 4: 22}[bits]
        for agreement in comparison.routing[task].values():
            assert agreement.share().value > 0.95


def test_the_recorded_comparison() -> None:
    """bench/accuracy.json: the default method is within the bounds, its whole interval too."""
    path = Path(__file__).parents[2] / "bench" / "accuracy.json"
    found = json.loads(path.read_text())
    assert found["model"] == "nano" and found["images"] == 500
    rows = {(row["format"], row["method"]): row for row in found["rows"]}
    for bits, bound in BOUNDS.items():
        row = rows[f"W{bits}A8", "default"]
        assert row["delta_m"]["value"] > -bound and row["delta_m"]["low"] > -bound
        assert rows[f"W{bits}A8", "minmax"]["delta_m"]["value"] < 0.5
