"""The shipped model keeps its accuracy in integers: no task more than 1 % worse than float."""

import numpy as np
import pytest

from moevit.model.checkpoint import load_shipped
from moevit.model.export import to_float_network
from moevit.model.metrics import scorer
from moevit.model.scenes import Sample, scene
from moevit.model.tasks import predict
from moevit.quant.calibrate import calibrate
from moevit.quant.golden import Golden, dequantise
from moevit.quant.network import Head
from moevit.quant.ptq import quantise
from moevit.quant.report import compare

HIGHER = {"segmentation": "miou", "edges": "f", "saliency": "max_f"}
LOWER = {"depth": "rmse", "normals": "mean_angle"}
PICTURES = 32


def rendered(split: str, count: int) -> list[Sample]:
    return [scene(split, index, 64, 128) for index in range(count)]


@pytest.mark.slow
def test_no_task_is_more_than_one_percent_worse() -> None:
    model = load_shipped("nano")
    net = to_float_network(model)
    calibration = np.stack([sample.image for sample in rendered("calibration", 16)])
    quantised = quantise(net, calibrate(net, calibration))
    samples = rendered("validation", PICTURES)
    images = np.stack([sample.image for sample in samples])

    exact = net.run(images)
    results = Golden(quantised).run_batch(images)
    for task in model.config.tasks:
        head: Head = quantised.heads[task.name]
        integers = np.stack([result.output for result in results[task.name]])
        grid = net.geometry.grid
        outputs = {
            "float": dequantise(exact[task.name] / head.linear.scale, head, grid),
            "integer": dequantise(integers, head, grid),
        }
        truth = np.stack([getattr(sample, task.kind) for sample in samples])
        scores = {}
        for name, raw in outputs.items():
            tally = scorer(task.kind, task.channels)
            tally.update(predict(task.kind, raw, model.config.image), truth)
            scores[name] = tally.result()
        if task.kind in HIGHER:
            metric = HIGHER[task.kind]
            assert scores["integer"][metric] >= 0.99 * scores["float"][metric], task.name
        else:
            metric = LOWER[task.kind]
            assert scores["integer"][metric] <= 1.01 * scores["float"][metric], task.name

    comparison = compare(net, quantised, images[:4])
    for task in model.config.tasks:
        assert comparison.decibels(task.name, "head") > 22
        for agreement in comparison.routing[task.name].values():
            assert agreement.same_set > 0.95 * agreement.tokens
