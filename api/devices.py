"""Devices that run programs: the accelerator in simulation, and what it is compared with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from moevit.hw.config import AcceleratorConfig
from moevit.model.config import ModelConfig
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.errors import UserError
from moevit.quant.network import Network as Integers
from moevit.quant.typing import Report, silent
from moevit.sim import backends
from moevit.sim.backend_names import BACKENDS
from moevit.sim.backends import Forward
from moevit.sim.counters import Counters
from moevit.sim.device import Device as Backend
from moevit.sim.device import Progress, Result
from moevit.sim.memory_timing import MemoryTiming
from moevit.sim.pool import DevicePool

from .errors import documented
from .images import load_image

if TYPE_CHECKING:
    from moevit.sim.trace.recording import Recorder

    from .models import Model
    from .networks import Network
    from .programs import Program

__all__ = ["BACKENDS", "Device", "open_device", "open_pool"]


class Device:
    """A device with its program. A context manager; made by :func:`open_device`."""

    def __init__(self, backend: Backend, program: Program) -> None:
        self.backend, self.program = backend, program

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.backend.name

    @property
    def counters(self) -> Counters | None:
        """Of the last frame that was finished; None from software."""
        return self.backend.counters

    def load(self, program: Program) -> None:
        """Takes another program of the same accelerator."""
        with documented():
            self.backend.load(program.linked)
        self.program = program

    def run(
        self,
        image: Any,
        task: str | None = None,
        *,
        top_p: float | None = None,
        min_score: float | None = None,
        top_k: int | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """One image under one task, which need not be named where the program has only one.

        Parameters
        ----------
        image:
            `(height, width, 3)` uint8 of the model's size, or the name of an image file of
            any size.
        top_p, min_score, top_k:
            The dial of this frame: fewer experts a token than the program was compiled for, which
            takes fewer cycles (:meth:`moevit.Dial.of`). None: as compiled.
        progress:
            Told the cycles that have passed; what it raises stops the frame.

        Returns
        -------
        `output`, the integers in memory; `planes`, the head's output in floats
        `(channels, height, width)`; `counters` (None from software).

        Raises
        ------
        UserError
            For an image of another shape, an unknown task, and a dial that asks for more than the
            program was compiled for.
        DeviceError
            Where the device gave up.
        """
        if task is None:
            if len(self.program.tasks) > 1:
                raise UserError(f"task: name one of {', '.join(self.program.tasks)}")
            (task,) = self.program.tasks
        with documented():
            dial = Dial.of(top_p=top_p, min_score=min_score, top_k=top_k)
            return self.backend.run(self._pixels(image), task, dial=dial, progress=progress)

    def run_all(
        self,
        image: Any,
        *,
        top_p: float | None = None,
        min_score: float | None = None,
        top_k: int | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Result]:
        """One image under all tasks, of a program compiled with `all_tasks`; all with one dial.

        The accelerator does it in one run, whose counters every result has; software takes one task
        after the other.

        Raises
        ------
        UserError
            As :meth:`run`, and of `sim` for a program that was compiled without it.
        """
        with documented():
            dial = Dial.of(top_p=top_p, min_score=min_score, top_k=top_k)
            return self.backend.run_all(self._pixels(image), dial=dial, progress=progress)

    def run_stream(
        self, frames: Iterable[tuple[Any, str] | tuple[Any, str, Dial]]
    ) -> Iterator[Result]:
        """Images with their tasks, one frame behind the other, results in the same order.

        Each may bring a :class:`moevit.Dial` of its own, which waits with it.

        The accelerator begins a frame while the one before ends; its cycles count from that end.
        Software takes one after the other. Raises as :meth:`run`.
        """
        ready: Iterable[tuple[Any, str, Dial]] = (
            (self._pixels(image), task, dial[0] if dial else AS_COMPILED)
            for image, task, *dial in frames
        )
        stream = getattr(self.backend, "run_stream", None)
        with documented():
            if stream is None:
                yield from (self.backend.run(i, task, dial=dial) for i, task, dial in ready)
            else:
                yield from stream(ready)

    def align(self) -> None:
        """Idles until the memory's refresh is where it was at first, so that frames which start
        here differ in nothing but what they do; nothing to do in software."""
        align = getattr(self.backend, "align", None)
        if align is not None:
            align()

    def close(self) -> None:
        """Gives everything back; the device cannot be used any more."""
        self.backend.close()

    def _pixels(self, image: Any) -> Any:
        if isinstance(image, (str, os.PathLike)):
            size = self.program.linked.image
            about = self.program.linked.meta.get("network", {}).get("model")
            config = ModelConfig.from_json(json.dumps(about)) if about else None
            return load_image(Path(image), height=size.height, width=size.width, config=config)
        return np.asarray(image)


class _Sources:
    """What the backends of a program are made from, as far as it is at hand."""

    def __init__(
        self, program: Program, network: Network | None, model: Model | None, report: Report
    ) -> None:
        self._program, self._report = program, report
        self._network = network or program.network
        known = None if self._network is None else self._network.model
        self._model = model or known

    @property
    def config(self) -> AcceleratorConfig:
        return self._program.config

    @property
    def network(self) -> Integers:
        if self._network is None:
            raise UserError("network: the golden model needs it; a program does not hold it")
        return self._network.integers

    @property
    def forward(self) -> Forward:
        return self._float.forward

    def dialled(self, dial: Dial) -> Forward:
        return self._float.dialled(dial)

    @property
    def onnx(self) -> Forward:
        return self._float.onnx(self._report)

    @property
    def _float(self) -> Model:
        if self._model is None:
            raise UserError("model: the float model is needed; a network does not hold it")
        return self._model


def open_pool(
    backend: str,
    program: Program,
    count: int,
    *,
    network: Network | None = None,
    model: Model | None = None,
    on_cycles: Callable[[int], None] = lambda _cycles: None,
    recorder: Recorder | None = None,
    report: Report = silent,
) -> DevicePool:
    """Up to `count` devices with `program`, each in a thread of its own.

    All that takes long is done before it returns. `on_cycles` is told the cycles that all devices
    have spent, from their threads. The rest is as of :func:`open_device`.
    """
    sources = _Sources(program, network, model, report)
    with documented():
        if backend == "sim":
            from moevit.sim.rtl import build_simulator

            build_simulator(program.config, report, watched=recorder is not None)
        elif backend == "torch":
            _ = sources.forward
        elif backend == "onnx":
            _ = sources.onnx
        return DevicePool(
            lambda: backends.open_device(backend, sources, recorder=recorder),
            program.linked,
            count,
            on_cycles=on_cycles,
        )


def open_device(
    backend: str,
    program: Program,
    *,
    network: Network | None = None,
    model: Model | None = None,
    timing: MemoryTiming | None = None,
    recorder: Recorder | None = None,
    report: Report = silent,
) -> Device:
    """A device with `program` loaded.

    Parameters
    ----------
    backend:
        A name of :data:`BACKENDS`. The first `sim` of an accelerator builds its simulator, which
        takes up to some minutes and is kept.
    network, model:
        What `golden`, and `torch` and `onnx`, run: known of a program that was compiled from it in
        this process, and needed of one that was read from a file.
    timing:
        Of the memory that `sim` models; the board's DDR4 if None.
    recorder:
        Gets what the accelerator of `sim` does in every cycle (:mod:`moevit.sim.trace`).

    Raises
    ------
    UserError
        For an unknown backend, and where what it needs is not there.
    DeviceError
        Where the device refuses the program.
    """
    sources = _Sources(program, network, model, report)
    with documented():
        opened = backends.open_device(
            backend, sources, timing=timing, recorder=recorder, report=report
        )
        try:
            opened.load(program.linked)
        except BaseException:
            opened.close()
            raise
    return Device(opened, program)
