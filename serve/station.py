"""Devices behind queues: each works in a thread of its own, one image after another.

A queue has an end: who comes when it is full is told so at once (:class:`BusyError`) and may come
again, so that many viewers make the service slower for themselves, never for the machine.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from moevit.devices import Device, open_device
from moevit.quant.errors import MoevitError, UserError
from moevit.quant.golden import Golden, GoldenResult
from moevit.quant.typing import Bytes
from moevit.sim.device import Result, planes
from moevit.workload import Workload

__all__ = ["Answer", "BusyError", "Job", "Station", "StoppedError"]

WAITING = 8
"""Images that wait for one device at most."""

Progress = Callable[[str, float], None]
"""Told what is being done and its share; what it raises stops the work."""


class BusyError(MoevitError):
    """As many images wait for the device as may."""


class StoppedError(MoevitError):
    """The image was given up, since nobody waits for it any more or the service ends."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """One image under one task.

    ``exact``: whether the device's integers are the golden model's; None where it has none.
    ``golden`` knows which expert each token went to. ``seconds``: wall time of the device.
    ``measured``: counters are a board's, not the simulation's.
    """

    result: Result
    exact: bool | None
    golden: GoldenResult | None
    seconds: float
    measured: bool


@dataclass(eq=False)
class Job:
    """An image that waits or is worked on; :meth:`cancel` may be called from any thread."""

    pixels: Bytes
    tasks: Sequence[str]
    progress: Progress | None = None
    future: Future[dict[str, Answer]] = field(default_factory=Future)
    _stop: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits any more: a frame that runs is stopped as soon as it tells its progress."""
        self._stop.set()
        self.future.cancel()

    def tell(self, what: str, share: float) -> None:
        """Passes progress on; raises ``StoppedError`` once cancelled."""
        if self._stop.is_set():
            raise StoppedError("stopped")
        if self.progress is not None:
            self.progress(what, share)


class Station:
    """The device of one backend. It is opened when the first image comes, and kept.

    Parameters
    ----------
    backend:
        A name of :data:`moevit.devices.BACKENDS`.
    workload:
        Model, network and program. The integers of a device are compared with the network's.
    cycles:
        Expected of each task, for progress.
    waiting:
        Images that may wait.
    """

    def __init__(
        self,
        backend: str,
        workload: Workload,
        cycles: Mapping[str, int],
        *,
        waiting: int = WAITING,
    ) -> None:
        self.backend, self.workload = backend, workload
        self._cycles = cycles
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._golden = None if workload.reference is None else Golden(workload.reference)
        self._current: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"moevit {backend}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return self._jobs.qsize()

    def submit(self, job: Job) -> Job:
        """Puts an image into the queue. Raises ``BusyError`` where it is full."""
        if self._closed:
            raise StoppedError("the service ends")
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise BusyError(
                f"{self._jobs.maxsize} images wait for {self.backend}; try again later"
            ) from None
        return job

    def close(self) -> None:
        """Gives up what waits and runs, and the device back."""
        self._closed = True
        if self._current is not None:
            self._current.cancel()
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.cancel()
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        device: Device | None = None
        try:
            while (job := self._jobs.get()) is not None:
                if not job.future.set_running_or_notify_cancel():
                    continue
                self._current = job
                try:
                    if device is None and self.backend != "golden":
                        device = self._open(job)
                    job.future.set_result(self._answers(device, job))
                except BaseException as error:  # also of a device: its job's, not the thread's
                    job.future.set_exception(error)
                finally:
                    self._current = None
        finally:
            if device is not None:
                device.close()

    def _open(self, job: Job) -> Device:
        known = self.workload
        return open_device(
            self.backend,
            known.program,
            network=None if known.reference is None else known.quantised_network,
            model=None if known.quantised else known.model,
            report=job.tell,
        )

    def _answers(self, device: Device | None, job: Job) -> dict[str, Answer]:
        begun = time.perf_counter()
        golden = {}
        if self._golden is not None:
            found = self._golden.run_batch(job.pixels[None], job.tasks)
            golden = {task: results[0] for task, results in found.items()}
        elif device is None:
            raise UserError("backend golden: a program does not hold its network; give --model")
        spent = (time.perf_counter() - begun) / len(job.tasks)
        answers = {}
        for number, task in enumerate(job.tasks):
            if device is None:
                result, exact, seconds = self._integers(golden[task]), None, spent
            else:
                begun = time.perf_counter()
                result = device.run(job.pixels, task, progress=self._shares(job, number))
                seconds = time.perf_counter() - begun
                exact = _same(result, golden.get(task))
            answers[task] = Answer(
                result=result,
                exact=exact,
                golden=golden.get(task),
                seconds=seconds,
                measured=self.backend == "board",
            )
        return answers

    def _integers(self, found: GoldenResult) -> Result:
        return Result(
            task=found.task,
            output=found.output,
            planes=planes(self.workload.program.linked, found.task, found.output),
            counters=None,
        )

    def _shares(self, job: Job, number: int) -> Callable[[int], None]:
        task, count = job.tasks[number], len(job.tasks)

        def tell(cycles: int) -> None:
            share = min(cycles / max(self._cycles.get(task, 1), 1), 0.99)
            job.tell(f"{task}: {cycles:,} cycles", (number + share) / count)

        return tell


def _same(result: Result, golden: GoldenResult | None) -> bool | None:
    if golden is None or result.output is None:
        return None
    found, expected = result.output, golden.output
    return found.shape == expected.shape and bool((found == expected).all())
