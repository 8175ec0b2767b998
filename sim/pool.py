"""Several devices of one kind side by side, each in a thread of its own.

The simulator runs without Python's lock, so threads use all processors, and share the images.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from moevit.compiler.program import Program
from moevit.quant.dial import AS_COMPILED, Dial

from .device import Device, Result

__all__ = ["DevicePool", "StoppedError"]


class StoppedError(Exception):
    """The pool is closing: the frame is not needed any more."""


class DevicePool:
    """Up to ``count`` devices that run the same program. A context manager.

    ``make`` makes a device; it is called when there is work for one more. ``on_cycles`` is told the
    cycles that all devices have spent, from their threads; software devices spend none.

    Raises ``ValueError`` for a count below 1.
    """

    def __init__(
        self,
        make: Callable[[], Device],
        program: Program,
        count: int,
        *,
        on_cycles: Callable[[int], None] = lambda _cycles: None,
    ) -> None:
        if count < 1:
            raise ValueError(f"A pool needs at least one device, not {count!r}")
        self._make, self._program = make, program
        self._on_cycles = on_cycles
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="device")
        self._idle: queue.SimpleQueue[Device] = queue.SimpleQueue()
        self._devices: list[Device] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._cycles = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops frames that are still running, soon, and frees the devices."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for device in self._devices:
            device.close()
        self._devices.clear()

    def submit(self, image: Any, task: str, dial: Dial = AS_COMPILED) -> Future[Result]:
        """One image under one task, when a device is free; errors are those of the device."""
        return self._threads.submit(self._run, image, task, dial)

    def map(self, items: Iterable[tuple[Any, str]], dial: Dial = AS_COMPILED) -> Iterator[Result]:
        """The results of pairs of image and task, in their order."""
        futures: Sequence[Future[Result]] = [self.submit(*item, dial) for item in items]
        for future in futures:
            yield future.result()

    def _run(self, image: Any, task: str, dial: Dial) -> Result:
        device = self._take()
        last = 0

        def progress(cycles: int) -> None:
            nonlocal last
            if self._stop.is_set():
                raise StoppedError
            with self._lock:
                self._cycles += cycles - last
                total = self._cycles
            last = cycles
            self._on_cycles(total)

        try:
            return device.run(image, task, dial=dial, progress=progress)
        finally:
            self._idle.put(device)

    def _take(self) -> Device:
        """An idle device. There are as many threads as devices, so one is made at most for each."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            device = self._make()
            with self._lock:
                self._devices.append(device)
            device.load(self._program)
            return device
