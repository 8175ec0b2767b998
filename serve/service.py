"""One model for all viewers: its stations, and answers in the form of the API."""

from __future__ import annotations

import base64
import functools
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from moevit.colours import PALETTE, paint
from moevit.model.config import TOKEN_KINDS
from moevit.programs import estimate
from moevit.quant.errors import UserError
from moevit.quant.golden import Routing
from moevit.quant.typing import Bytes, Report, silent
from moevit.sim.counters import Counters, performance
from moevit.version import __version__
from moevit.workload import Workload

from .schema import About, BoardCost, Experts, TaskAnswer, TaskInfo, Values
from .station import Answer, Job, Progress, Station
from .uploads import png

__all__ = ["Service", "data_url"]

_BEST = 5  # classes that are named
_SCORE = 1 << 15  # of Q0.15


def data_url(image: Bytes) -> str:
    """``(H, W, 3)`` uint8 for a page."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


class Service:
    """What the page and the API ask. Context manager; ``report`` is told of the preparation.

    ``backends``: names that viewers may choose from, the first unless they do. A device is opened
    when it is first asked for.
    """

    def __init__(
        self, workload: Workload, backends: Sequence[str], *, report: Report = silent
    ) -> None:
        self.workload, self.backends = workload, tuple(backends)
        self._lock = threading.Lock()
        self._stations: dict[str, Station] = {}
        program = workload.program
        report("estimating the board's cycles", 0.9)
        found = estimate(program).tasks
        self._expected = {name: task.cycles for name, task in found.items()}
        self._programs_hash = hashlib.sha256(program.to_bytes()).hexdigest()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up all work, and the devices back."""
        with self._lock:
            stations, self._stations = list(self._stations.values()), {}
        for station in stations:
            station.close()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the program's tasks."""
        return self.workload.program.tasks

    @functools.cached_property
    def about(self) -> About:
        """What is served."""
        model, linked = self.workload.model_config, self.workload.program.linked
        return About(
            version=__version__,
            model=Path(self.workload.name).stem,
            preset=self.workload.config.name,
            config_hash=f"{self.workload.config.hash:016x}",
            program=self._programs_hash,
            image=model.image,
            grid=linked.geometry.grid,
            backends=list(self.backends),
            tasks=[
                TaskInfo(
                    name=name,
                    kind=model.task(name).kind,
                    channels=model.task(name).channels,
                    board=self._estimated(name),
                )
                for name in self.tasks
            ],
            palette=[to_hex(colour) for colour in PALETTE],
        )

    def submit(
        self,
        pixels: Bytes,
        tasks: Sequence[str] = (),
        backend: str = "",
        progress: Progress | None = None,
    ) -> Job:
        """Puts an image into a device's queue.

        Raises
        ------
        UserError
            For a task or a backend that is not served.
        BusyError
            Where the queue is full.
        """
        name = backend or self.backends[0]
        if name not in self.backends:
            raise UserError(f"backend: must be one of {', '.join(self.backends)}, not {name!r}")
        for task in tasks:
            if task not in self.tasks:
                raise UserError(f"task: must be one of {', '.join(self.tasks)}, not {task!r}")
        with self._lock:
            if name not in self._stations:
                self._stations[name] = Station(name, self.workload, self._expected)
            station = self._stations[name]
        return station.submit(Job(pixels, list(dict.fromkeys(tasks)) or self.tasks, progress))

    # Answers -----------------------------------------------------------------------------------
    def answer(
        self, found: Answer, *, pictures: bool, experts: bool, values: bool, counters: bool = True
    ) -> TaskAnswer:
        """One task's answer with as much as is asked for."""
        result, task = found.result, self.workload.model_config.task(found.result.task)
        made = TaskAnswer(
            task=task.name,
            kind=task.kind,
            seconds=found.seconds,
            bit_exact=found.exact,
            board=self._cost(task.name, result.counters, found.measured),
            counters=result.counters.to_dict() if counters and result.counters else None,
        )
        if values and result.output is not None:
            made.values = _values(result.output)
        if pictures and task.kind == "classification":
            made.best = self._best(found)
        elif pictures and task.kind not in TOKEN_KINDS and result.planes is not None:
            from moevit.model.tasks import predict

            size = self.workload.model_config.image
            shown = predict(task.kind, result.planes[None], size)[0]
            made.picture = data_url(paint(task.kind, shown))
        if experts and found.golden is not None:
            front = self.workload.program.linked.geometry.front
            made.experts = [_experts(layer, front) for layer in found.golden.routing]
        return made

    def _best(self, found: Answer) -> list[tuple[int, float]]:
        result = found.result
        logits: Any = result.planes
        if result.output is not None:
            scale = self.workload.program.linked.task(result.task).output.scale
            logits = result.output * np.float32(scale)
        flat = np.asarray(logits).ravel()
        order = np.argsort(-flat, kind="stable")[:_BEST]
        return [(int(n), round(float(flat[n]), 4)) for n in order]

    def _cost(self, task: str, counters: Counters | None, measured: bool) -> BoardCost:
        if counters is None:
            return self._estimated(task)
        config = self.workload.config
        cost = performance(counters, config, self.workload.program.linked.task(task).useful_macs)
        return BoardCost(
            cycles=cost.cycles, ms=cost.ms, fps=cost.fps, clock_mhz=config.clock_mhz,
            how="measured" if measured else "simulated",
        )  # fmt: skip

    def _estimated(self, task: str) -> BoardCost:
        cycles, clock = self._expected[task], self.workload.config.clock_mhz
        ms = cycles / clock / 1e3
        return BoardCost(cycles=cycles, ms=ms, fps=1e3 / ms, clock_mhz=clock, how="estimated")


def _values(output: Any) -> Values:
    little = np.ascontiguousarray(output).astype(output.dtype.newbyteorder("<"))
    rows, columns = output.shape
    return Values(
        dtype=output.dtype.name,
        shape=(rows, columns),
        data=base64.b64encode(little.tobytes()).decode(),
    )


def _experts(layer: Routing, front: int) -> Experts:
    return Experts(
        block=layer.block,
        experts=layer.experts,
        indices=layer.indices[front:].tolist(),
        scores=np.round(layer.scores[front:] / _SCORE, 4).tolist(),
        queues=list(layer.counts),
    )
