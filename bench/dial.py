"""One program at several speeds: what a dial costs in accuracy, and what it saves in cycles.

Scores are those of the golden model, on all images; cycles those of the RTL, on the first few of
them, whose results are compared with the golden model's. What is found of a point is kept
in the cache, so that an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moevit import hw as hw_package
from moevit import model as model_package
from moevit import quant as quant_package
from moevit.quant.analysis.bootstrap import LEVEL
from moevit.quant.dial import Dial
from moevit.quant.errors import CheckFailedError, UserError
from moevit.quant.golden import Golden
from moevit.quant.network import Moe
from moevit.quant.typing import Report, part_of, silent
from moevit.sim import cache
from moevit.sim.pool import DevicePool
from moevit.workload import Workload

from .frames import counted as counted_of
from .scoring import check_tasks, golden_backend

if TYPE_CHECKING:
    from moevit.model.evaluation.tallies import Tallies

__all__ = ["COMPILED", "FRAMES", "chosen_points", "label", "measure_dial"]

COMPILED: dict[str, float] = {}
"""The point without a dial."""
FRAMES = 4
"""Frames of each point and task whose cycles are counted, by default."""

_BATCH = 20
_TOP_P = (0.4, 0.6, 0.8)
_MIN_SCORE = (0.2,)

Point = dict[str, float]
"""What a dial is asked for, by the names of :meth:`~moevit.quant.dial.Dial.of`."""


def label(point: Point) -> str:
    """A point's name for people."""
    words = [f"{name.replace('_', '-')} {value:g}" for name, value in point.items()]
    return ", ".join(words) or "as compiled"


def chosen_points(texts: Sequence[str], compiled: Dial) -> list[Point]:
    """As compiled, and what ``NAME=VALUE,...`` list, or a range of each that the program allows.

    Raises ``UserError`` for other names and values, and for more than was compiled.
    """
    if not compiled.top_k:
        raise UserError("--dial: nothing in the program has experts")
    found: list[Point] = [COMPILED]
    for text in texts:
        name, given = _read(text)
        found += [{name: value} for value in given]
    if not texts:
        usual = {"top_p": _TOP_P, "min_score": _MIN_SCORE, "top_k": range(1, compiled.top_k)}
        found += [{n: v} for n, values in usual.items() for v in values if _allowed(n, v, compiled)]
    for point in found:
        try:
            Dial.of(**point).check(compiled)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(f"--points: {error}") from None
    return found


def _read(text: str) -> tuple[str, list[float]]:
    parsed = re.fullmatch(r"(top_p|min_score|top_k)=([\d.,]+)", text.replace("-", "_"))
    try:
        if parsed is None:
            raise ValueError
        name, kind = parsed[1], int if parsed[1] == "top_k" else float
        return name, [kind(value) for value in parsed[2].split(",")]
    except ValueError:
        raise UserError(
            f"--points: expected top_p=P,..., min_score=S,... or top_k=K,..., not {text!r}"
        ) from None


def _allowed(name: str, value: float, compiled: Dial) -> bool:
    try:
        Dial.of(**{name: value}).check(compiled)  # type: ignore[arg-type]
    except ValueError:
        return False
    return True


def measure_dial(
    workload: Workload,
    tasks: Sequence[str],
    points: Sequence[Point],
    count: int,
    *,
    frames: int = FRAMES,
    jobs: int = 2,
    report: Report = silent,
) -> dict[str, Any]:
    """Primary metrics on ``count`` validation images and mean cycles on ``frames``, by point.

    The first of ``points`` is what the others' relative changes count from. Returns plain JSON
    types. ``CheckFailedError`` where the RTL's integers are not the golden model's.
    """
    from moevit.model.evaluation.metrics import PRIMARY
    from moevit.model.evaluation.tallies import paired

    config = workload.model_config
    check_tasks(workload, tasks)
    tallies: list[Tallies] = []
    cycles = _cycles(workload, tasks, points, frames, jobs, part_of(report, 0.0, 0.4))
    for n, point in enumerate(points):
        share = 0.6 / len(points)
        tallies.append(
            _scores(workload, tasks, point, count, part_of(report, 0.4 + n * share, share))
        )
    rows = []
    for point, got, spent in zip(points, tallies, cycles, strict=True):
        intervals, gains = got.intervals(), paired(got, tallies[0])
        row: dict[str, Any] = {}
        for task in tasks:
            metric = PRIMARY[config.task(task).kind]
            value = intervals[task][metric]
            row[task] = {"metric": metric, **value.to_dict(), **spent[task]}
            row[task]["change"] = gains.change[task].to_dict(4)
        rows.append({"dial": dict(point), "tasks": row, "delta_m": gains.delta_m.to_dict(4)})
    return {
        "model": config.name,
        "preset": workload.config.name,
        "clock_mhz": workload.config.clock_mhz,
        "images": tallies[0].images,
        "frames": frames,
        "interval": LEVEL,
        "points": rows,
    }


