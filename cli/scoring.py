"""Any backend on the validation pictures, and how far it falls behind the float model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moevit import model as model_package
from moevit.model.evaluate import Backend, Results, evaluate, float_backend
from moevit.model.metrics import PRIMARY, delta_m
from moevit.quant.golden import Golden
from moevit.sim import cache
from moevit.sim.device import Result
from moevit.sim.pool import DevicePool

from .comparison import device_maker, expected_cycles
from .errors import UserError
from .workload import Workload

__all__ = ["score"]

_BATCH = 20

Report = Callable[[str, float], None]


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


def _golden(workload: Workload, tasks: Sequence[str]) -> Backend:
    golden = Golden(workload.network)

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


def _float_results(
    workload: Workload, tasks: Sequence[str], images: int, report: Report
) -> Results:
    """The float model's scores, from the cache when they are known."""
    folder = Path(str(model_package.__file__)).parent
    config = workload.model_config
    pictures, images, about = workload.source.validation(config, images)
    key = cache.digest(
        workload.path.read_bytes(), cache.source_digest(folder), json.dumps([about, images, *tasks])
    )

    def make(entry: Path) -> None:
        results = evaluate(
            float_backend(workload.model),
            config,
            tasks=tasks,
            source=pictures,
            batch=_BATCH,
            on_progress=lambda done: report(f"float model ({done}/{images})", done / images),
        )
        (entry / "results.json").write_text(json.dumps(results))

    path = cache.entry("scores", key, make) / "results.json"
    results: Results = json.loads(path.read_text())
    return results


def score(
    workload: Workload,
    tasks: Sequence[str],
    backend: str,
    images: int,
    *,
    jobs: int = 2,
    report: Report = lambda _what, _share: None,
) -> tuple[Results, float | None]:
    """Metrics of ``tasks`` on the first ``images`` validation pictures of the workload's source,
    and delta-m in percent.

    Delta-m is M3ViT's, with the float model on the same pictures as the reference: below 0 is worse
    than float. None for a network without a float model.
    """
    config = workload.model_config
    chosen = tuple(config.task(name) for name in tasks)
    for task in chosen:
        if task.kind not in PRIMARY:
            raise UserError(f"Task {task.name} of kind {task.kind} has no truth to score it on")
    share = 0.0 if workload.quantised else 0.3 if backend != "torch" else 1.0
    reference = None
    if not workload.quantised or backend == "torch":
        reference = _float_results(workload, tasks, images, lambda w, s: report(w, share * s))
    if backend == "torch":
        assert reference is not None
        return reference, 0.0
    results = _device_results(
        workload, tasks, backend, images, jobs, lambda w, s: report(w, share + (1 - share) * s)
    )
    if reference is None:
        return results, None
    kinds = {task.name: task.kind for task in chosen}
    return results, delta_m(results, reference, kinds)


def _device_results(
    workload: Workload,
    tasks: Sequence[str],
    backend: str,
    images: int,
    jobs: int,
    report: Report,
) -> Results:
    config = workload.model_config
    pictures, images, _ = workload.source.validation(config, images)
    total = expected_cycles(workload, tasks) * images

    def on_cycles(cycles: int) -> None:
        report(f"{images} pictures on {backend}", min(cycles / total, 0.99))

    def run(scored: Backend) -> Results:
        return evaluate(
            scored,
            config,
            tasks=tasks,
            source=pictures,
            batch=_BATCH,
            on_progress=lambda done: report(f"{images} pictures on {backend}", done / images),
        )

    if backend == "golden":
        return run(_golden(workload, tasks))
    make = device_maker(workload, backend, report)
    with DevicePool(make, workload.program, jobs, on_cycles=on_cycles) as pool:
        return run(_pooled(pool, tasks))
