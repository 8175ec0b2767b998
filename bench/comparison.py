"""Images through a device, and through the models that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moevit.model.config import TOKEN_KINDS
from moevit.quant.analysis.fit import Fit, fit_of
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.golden import Golden
from moevit.quant.typing import Array, Report, silent
from moevit.sim.counters import Performance, performance
from moevit.sim.device import Result
from moevit.sources import in_scenes
from moevit.workload import Workload

if TYPE_CHECKING:
    from moevit.model.scenes.render import Sample
    from moevit.traces import Recorder

__all__ = ["NamedImage", "Outcome", "compare", "expected_cycles"]


_TYPICAL_UTILISATION = 0.7  # only to tell how far a simulation is


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedImage:
    """An image ``(H, W, 3)`` uint8 of the model's size, and its truth where that is known."""

    name: str
    pixels: Array
    truth: Sample | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """One image under one task.

    ``difference`` is empty where all integers are the golden model's, otherwise it tells the first
    that is not; None from a device that computes in floats, and where nothing is known to compare.
    ``device`` and ``reference`` are the decoded predictions (:mod:`moevit.model.tasks`) of the
    device and of the float model; of the kinds that are no images, tokens ``(N, D)`` or logits
    ``(classes,)`` in floats.
    """

    image: str
    task: str
    kind: str
    difference: str | None
    performance: Performance | None
    device: Array
    reference: Array | None
    truth: Array | None
    metrics: dict[str, dict[str, float] | None]

    @property
    def bit_exact(self) -> bool | None:
        """Whether the device's integers are the golden model's."""
        return None if self.difference is None else not self.difference

    def to_dict(self) -> dict[str, Any]:
        """What `moevit run --json` says of it."""
        figures = (
            dict.fromkeys(Performance.__dataclass_fields__)
            if self.performance is None
            else asdict(self.performance)
        )
        about = {"image": self.image, "task": self.task, "bit_exact": self.bit_exact}
        return {**about, **figures, "metrics": self.metrics}


def expected_cycles(workload: Workload, tasks: Sequence[str]) -> int:
    """About how many cycles one image takes, for progress bars."""
    macs = sum(workload.program.linked.task(task).useful_macs for task in tasks)
    return max(1, round(macs / workload.config.array.macs / _TYPICAL_UTILISATION))


def _difference(found: Array | None, expected: Array) -> str | None:
    if found is None:
        return None
    if found.shape != expected.shape:
        return f"the shape is {found.shape}, not {expected.shape}"
    wrong = np.argwhere(found != expected)
    if not len(wrong):
        return ""
    at = tuple(int(i) for i in wrong[0])
    return (
        f"{len(wrong)} of {expected.size} values differ, "
        f"first at {at}: {int(found[at])}, not {int(expected[at])}"
    )


def compare(
    workload: Workload,
    images: Sequence[NamedImage],
    tasks: Sequence[str],
    backend: str,
    *,
    dial: Dial = AS_COMPILED,
    jobs: int = 2,
    recorder: Recorder | None = None,
    report: Report = silent,
) -> list[list[Outcome]]:
    """Every image under every task on ``backend``, against the golden and the float model.

    The golden model has the frames' ``dial``, the float model every expert. A list for each image,
    in the order of ``tasks``. The golden and the float model are computed while the device works.
    ``recorder`` gets what the accelerator of ``sim`` does. ``DeviceError`` where it gave up.
    """
    total = expected_cycles(workload, tasks) * len(images)
    frames = len(tasks) * len(images)
    heading = f"{frames} frame{'s' if frames > 1 else ''} on {backend}"
    golden = None if workload.reference is None else Golden(workload.reference.dialled(dial))

    def on_cycles(cycles: int) -> None:
        report(heading, min(cycles / total, 0.99))

    pool = workload.pool(backend, min(jobs, frames), on_cycles, report, recorder)
    outcomes = []
    with pool:
        running = [pool.submit(p.pixels, task, dial) for p in images for task in tasks]
        done = iter(running)
        for n, image in enumerate(images):
            exact, fit = ({}, None) if golden is None else _golden(golden, image, tasks)
            floats = _float_planes(workload, image, tasks)
            outcomes.append(
                [
                    _outcome(
                        workload,
                        image,
                        next(done).result(),
                        exact.get(task),
                        floats.get(task),
                    )
                    for task in tasks
                ]
            )
            integers = any(outcome.difference is not None for outcome in outcomes[-1])
            if integers and fit is not None and not fit.good:
                workload.note(
                    f"{image.name} is unlike what {workload.name} was calibrated on: {fit}; "
                    "quantize --calibration PATH takes pictures like it"
                )
            report(heading, (n + 1) / len(images))
    return outcomes


def _golden(
    golden: Golden, image: NamedImage, tasks: Sequence[str]
) -> tuple[dict[str, Array], Fit]:
    """The golden model's outputs by task, and how well the picture fits the calibration."""
    first = golden.run(image.pixels, tasks[0], trace=True)
    exact = {tasks[0]: first.output}
    if rest := tasks[1:]:
        found = golden.run_batch(image.pixels[None], rest)
        exact |= {task: found[task][0].output for task in rest}
    return exact, fit_of(first.trace, golden.network.meta.get("clipped"))


def _float_planes(workload: Workload, image: NamedImage, tasks: Sequence[str]) -> dict[str, Array]:
    """The float model's outputs by task; none where only the quantised network is there."""
    if workload.quantised:
        return {}
    import torch

    torch.set_num_threads(1)  # the simulators have the other processors; waiting threads spin
    return {task: workload.model.forward(image.pixels[None], task)[0] for task in tasks}


def _values(workload: Workload, result: Result) -> Array:
    """Tokens or logits in floats, as the float model gives them."""
    if result.output is None:
        if result.planes is None:
            raise ValueError(f"Task {result.task} gave neither integers nor floats")
        return result.planes
    about = workload.program.linked.task(result.task).output
    values: Array = result.output * np.float32(about.scale)
    return values[0] if workload.model_config.task(result.task).kind == "classification" else values


def _outcome(
    workload: Workload,
    image: NamedImage,
    result: Result,
    exact: Array | None,
    floats: Array | None,
) -> Outcome:
    from moevit.model.evaluation.metrics import scorer
    from moevit.model.tasks import predict

    model, task = workload.model_config, workload.model_config.task(result.task)
    reference, truth = floats, None
    if task.kind in TOKEN_KINDS:
        device = _values(workload, result)
    else:
        if result.planes is None:
            raise ValueError(f"Task {result.task} has no head to show")
        device = predict(task.kind, result.planes[None], model.image)[0]
        reference = None if floats is None else predict(task.kind, floats[None], model.image)[0]
        if image.truth is not None and in_scenes(task):
            truth = getattr(image.truth, task.kind)

    def score(prediction: Array | None) -> dict[str, float] | None:
        if prediction is None or truth is None:
            return None
        tally = scorer(task.kind, task.channels)
        tally.update(prediction[None], truth[None])
        return tally.result()

    cost = None
    if result.counters is not None:
        macs = workload.program.linked.task(result.task).useful_macs
        cost = performance(result.counters, workload.config, macs)
    return Outcome(
        image=image.name,
        task=result.task,
        kind=task.kind,
        difference=None if exact is None else _difference(result.output, exact),
        performance=cost,
        device=device,
        reference=reference,
        truth=truth,
        metrics={"float": score(reference), "device": score(device)},
    )