def _dial(point: Point) -> Dial:
    return Dial.of(**point)  # type: ignore[arg-type]


def _scores(
    workload: Workload, tasks: Sequence[str], point: Point, count: int, report: Report
) -> Tallies:
    """The golden model's counts with a dial, from the cache when they are known."""
    from moevit.model.evaluation.tallies import Tallies, tally

    config = workload.model_config
    chosen, count, origin = workload.source.validation(config, count)
    folders = (Path(str(p.__file__)).parent for p in (model_package, quant_package))
    key = cache.digest(
        workload.program.linked.to_bytes(),
        cache.source_digest(*folders),
        json.dumps([origin, count, *tasks]),
        repr(_dial(point)),
    )
    name = "counts.npz"

    def make(folder: Path) -> None:
        tally(
            golden_backend(workload.network.dialled(_dial(point)), tasks),
            config,
            chosen,
            tasks=tasks,
            batch=_BATCH,
            on_progress=lambda done: report(f"{label(point)} ({done}/{count})", done / count),
        ).save(folder / name)

    return Tallies.load(cache.entry("dial", key, make) / name, config, tasks)


def _cycles(
    workload: Workload,
    tasks: Sequence[str],
    points: Sequence[Point],
    frames: int,
    jobs: int,
    report: Report,
) -> list[dict[str, dict[str, float]]]:
    """Of each point, for each task: mean cycles of a frame, and mean experts of a token."""
    chosen, frames, origin = workload.source.validation(workload.model_config, frames)
    images = np.stack([sample.image for sample in chosen])
    key = cache.digest(
        workload.program.linked.to_bytes(),
        cache.source_digest(Path(str(hw_package.__file__)).parent),
        json.dumps([origin, frames, *tasks]),
    )
    rows = []
    with workload.pool("sim", jobs, lambda _cycles: None, report) as pool:
        for n, point in enumerate(points):
            report(f"{label(point)}: {len(tasks) * frames} frames in RTL", n / len(points))

            def make(folder: Path, point: Point = point) -> None:
                row = _simulated(workload, tasks, point, images, pool)
                (folder / "row.json").write_text(json.dumps(row), encoding="utf-8")

            path = cache.entry("dial", cache.digest(key, repr(_dial(point))), make)
            rows.append(json.loads((path / "row.json").read_text(encoding="utf-8")))
    return rows


def _simulated(
    workload: Workload, tasks: Sequence[str], point: Point, images: Any, pool: DevicePool
) -> dict[str, dict[str, float]]:
    """A point's frames in RTL, each compared with the golden model."""
    network, dial = workload.network, _dial(point)
    running = {task: [pool.submit(image, task, dial) for image in images] for task in tasks}
    exact = Golden(network.dialled(dial)).run_batch(images, tasks)
    layers = sum(isinstance(block.mlp, Moe) for block in network.blocks)
    row = {}
    for task, futures in running.items():
        results = [future.result() for future in futures]
        for result, want in zip(results, exact[task], strict=True):
            if not np.array_equal(np.asarray(result.output), want.output):
                raise CheckFailedError(
                    f"{label(point)}: the RTL is not bit exact under task {task}"
                )
        counted = [counted_of(result.counters) for result in results]
        tokens = float(np.mean([sum(c.expert_tokens) for c in counted]))
        row[task] = {
            "cycles": float(np.mean([c.cycles for c in counted])),
            "experts": tokens / (layers * network.geometry.tokens),
        }
    return row
