"""One case: compile, prove, and compare RTL, interpreter and golden model bit for bit."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moevit.compiler import Program, compile_network
from moevit.compiler.check import UnprovenError
from moevit.compiler.program import ALL
from moevit.hw.config import AcceleratorConfig
from moevit.hw.registers import Counter
from moevit.quant.golden import Golden, GoldenResult
from moevit.quant.network import Network
from moevit.quant.random_network import random_images, random_network
from moevit.quant.typing import Ints
from moevit.sim.counters import STALLS, Counters
from moevit.sim.device import Result
from moevit.sim.errors import DeviceError
from moevit.sim.interpreter import Interpreter, Outcome
from moevit.sim.memory_timing import MemoryTiming
from moevit.sim.native import NativeSim
from moevit.sim.rtl import RtlDevice

from . import points
from .cases import THRESHOLDS, Case, features
from .faults import failed_frame
from .features import pairs_of

__all__ = ["Bench", "Outcomes", "TooLargeError"]

_MEMORY_BYTES = 1 << 21
_MAX_CYCLES = 3_000_000
_QUEUE = 4
"""Frames behind one another: one runs, two wait, and one has to be told to wait."""


class TooLargeError(ValueError):
    """The machine cannot hold the network: no failure, the next draw takes its place."""


@dataclass(kw_only=True)
class Outcomes:
    """What a case did: frames and cycles in RTL, coverage points and pairs of features.

    ``failure``: what is wrong, in a line; empty if nothing is.
    """

    frames: int = 0
    cycles: int = 0
    points: Tally[str] = field(default_factory=Tally)
    pairs: set[Any] = field(default_factory=set)
    failure: str = ""


class _Kept:
    """A simulator that stays from program to program: neither closed nor reset between them."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._native: NativeSim | None = None
        self._size = 0
        self._fresh = False

    def connect(self, base: int, size: int, timing: MemoryTiming) -> Any:
        """What :class:`RtlDevice` asks for when a program is loaded."""
        if self._native is None or size > self._size:
            self.end()
            self._size = max(size, _MEMORY_BYTES)
            self._native = NativeSim(self._library, base=base, memory_bytes=self._size)
            self._fresh = True
        else:
            self._fresh = False
        self._native.configure(timing)
        return self

    @property
    def native(self) -> NativeSim:
        assert self._native is not None
        return self._native

    def reset(self, cycles: int = 8) -> None:
        """The first time, and whenever a device does not answer; not for another program."""
        if self._fresh:
            self.native.reset(cycles)
        self._fresh = True

    def close(self) -> None:
        """Not yet."""

    def end(self) -> None:
        """Frees the simulator."""
        if self._native is not None:
            self._native.close()
        self._native = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)


class Bench:
    """One machine, on which any number of cases run without a reset. A context manager.

    ``library``: its simulator (:func:`moevit.sim.rtl.build_simulator`).
    """

    def __init__(self, config: AcceleratorConfig, library: Path) -> None:
        self.config = config
        self._kept = _Kept(library)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the simulator."""
        self._kept.end()

    @property
    def native(self) -> NativeSim:
        """The simulator, after the first case."""
        return self._kept.native

    def device(self, timing: MemoryTiming) -> RtlDevice:
        """The machine behind a memory."""
        return RtlDevice(
            self.config, timing=timing, max_cycles=_MAX_CYCLES, connect=self._kept.connect
        )

    def run(self, case: Case) -> Outcomes:
        """Everything of one case. Raises :class:`TooLargeError` before anything has run.

        What is wrong is told in ``failure``, an exception of any layer among it.
        """
        network = random_network(case.seed, case.sizes)
        done = Outcomes()
        try:
            program = compiled(network, case)
        except UnprovenError as error:
            done.failure = f"proof: {error}"
            return done
        except ValueError as error:
            if "does not fit" in str(error):
                raise TooLargeError(str(error)) from None
            done.failure = f"compiler: ValueError: {error}"
            return done
        except Exception as error:
            done.failure = f"compiler: {type(error).__name__}: {error}"
            return done
        try:
            _Run(self, case, network, program, done).frames()
        except _DiffersError as error:
            done.failure = str(error)
        except DeviceError as error:
            done.failure = f"device: {error.code.name}: {error}"
        except Exception as error:
            done.failure = f"{type(error).__name__}: {error}"
        return done


def compiled(network: Network, case: Case) -> Program:
    """The case's program, which is proven."""
    return compile_network(
        network,
        case.config,
        threshold=THRESHOLDS[case.streamed],
        all_tasks=case.schedule == "all",
    )


