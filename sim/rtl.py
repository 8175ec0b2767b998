"""The verilated accelerator as a device: the backend ``sim``.

The host does what a driver on a board would do and no more: program, image and room for the
result in memory, three base addresses, START, wait for the interrupt, read status and result.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self, cast

from moevit.compiler.program import ALL, Output, Program
from moevit.hw import verilog
from moevit.hw.config import BEAT_BYTES, ISA_VERSION, AcceleratorConfig
from moevit.hw.control.axi_lite import WAITING
from moevit.hw.registers import (
    COUNTER_BASE,
    DEVICE_ID,
    DIAL,
    EXPERT_BASE,
    Control,
    Counter,
    Error,
    Register,
    Status,
)
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.typing import Report, silent

from .counters import Counters
from .design import array_defines, design_verilog, watched_fields
from .device import Progress, Result, failure, planes
from .errors import DeviceError
from .memory_timing import MemoryTiming
from .native import NativeSim
from .native_library import build_native
from .stats import RunResult, Stats
from .trace.recording import Recorder, Recording, Watchable

__all__ = ["MEMORY_BASE", "RtlDevice", "Simulator", "board_memory", "build_simulator"]

MAX_CYCLES = 50_000_000
"""Of one frame, by default; the device's own watchdog finds a hang much earlier."""

MEMORY_BASE = 0x1000_0000
"""Address of the program in the simulated memory: not 0, so that a base address that is ignored
shows."""
_PAGE = 4096
_ABORT_CYCLES = 100_000


def board_memory(config: AcceleratorConfig) -> MemoryTiming:
    """The DDR4-2400 of a ZCU104 at the configuration's clock (:meth:`MemoryTiming.ddr4`)."""
    return MemoryTiming.ddr4(
        clock_mhz=config.clock_mhz, ports=config.memory.ports, beat_bytes=BEAT_BYTES
    )


def build_simulator(
    config: AcceleratorConfig, report: Report = silent, *, watched: bool = False
) -> Path:
    """The verilated accelerator as a shared library; from the cache after the first call.

    ``watched``: one that can record what it does, a build of its own.

    Raises :class:`~.build.BuildError` or :class:`~.toolchain.ToolNotFoundError`.
    """
    return build_native(
        design_verilog(config, report, watched=watched),
        top=verilog.TOP_NAME,
        defines=array_defines(config),
        label=f"{config.hash:016x}",
        report=report,
    )


class Simulator(Protocol):
    """What the device needs of :class:`~.native.NativeSim`."""

    def write(self, address: int, data: bytes) -> None: ...
    def read(self, address: int, count: int) -> bytes: ...
    def reset(self, cycles: int = 8) -> None: ...
    def reg_write(self, address: int, value: int) -> None: ...
    def reg_read(self, address: int) -> int: ...
    def run(self, max_cycles: int, progress: Progress | None = None) -> RunResult: ...
    def clear_stats(self) -> None: ...
    def close(self) -> None: ...
    @property
    def stats(self) -> Stats: ...
    @property
    def cycle(self) -> int: ...


Connect = Callable[[int, int, MemoryTiming], Simulator]
"""From the memory's base, its bytes and its timing to a simulator."""


