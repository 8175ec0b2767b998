"""Any backend on the validation images, and how far it falls behind the float model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moevit import model as model_package
from moevit.model.evaluation.evaluate import Backend, Results
from moevit.model.evaluation.metrics import PRIMARY
from moevit.model.evaluation.tallies import Tallies, paired, tally
from moevit.quant.analysis.bootstrap import LEVEL, RESAMPLES, Estimate
from moevit.quant.errors import UserError
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.typing import Report, part_of, silent
from moevit.sim import cache
from moevit.sim.device import Result
from moevit.sim.pool import DevicePool
from moevit.sources import SCENES
from moevit.workload import Workload

from .comparison import expected_cycles

__all__ = ["Scores", "check_tasks", "golden_backend", "score"]

_BATCH = 20


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What scoring found.

    ``tasks[task][metric]`` are the metrics with their intervals over the choice of images.
    ``delta_m`` is M3ViT's, in percent, against the float model on the same images, below 0 worse
    than it; its interval is paired. None without a float model, or where one of its metrics is 0.
    """

    images: int
    tasks: dict[str, dict[str, Estimate]]
    delta_m: Estimate | None

    @property
    def results(self) -> Results:
        """The metrics alone."""
        return {
            task: {name: found.value for name, found in metrics.items()}
            for task, metrics in self.tasks.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types. Of one image nothing can be drawn: its intervals are None."""

        def ends(found: Estimate) -> list[float]:
            return [found.low, found.high]

        interval: dict[str, Any] | None = None
        if self.images > 1:
            interval = {
                "level": LEVEL,
                "draws": RESAMPLES,
                "tasks": {t: {m: ends(e) for m, e in ms.items()} for t, ms in self.tasks.items()},
                "delta_m": None if self.delta_m is None else ends(self.delta_m),
            }
        return {
            "images": self.images,
            "tasks": self.results,
            "delta_m": None if self.delta_m is None else self.delta_m.value,
            "interval": interval,
        }


class _AllTasks:
    """A backend that computes a batch under all tasks when it sees it first."""

    def __init__(self, run: Callable[[Any], dict[str, Any]]) -> None:
        self._run = run
        self._images: Any = None
        self._raw: dict[str, Any] = {}

    def __call__(self, images: Any, task: str) -> Any:
        if images is not self._images:
            self._raw = self._run(images)
            self._images = images
        return self._raw[task]


def golden_backend(network: Network, tasks: Sequence[str]) -> Backend:
    """The golden model of a network as a backend, which takes a batch under all tasks at once."""
    golden = Golden(network)

    def run(images: Any) -> dict[str, Any]:
        found = golden.run_batch(images, tasks)
        return {
            task: golden.dequantise(np.stack([r.output for r in results]), task)
            for task, results in found.items()
        }

    return _AllTasks(run)


def _planes(result: Result) -> Any:
    if result.planes is None:
        raise ValueError(f"Task {result.task} has no head to score")
    return result.planes


def _pooled(pool: DevicePool, tasks: Sequence[str]) -> Backend:
    def run(images: Any) -> dict[str, Any]:
        results = pool.map((image, task) for task in tasks for image in images)
        planes = [_planes(result) for result in results]
        return {
            task: np.stack(planes[n * len(images) : (n + 1) * len(images)])
            for n, task in enumerate(tasks)
        }

    return _AllTasks(run)


def _float_tallies(workload: Workload, tasks: Sequence[str], count: int, report: Report) -> Tallies:
    """The float model's scores, from the cache when they are known."""
    folder = Path(str(model_package.__file__)).parent
    config = workload.model_config
    images, count, about = workload.source.validation(config, count)
    key = cache.digest(
        workload.model.content, cache.source_digest(folder), json.dumps([about, count, *tasks])
    )
    name = "counts.npz"

    def make(entry: Path) -> None:
        tally(
            workload.model.forward,
            config,
            images,
            tasks=tasks,
            batch=_BATCH,
            on_progress=lambda done: report(f"float model ({done}/{count})", done / count),
        ).save(entry / name)

    return Tallies.load(cache.entry("scores", key, make) / name, config, tasks)


def check_tasks(workload: Workload, tasks: Sequence[str]) -> None:
    """``UserError`` for a task that the workload's images have no truth of."""
    for task in (workload.model_config.task(name) for name in tasks):
        if task.kind == "classification" and workload.source.data == SCENES:
            raise UserError(
                f"--data: rendered scenes have no truth for task {task.name}, classification; "
                "expected --data imagefolder --root DIR"
            )
        if task.kind not in PRIMARY:
            raise UserError(f"Task {task.name} of kind {task.kind} has no truth to score it on")


def score(
    workload: Workload,
    tasks: Sequence[str],
    backend: str,
    count: int,
    *,
    jobs: int = 2,
    report: Report = silent,
) -> Scores:
    """Metrics of ``tasks`` on the first ``count`` validation images of the workload's source,
    and delta-m, with their intervals."""
    check_tasks(workload, tasks)
    share = 0.0 if workload.quantised else 0.3 if backend != "torch" else 1.0
    reference = None
    if not workload.quantised or backend == "torch":
        reference = _float_tallies(workload, tasks, count, part_of(report, 0.0, share))
    if backend == "torch" and reference is not None:
        got = reference
    else:
        got = _device_tallies(
            workload, tasks, backend, count, jobs, part_of(report, share, 1 - share)
        )
    gain = None
    if reference is not None and _all_above_zero(reference):
        gain = paired(got, reference).delta_m
    return Scores(images=got.images, tasks=got.intervals(), delta_m=gain)


def _all_above_zero(reference: Tallies) -> bool:
    """Whether relative changes against a reference exist."""
    results = reference.results()
    return all(results[task][PRIMARY[kind]] for task, kind in reference.kinds.items())


def _device_tallies(
    workload: Workload,
    tasks: Sequence[str],
    backend: str,
    count: int,
    jobs: int,
    report: Report,
) -> Tallies:
    config = workload.model_config
    images, count, _ = workload.source.validation(config, count)
    total = expected_cycles(workload, tasks) * count

    def on_cycles(cycles: int) -> None:
        report(f"{count} images on {backend}", min(cycles / total, 0.99))

    def run(scored: Backend) -> Tallies:
        return tally(
            scored,
            config,
            images,
            tasks=tasks,
            batch=_BATCH,
            on_progress=lambda done: report(f"{count} images on {backend}", done / count),
        )

    if backend == "golden":
        return run(golden_backend(workload.network, tasks))
    with workload.pool(backend, jobs, on_cycles, report) as pool:
        return run(_pooled(pool, tasks))