class _DiffersError(Exception):
    """Something that was compared differs."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _DiffersError(message)


def same(what: str, got: Any, want: Ints) -> None:
    """Raises unless the arrays are equal, naming the first place that differs."""
    got = np.asarray(got)
    _require(got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}")
    if np.array_equal(got, want):
        return
    wrong = np.argwhere(got != want)
    at = tuple(int(n) for n in wrong[0])
    raise _DiffersError(
        f"{what}: {len(wrong)} of {want.size} values differ, first {at}: {got[at]}, "
        f"expected {want[at]}"
    )


class _Run:
    """The frames of one case."""

    def __init__(
        self, bench: Bench, case: Case, network: Network, program: Program, done: Outcomes
    ) -> None:
        self.bench, self.case, self.program, self.done = bench, case, program, done
        self.golden = Golden(network)
        self.rng = np.random.default_rng([case.seed, 3])
        self.images = random_images(case.seed, network.geometry, 2)
        self.expected: dict[tuple[int, str], GoldenResult] = {}

    def want(self, image: int, task: str) -> GoldenResult:
        """The golden model's word on a picture under a task."""
        if (image, task) not in self.expected:
            self.expected[image, task] = self.golden.run(self.images[image], task)
        return self.expected[image, task]

    def frames(self) -> None:
        """The case's schedule, a frame that fails in front of it where there is a fault."""
        case, program = self.case, self.program
        entries = [ALL] if case.schedule == "all" else list(program.tasks)
        outcomes = {entry: self.interpret(entry) for entry in entries}
        with self.bench.device(case.timing) as device:
            device.load(program)
            if case.fault != "none":
                self.fail(device)
            {"single": self.single, "all": self.all, "queue": self.queue}[case.schedule](
                device, outcomes
            )
        self.done.points.update(points.of_program(program, entries))
        found = features(case)
        spilled = any(getattr(i, "stored", 0) for e in entries for i in program.instructions(e))
        self.done.pairs = pairs_of(
            found | {"tokens lie": "in memory" if spilled else "on the chip"}
        )

    def interpret(self, entry: str) -> Outcome:
        """A frame of the first picture on the interpreter; the output must be golden's."""
        program, image = self.program, self.images[0]
        at_image = -(-len(program.memory) // 64) * 64
        at_output = -(-(at_image + program.image.size) // 64) * 64
        memory = np.full(at_output + program.output_bytes, 0xA5, np.uint8)
        memory[: len(program.memory)] = program.memory
        memory[at_image : at_image + program.image.size] = program.image.pack(image)
        outcome = Interpreter(self.case.config).run(
            memory,
            program_base=program.entry(entry).base,
            image_base=at_image,
            output_base=at_output,
            poison=self.case.seed,
        )
        _require(not any(outcome.credits), f"interpreter: credits left in {entry}")
        _require(not any(outcome.rows_left), f"interpreter: rows left in {entry}")
        whole = program.all_tasks
        if entry == ALL and whole is not None:
            outputs = dict(whole.outputs)
        else:
            outputs = {entry: program.task(entry).output}
        for task, about in outputs.items():
            start = at_output + about.address
            got = about.unpack(memory[start : start + about.size])
            same(f"interpreter, {task} of {entry}", got, self.want(0, task).output)
        self.done.points.update(points.of_outcome(program, entry, outcome))
        return outcome

    def fail(self, device: RtlDevice) -> None:
        """A frame that ends with an error; what follows must not notice."""
        task = str(self.rng.choice(list(self.program.tasks)))
        cycles = 2000
        if self.case.fault == "ABORTED":
            result = device.run(self.images[1], task)
            cycles = result.counters.cycles if result.counters else cycles
        wrong = failed_frame(
            self.case.fault,
            device,
            self.bench.native,
            self.program,
            self.images[1],
            task,
            self.rng,
            cycles,
        )
        _require(not wrong, wrong)
        self.done.frames += 1
        self.done.points[f"error {self.case.fault}"] += 1

    def single(self, device: RtlDevice, outcomes: Mapping[str, Outcome]) -> None:
        """Each task on its own."""
        for task, outcome in outcomes.items():
            result = device.run(self.images[0], task)
            same(f"RTL, {task}", result.output, self.want(0, task).output)
            self.count(result)
            self.check(result.counters, [self.want(0, task)], outcome, task)
        self.done.points["frame of one task"] += len(outcomes)
        self.done.points["frames waiting: none"] += 1

    def all(self, device: RtlDevice, outcomes: Mapping[str, Outcome]) -> None:
        """All tasks of a picture in one frame."""
        results = device.run_all(self.images[0])
        for task, result in results.items():
            same(f"RTL, {task} of all", result.output, self.want(0, task).output)
        last = next(iter(results.values()))
        self.count(last)
        wants = [self.want(0, task) for task in results]
        self.check(last.counters, wants, outcomes[ALL], ALL)
        self.done.points["frame of all tasks"] += 1
        self.done.points["frames waiting: none"] += 1

    def queue(self, device: RtlDevice, outcomes: Mapping[str, Outcome]) -> None:
        """Frames behind one another, pictures and tasks mixed: the START queue is full."""
        tasks = list(outcomes)
        length = int(self.rng.integers(2, _QUEUE + 1))
        frames = [(int(self.rng.integers(2)), str(self.rng.choice(tasks))) for _ in range(length)]
        found = list(device.run_stream([(self.images[i], task) for i, task in frames]))
        _require(len(found) == length, f"RTL: {len(found)} of {length} frames came back")
        for n, ((i, task), result) in enumerate(zip(frames, found, strict=True)):
            same(f"RTL, frame {n} of {length}, {task}", result.output, self.want(i, task).output)
            self.count(result)
        waiting = "full" if length > 2 else "one"
        self.done.points[f"frames waiting: {waiting}"] += 1
        self.done.points["frame of one task"] += length

    def count(self, result: Result) -> None:
        """A frame that was right."""
        self.done.frames += 1
        if result.counters is not None:
            self.done.cycles += result.counters.cycles
            self.done.points.update(points.of_counters(result.counters))

    def check(
        self, counters: Counters | None, wants: list[GoldenResult], outcome: Outcome, entry: str
    ) -> None:
        """Counters of a frame that ran by itself tell what happened."""
        assert counters is not None
        c, limit = counters.values, self.case.config.limits.experts
        sent = np.zeros(limit, int)
        for want in wants:
            for routing in want.routing:
                sent[: routing.experts] += np.asarray(routing.counts)
        _require(
            counters.expert_tokens == tuple(sent.tolist()),
            f"RTL, {entry}: tokens sent {counters.expert_tokens}, expected {tuple(sent.tolist())}",
        )
        stream = self.program.header(entry).stream_beats * self.case.config.memory.ports
        expected = {
            Counter.MISSES: outcome.misses,
            Counter.EMPTY_QUEUES: outcome.empty_queues,
            Counter.WEIGHT_BEATS: stream + c[Counter.DEMAND_BEATS],
        }
        for counter, value in expected.items():
            found = c[counter]
            _require(found == value, f"RTL, {entry}: {counter.name} {found}, expected {value}")
        array = c[Counter.ARRAY_BUSY] + sum(c[s] for s in STALLS)
        _require(
            abs(array - c[Counter.CYCLES]) <= 2,
            f"RTL, {entry}: stalls and work add up to {array} of {c[Counter.CYCLES]} cycles",
        )
