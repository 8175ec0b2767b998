"""A campaign: batches of cases on processes of this machine, or on anything that is an executor."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moevit.bench.campaign
from moevit import compiler, hw, quant, sim
from moevit.hw.config import AcceleratorConfig
from moevit.quant.typing import Report, silent
from moevit.sim import cache
from moevit.sim.rtl import build_simulator

from .cases import Case, draw
from .machines import random_machine
from .record import Record, bits_of, summary
from .running import Bench, Outcomes, TooLargeError

__all__ = [
    "BATCH",
    "MACHINES",
    "Plan",
    "case_of",
    "first_that_fits",
    "local_processes",
    "machine_of",
    "run",
    "run_case",
]

MACHINES = 18
"""Configurations of a campaign: those have all pairs of array shapes, ports and rings."""

BATCH = 25
"""Cases that run behind one another on one simulator, without a reset."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Cases ``first`` to ``first + networks`` of the campaign ``seed`` on ``machines`` machines."""

    seed: int
    networks: int
    first: int = 0
    machines: int = MACHINES

    def batches(self, done: set[int]) -> Iterator[tuple[int, ...]]:
        """The numbers that have not been ``done``, those of a simulator together."""
        end = self.first + self.networks
        for start in range(self.first // BATCH * BATCH, end, BATCH):
            todo: list[int] = []
            for n in range(max(start, self.first), min(start + BATCH, end)):
                if n not in done:
                    todo.append(n)
                elif todo:
                    yield tuple(todo)
                    todo = []
            if todo:
                yield tuple(todo)


def machine_of(seed: int, number: int, machines: int) -> tuple[int, AcceleratorConfig]:
    """The machine of a case: its index and its configuration."""
    index = number // BATCH % machines
    return index, random_machine(seed, index)


@functools.cache
def sources() -> str:
    """Names the code that is tested, in every batch's record."""
    modules = (quant, hw, compiler, sim, moevit.bench.campaign)
    folders = [Path(str(module.__file__)).parent for module in modules]
    return cache.source_digest(*folders, suffixes=(".py", ".cpp", ".h", ".sv"))[:12]


def run_batch(seed: int, machines: int, numbers: tuple[int, ...]) -> dict[str, Any]:
    """Runs cases with consecutive ``numbers`` of one machine; their line of the record."""
    if _ending:
        sys.exit(1)
    index, config = machine_of(seed, numbers[0], machines)
    library = build_simulator(config)
    total = Outcomes()
    redrawn = 0
    failures: list[dict[str, Any]] = []
    bench = Bench(config, library)
    try:
        for number in numbers:
            case, outcome, refused = first_that_fits(bench, seed, number, config)
            redrawn += refused
            total.frames += outcome.frames
            total.cycles += outcome.cycles
            total.points += outcome.points
            total.pairs |= outcome.pairs
            if outcome.failure:
                bench.close()
                bench = Bench(config, library)
                again = bench.run(case).failure
                failures.append(
                    {
                        "number": number,
                        "failure": outcome.failure,
                        "alone": bool(again),
                        "case": case.to_json(),
                    }
                )
                bench.close()
                bench = Bench(config, library)
    finally:
        bench.close()
    return {
        "first": numbers[0],
        "networks": len(numbers),
        "machine": index,
        "frames": total.frames,
        "cycles": total.cycles,
        "redrawn": redrawn,
        "points": dict(total.points),
        "pairs": bits_of(total.pairs),
        "failures": failures,
        "sources": sources(),
    }


def first_that_fits(
    bench: Bench, seed: int, number: int, config: AcceleratorConfig
) -> tuple[Case, Outcomes, int]:
    """Runs case ``number``; itself, what it did, and how many draws did not fit before it."""
    for refused, case in enumerate(draw(seed, number, config)):
        with contextlib.suppress(TooLargeError):
            return case, bench.run(case), refused
    raise AssertionError(f"case {number} of seed {seed}: no network fits machine {config.name}")


def case_of(seed: int, number: int, machines: int = MACHINES) -> Case:
    """The case that :func:`run_batch` runs as ``number``; needs no simulator."""
    from moevit.compiler import check_fit
    from moevit.quant.random_network import random_network

    _, config = machine_of(seed, number, machines)
    for case in draw(seed, number, config):
        with contextlib.suppress(ValueError):
            check_fit(random_network(case.seed, case.sizes), config)
            return case
    raise AssertionError(f"case {number} of seed {seed}: no network fits machine {config.name}")


def run_case(case: Case, report: Report = silent) -> Outcomes:
    """One case by itself. Raises :class:`TooLargeError`."""
    with Bench(case.config, build_simulator(case.config, report)) as bench:
        return bench.run(case)


def run(
    plan: Plan, output: Path, executor: Executor, report: Report = silent
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs what ``output`` does not have yet of ``plan``; a summary, and this run's failures.

    Each batch is appended to ``output`` when it ends: whatever stops a run, the next one goes on
    from there. ``executor``: of processes (:func:`local_processes`) or of a cluster.
    """
    record = Record(output, {"seed": plan.seed, "machines": plan.machines})
    todo = list(plan.batches(record.done))
    waiting: set[Future[dict[str, Any]]] = set()
    left = sum(len(numbers) for numbers in todo)
    total = max(left, 1)
    failures: list[dict[str, Any]] = []
    try:
        for numbers in todo:
            waiting.add(executor.submit(run_batch, plan.seed, plan.machines, numbers))
        report(f"networks ({plan.networks - left}/{plan.networks})", 0.0)
        for future in as_completed(waiting):
            batch = future.result()
            record.add(batch)
            failures += batch["failures"]
            left -= batch["networks"]
            so_far = f"networks ({plan.networks - left}/{plan.networks})"
            if failures:
                so_far += f", {len(failures)} differ"
            report(so_far, 1 - left / total)
    finally:
        for future in waiting:
            future.cancel()
    return summary(record.batches), failures


@contextlib.contextmanager
def local_processes(jobs: int) -> Iterator[Executor]:
    """``jobs`` processes of this machine, 0: one for each processor. They end with the block."""
    count = jobs or len(os.sched_getaffinity(0))
    pool = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare
    )
    try:
        yield pool
    except BaseException:
        _stop(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare() -> None:
    """In each process: Ctrl-C is the parent's affair, which sends SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)


_ending = False


def _end(*_: object) -> None:
    """A process is to end: at once, and without the batches that it has been sent already."""
    global _ending
    _ending = True
    sys.exit(1)


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ends the processes at once, and what they have started: a build kills its own tools."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