class RtlDevice:
    """The accelerator's RTL with a native memory model.

    Parameters
    ----------
    config:
        The build. Programs for another one are refused.
    timing:
        Of the memory; :func:`board_memory` by default.
    max_cycles:
        After so many cycles a frame is aborted.
    report:
        Told of the progress of a first build.
    connect:
        Makes the simulator; by default verilates the configuration.
    recorder:
        Gets what the accelerator does in every cycle.
    """

    name = "sim"

    def __init__(
        self,
        config: AcceleratorConfig,
        *,
        timing: MemoryTiming | None = None,
        max_cycles: int = MAX_CYCLES,
        report: Report = silent,
        connect: Connect | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        if max_cycles < 1:
            raise ValueError(f"max_cycles must be positive, not {max_cycles!r}")
        self.config = config
        self.timing = timing or board_memory(config)
        self.max_cycles = max_cycles
        self._report = report
        self._connect = connect or self._verilate
        self._recorder = recorder
        self._recording: Recording | None = None
        self._simulator: Simulator | None = None
        self._program: Program | None = None
        self._places: list[tuple[int, int]] = []  # image and output of frames under way
        self._counters: Counters | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the simulator."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = self._program = None

    @property
    def counters(self) -> Counters | None:
        """Of the last frame that was finished."""
        return self._counters

    @property
    def simulator(self) -> Simulator:
        """The simulator behind the device, for tests that inject faults; after :meth:`load`."""
        if self._simulator is None:
            raise ValueError("The device has no program; load one first")
        return self._simulator

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Addresses of the image and of the output area of each frame that can be under way."""
        return tuple(self._places)

    def _verilate(self, base: int, size: int, timing: MemoryTiming) -> Simulator:
        watched = self._recorder is not None
        library = build_simulator(self.config, self._report, watched=watched)
        return NativeSim(library, base=base, memory_bytes=size, timing=timing)

    # Programs ----------------------------------------------------------------------------------
    def load(self, program: Program) -> None:
        """Puts a program into memory, and starts the simulator with a memory that holds it."""
        if program.config.hash != self.config.hash:
            raise failure(
                Error.HASH,
                f"program for {program.config.name} {program.config.hash:016x}, "
                f"device is {self.config.name} {self.config.hash:016x}",
            )
        end = MEMORY_BASE + _pages(len(program.memory))
        places = []
        for _ in range(1 + WAITING):
            output = end + _pages(program.image.size)
            places.append((end, output))
            end = output + _pages(program.output_bytes)
        self.close()
        sim = self._connect(MEMORY_BASE, end - MEMORY_BASE, self.timing)
        try:
            sim.reset()
            self._identify(sim)
            sim.write(MEMORY_BASE, program.memory.tobytes())
            sim.reg_write(Register.IRQ_ENABLE, 1)
        except BaseException:
            sim.close()
            raise
        self._simulator, self._program, self._places = sim, program, places
        if self._recorder is not None:
            fields = watched_fields(self.config, self._report)
            self._recording = self._recorder.start(sim, program, fields)

    def _identify(self, sim: Simulator) -> None:
        wanted = {
            Register.ID: DEVICE_ID,
            Register.VERSION: ISA_VERSION,
            Register.HASH_LOW: self.config.hash & 0xFFFF_FFFF,
            Register.HASH_HIGH: self.config.hash >> 32,
        }
        for register, expected in wanted.items():
            found = sim.reg_read(register)
            if found != expected:
                raise failure(
                    Error.HASH,
                    f"register {register.name} reads {found:#010x}, expected {expected:#010x}",
                )

    # Frames ------------------------------------------------------------------------------------
    def run(
        self,
        image: Any,
        task: str,
        *,
        dial: Dial = AS_COMPILED,
        progress: Progress | None = None,
    ) -> Result:
        """One image; see :class:`~.device.Device`."""
        about = self._loaded.task(task)
        self._frame(image, about.base, task, about.output.size, dial, progress)
        return self._result(task, about.output)

    def run_all(
        self, image: Any, *, dial: Dial = AS_COMPILED, progress: Progress | None = None
    ) -> dict[str, Result]:
        """One image under all tasks in one frame, whose counters every result has.

        Raises as :meth:`run`, and ``ValueError`` for a program that was compiled without it.
        """
        about = self._loaded.all_tasks
        if about is None:
            raise ValueError("The program has no frame of all tasks: compile with all_tasks=True")
        self._frame(image, about.base, ALL, about.room, dial, progress)
        return {task: self._result(task, output) for task, output in about.outputs.items()}

    def run_stream(
        self, frames: Iterable[tuple[Any, str] | tuple[Any, str, Dial]]
    ) -> Iterator[Result]:
        """Pictures under their tasks, one frame behind the other, as many waiting as can.

        Each may bring a dial of its own. The cycles of a frame count from the end of the
        frame before. Raises as :meth:`run`.
        """
        sim, todo = self.simulator, iter(frames)
        free, under_way = list(self._places), deque[tuple[tuple[int, int], str]]()
        ended = sim.reg_read(Register.FRAMES)
        sim.clear_stats()
        try:
            while True:
                while free and not sim.reg_read(Register.STATUS) >> Status.FULL & 1:
                    image, task, *dial = next(todo, (None, ""))
                    if not task:
                        break
                    about = self._loaded.task(task)
                    place = free.pop(0)
                    self._start(place, image, task, about.base, about.output.size, *dial)
                    under_way.append((place, task))
                if not under_way:
                    return
                self._until_interrupt(under_way[0][1], None)
                sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
                for _ in range((sim.reg_read(Register.FRAMES) - ended) % 2**32):
                    ended += 1
                    place, task = under_way.popleft()
                    self._counters = self._read_counters(sim, sim.stats.seconds)
                    yield self._result(task, self._loaded.task(task).output, place)
                    free.append(place)
        except BaseException:
            if under_way:
                self._give_up(sim)
            raise

    def align(self) -> None:
        """Idles until the memory's refresh is where it was when the simulation began.

        Frames that start there meet the same refreshes: equal work takes equal cycles.
        """
        period = self.timing.refresh_period
        if period and (rest := -self.simulator.cycle % period):
            self.simulator.run(rest)

    @property
    def _loaded(self) -> Program:
        _ = self.simulator
        assert self._program is not None
        return self._program

    def _frame(
        self,
        image: Any,
        base: int,
        name: str,
        written: int,
        dial: Dial,
        progress: Progress | None,
    ) -> None:
        """Runs one frame to its end; ``written``: bytes of its output area."""
        sim = self.simulator
        sim.clear_stats()
        self._start(self._places[0], image, name, base, written, dial)
        try:
            self._until_interrupt(name, progress)
        except DeviceError:
            raise
        except BaseException:
            self._give_up(sim)
            raise
        self._counters = self._read_counters(sim, sim.stats.seconds)
        sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)

    def _start(
        self,
        place: tuple[int, int],
        image: Any,
        name: str,
        base: int,
        written: int,
        dial: Dial = AS_COMPILED,
    ) -> None:
        """Puts an image into its place and starts its frame."""
        sim, (at, output) = self.simulator, place
        dial.check(self._loaded.dial)
        sim.write(at, self._loaded.image.pack(image).tobytes())
        sim.write(output, b"\xa5" * written)  # nothing may be left from before
        sim.reg_write(Register.PROGRAM_BASE, MEMORY_BASE + base)
        sim.reg_write(Register.IMAGE_BASE, at)
        sim.reg_write(Register.OUTPUT_BASE, output)
        for register, field in DIAL.items():
            sim.reg_write(register, getattr(dial, field))
        if self._recording is not None:
            self._recording.tasks.append(name)
        sim.reg_write(Register.CONTROL, 1 << Control.START)

    def _until_interrupt(self, name: str, progress: Progress | None) -> None:
        """Until a frame has ended, which must not have failed."""
        sim = self.simulator
        finished = sim.run(self.max_cycles, progress)
        if not finished.interrupt:
            self._give_up(sim)
            raise failure(
                Error.ABORTED, f"task {name} did not end within {self.max_cycles:,} cycles"
            )
        status = sim.reg_read(Register.STATUS)
        if status >> Status.FAILED & 1:
            code = sim.reg_read(Register.ERROR)
            damage = sim.reg_read(Register.DAMAGE)
            sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
            raise failure(code, f"task {name}, after {finished.cycles:,} cycles", damage=damage)
        if violations := sim.stats.violations:
            raise RuntimeError(f"The accelerator broke the AXI protocol {violations} times")

    def _result(self, task: str, about: Output, place: tuple[int, int] | None = None) -> Result:
        """What a frame that has ended left of a task, in the first place or another."""
        _, base = place or self._places[0]
        output = about.unpack(self.simulator.read(base + about.address, about.size))
        return Result(
            task=task,
            output=output,
            planes=planes(self._loaded, task, output),
            counters=self._counters,
        )

    @staticmethod
    def _give_up(sim: Simulator) -> None:
        """Abort the frame; reset a device that does not even answer that."""
        with contextlib.suppress(Exception):
            sim.reg_write(Register.CONTROL, 1 << Control.ABORT)
            if sim.run(_ABORT_CYCLES).interrupt:
                sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
                return
        sim.reset()
        sim.reg_write(Register.IRQ_ENABLE, 1)

    def _read_counters(self, sim: Simulator, seconds: float) -> Counters:
        counters = Counters(
            values={c: sim.reg_read(COUNTER_BASE + 4 * c) for c in Counter},
            expert_tokens=tuple(
                sim.reg_read(EXPERT_BASE + 4 * e) for e in range(self.config.limits.experts)
            ),
            seconds=seconds,
        )
        if self._recording is not None:
            self._recording.counted.append(counters)
            self._recording.take(cast(Watchable, sim))
        return counters


def _pages(count: int) -> int:
    return -(-count // _PAGE) * _PAGE
