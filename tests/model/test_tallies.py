"""Scores that keep their images: the same metrics as a whole set, and paired intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moevit.model.config import ModelConfig
from moevit.model.evaluation.evaluate import evaluate
from moevit.model.evaluation.tallies import Tallies, paired, tally
from moevit.model.scenes.render import Sample
from moevit.model.training.data import samples
from moevit.quant.analysis.bootstrap import draws

COUNT = 12


class Noisy:
    """Raw outputs near the truth; the worse, the larger ``noise``."""

    def __init__(self, config: ModelConfig, truths: list[Sample], noise: float) -> None:
        self.truths = {sample.image.tobytes(): sample for sample in truths}
        self.config, self.noise = config, noise

    def __call__(self, images: Any, task: str) -> Any:
        return np.stack([self.one(image, self.config.task(task)) for image in images])

    def one(self, image: Any, task: Any) -> Any:
        truth = getattr(self.truths[image.tobytes()], task.kind)
        rng = np.random.default_rng(list(image.tobytes()[:8]))
        if task.kind == "segmentation":
            raw = (truth[None] == np.arange(task.channels)[:, None, None]).astype(np.float32)
        elif task.kind == "normals":
            raw = truth.transpose(2, 0, 1)
        elif task.kind == "depth":
            raw = np.log(truth)[None]
        else:
            raw = 2.0 * truth[None] - 1.0
        return (raw + self.noise * rng.normal(size=raw.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def scenes(micro: ModelConfig) -> list[Sample]:
    return list(samples("validation", COUNT, *micro.image))


@pytest.fixture(scope="module")
def found(micro: ModelConfig, scenes: list[Sample]) -> dict[float, Tallies]:
    return {n: tally(Noisy(micro, scenes, n), micro, scenes, batch=5) for n in (0.5, 0.55, 1.5)}


def test_the_sum_is_the_score_of_the_set(
    micro: ModelConfig, scenes: list[Sample], found: dict[float, Tallies]
) -> None:
    whole = evaluate(Noisy(micro, scenes, 0.5), micro, count=COUNT, batch=COUNT)
    assert found[0.5].images == COUNT
    for task, metrics in found[0.5].results().items():
        assert metrics == pytest.approx(whole[task], rel=1e-12)
    # Weights count images: the first one alone.
    first = tally(Noisy(micro, scenes, 0.5), micro, scenes[:1])
    assert found[0.5].results(np.eye(COUNT)[0]) == first.results()


def test_paired_intervals(found: dict[float, Tallies]) -> None:
    same = paired(found[0.5], found[0.5], resamples=50)
    assert (same.delta_m.value, same.delta_m.low, same.delta_m.high) == (0, 0, 0)
    little, much = (paired(found[n], found[0.5], resamples=200) for n in (0.55, 1.5))
    for change in (little.delta_m, much.delta_m, *much.change.values()):
        assert change.low <= change.value <= change.high < 0
    assert much.delta_m.high < little.delta_m.low
    assert little.delta_m.value == pytest.approx(
        np.mean([change.value for change in little.change.values()])
    )
    # Paired: the difference is known better than the scores that it is a difference of.
    scores = [found[0.5].results(w)["depth"]["rmse"] for w in np.eye(COUNT) * COUNT]
    width = little.change["depth"].high - little.change["depth"].low
    assert width < 100 * np.std(scores) / np.mean(scores)
    assert little.to_dict()["tasks"]["edges"]["metric"] == "f"


def test_intervals_of_metrics(found: dict[float, Tallies]) -> None:
    """The interval is that of the same draws, computed metric by metric from the definition."""
    tallies = found[0.5]
    intervals = tallies.intervals(resamples=100, seed=3)
    for task, metrics in tallies.results().items():
        assert intervals[task].keys() == metrics.keys()
        drawn = [tallies.results(weights)[task] for weights in draws(COUNT, 100, 3)]
        for name, value in metrics.items():
            low, high = np.percentile([one[name] for one in drawn], [2.5, 97.5])
            got = intervals[task][name]
            assert (got.value, got.low, got.high) == pytest.approx((value, low, high))


def test_kept_in_a_file(micro: ModelConfig, found: dict[float, Tallies], tmp_path: Path) -> None:
    found[0.5].save(tmp_path / "t.npz")
    tasks = ("normals", "segmentation")
    again = Tallies.load(tmp_path / "t.npz", micro, tasks)
    assert tuple(again.kinds) == tasks and again.images == COUNT
    whole = found[0.5].results()
    assert again.results() == {task: whole[task] for task in tasks}


def test_bad_pairs(micro: ModelConfig, scenes: list[Sample], found: dict[float, Tallies]) -> None:
    short = tally(Noisy(micro, scenes, 0.5), micro, scenes[:3])
    with pytest.raises(ValueError, match="need the same images and tasks, not 3 of segm"):
        paired(short, found[0.5])
    with pytest.raises(ValueError, match="needs at least one image"):
        tally(Noisy(micro, scenes, 0.5), micro, [])
