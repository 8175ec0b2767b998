"""Thousands of frames without a restart: tasks, pictures, programs, faults, aborts and resets."""

from __future__ import annotations

import resource
from collections import Counter as Tally
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moevit.compiler import Program, compile_network
from moevit.hw.config import AcceleratorConfig, preset
from moevit.hw.registers import Control, Register
from moevit.quant.errors import CheckFailedError
from moevit.quant.golden import Golden
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.quant.typing import Ints, Report, silent
from moevit.sim.rtl import MEMORY_BASE, RtlDevice, build_simulator

from .cases import TIMINGS
from .faults import failed_frame
from .features import DRAWN
from .running import Bench, same

__all__ = ["GROWTH_BYTES", "soak"]

GROWTH_BYTES = 8 << 20
"""What the process may grow by between a tenth of the frames and the last."""

_SIZES = (
    Sizes(tasks=3, head_channels=(2, 1), experts=4, dim=16, hidden=20, expert_hidden=12),
    Sizes(tasks=2, patch=4, image_height=8, image_width=12, dim=8, moe=(0, 1), expert_bits=4),
)
_PICTURES = 6
_FAULTS = tuple(fault for fault in DRAWN["fault"] if fault != "none")
_SHARES = {"frame": 0.66, "queue": 0.08, "all": 0.06, "fault": 0.12, "reset": 0.04, "program": 0.04}
"""How often what is done: a good frame, several behind one another, all tasks in one, a frame that
fails, a reset in the middle of a frame, another program."""


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A program, its pictures, and what must come out."""

    program: Program
    images: Ints
    want: dict[tuple[int, str], Ints]


def _work(seed: int, sizes: Sizes, config: AcceleratorConfig, threshold: float) -> _Work:
    network = random_network(seed, sizes)
    images = random_images(seed, network.geometry, _PICTURES)
    golden = Golden(network)
    return _Work(
        program=compile_network(network, config, threshold=threshold, all_tasks=True),
        images=images,
        want={
            (n, task): golden.run(image, task).output
            for n, image in enumerate(images)
            for task in network.tasks
        },
    )


def soak(
    frames: int, seed: int, config: AcceleratorConfig | None = None, report: Report = silent
) -> dict[str, Any]:
    """About ``frames`` frames on one simulator; what was done, and the process's memory.

    Every good frame must be right to the bit, every bad one must end with its own error. Raises
    :class:`~moevit.quant.errors.CheckFailedError` for the first that does not, naming its number,
    and for a process that grows by more than :data:`GROWTH_BYTES` after the first tenth.
    """
    config = config or preset("micro").but(watchdog_cycles=6000)
    works = [_work(seed + n, sizes, config, (0.02, 3.0)[n]) for n, sizes in enumerate(_SIZES)]
    with Bench(config, build_simulator(config, report)) as bench:
        run = _Soak(bench, works, np.random.default_rng([seed, 5]))
        early = 0
        while run.frames < frames:
            try:
                run.step()
            except Exception as error:
                raise CheckFailedError(
                    f"soak of seed {seed}, frame {run.frames}: {type(error).__name__}: {error}"
                ) from error
            if not early and run.frames * 10 >= frames:
                early = _resident()
            report(f"frames ({run.frames}/{frames})", min(run.frames / frames, 1.0))
    grown = _resident() - early
    if grown > GROWTH_BYTES:
        raise CheckFailedError(f"soak of seed {seed}: the process grew by {grown:,} bytes")
    return {
        "frames": run.frames,
        "seed": seed,
        "done": dict(run.done),
        "bytes_after_a_tenth": early,
        "bytes_grown": grown,
    }


def _resident() -> int:
    """Bytes of memory that this process has; its peak where the system tells nothing else."""
    table = Path("/proc/self/statm")
    if table.exists():
        return int(table.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class _Soak:
    """What goes on: a device, the work that is loaded, and the dice."""

    def __init__(self, bench: Bench, works: list[_Work], rng: np.random.Generator) -> None:
        self.bench, self.works, self.rng = bench, works, rng
        self.frames = 0
        self.done: Tally[str] = Tally()
        self.cycles = 2000
        self.load(0)

    def load(self, which: int) -> None:
        """Another program, behind another memory."""
        self.which = which
        timing = TIMINGS[str(self.rng.choice(list(TIMINGS)))]
        self.device: RtlDevice = self.bench.device(timing.but(seed=int(self.rng.integers(1 << 30))))
        self.device.load(self.works[which].program)

    @property
    def work(self) -> _Work:
        return self.works[self.which]

    def pick(self) -> tuple[int, str]:
        """A picture and a task."""
        task = str(self.rng.choice(list(self.work.program.tasks)))
        return int(self.rng.integers(_PICTURES)), task

    def step(self) -> None:
        """One of the things that happen, and its frames."""
        what = str(self.rng.choice(list(_SHARES), p=list(_SHARES.values())))
        before = self.frames
        getattr(self, f"do_{what}")()
        self.done[what] += self.frames - before

    def do_frame(self) -> None:
        n, task = self.pick()
        result = self.device.run(self.work.images[n], task)
        same(task, result.output, self.work.want[n, task])
        self.frames += 1
        if result.counters is not None:
            self.cycles = result.counters.cycles

    def do_queue(self) -> None:
        picks = [self.pick() for _ in range(int(self.rng.integers(2, 6)))]
        stream = [(self.work.images[n], task) for n, task in picks]
        for (n, task), result in zip(picks, self.device.run_stream(stream), strict=True):
            same(task, result.output, self.work.want[n, task])
            self.frames += 1

    def do_all(self) -> None:
        n, _ = self.pick()
        for task, result in self.device.run_all(self.work.images[n]).items():
            same(task, result.output, self.work.want[n, task])
        self.frames += 1

    def do_fault(self) -> None:
        n, task = self.pick()
        fault = str(self.rng.choice(_FAULTS))
        wrong = failed_frame(
            fault,
            self.device,
            self.bench.native,
            self.work.program,
            self.work.images[n],
            task,
            self.rng,
            self.cycles,
        )
        if wrong and fault != "ABORTED":  # a short frame may end before it is given up
            raise RuntimeError(wrong)
        self.frames += 1
        self.done[f"error {fault}"] += 1

    def do_reset(self) -> None:
        """In the middle of a frame, of which nothing is left."""
        n, task = self.pick()
        sim, (image, output) = self.bench.native, self.device.places[0]
        program = self.work.program
        sim.write(image, program.image.pack(self.work.images[n]).tobytes())
        sim.reg_write(Register.PROGRAM_BASE, MEMORY_BASE + program.task(task).base)
        sim.reg_write(Register.IMAGE_BASE, image)
        sim.reg_write(Register.OUTPUT_BASE, output)
        sim.reg_write(Register.CONTROL, 1 << Control.START)
        sim.run(int(self.rng.integers(1, max(2, self.cycles))))
        sim.reset()
        sim.reg_write(Register.IRQ_ENABLE, 1)
        self.frames += 1

    def do_program(self) -> None:
        self.load(1 - self.which)
        self.do_frame()
