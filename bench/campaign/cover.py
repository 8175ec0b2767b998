"""A small campaign on simulators that count lines and toggles of the RTL."""

from __future__ import annotations

import tempfile
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any

from moevit.quant.errors import CheckFailedError
from moevit.quant.typing import Report, silent
from moevit.sim.native_library import write_coverage

from .campaign import Plan, first_that_fits, machine_of
from .lines import Lines, build_counting, read_lines
from .running import Bench

__all__ = ["cover"]


def cover(
    plan: Plan, executor: Executor, *, toggles: bool = False, report: Report = silent
) -> dict[str, Any]:
    """Runs ``plan``, a machine in each process; lines that ran of all, and those that never did.

    Builds take minutes and frames several times as long as without counting. Raises
    :class:`~moevit.quant.errors.CheckFailedError` for a case that differs.
    """
    by_machine: dict[int, list[int]] = {}
    for number in range(plan.first, plan.first + plan.networks):
        index, _ = machine_of(plan.seed, number, plan.machines)
        by_machine.setdefault(index, []).append(number)
    total, frames, machines = Lines(), 0, {}
    report(f"machines (0/{len(by_machine)})", 0.0)
    futures = {
        executor.submit(_machine, plan, numbers, toggles): index
        for index, numbers in by_machine.items()
    }
    for future in as_completed(futures):
        lines, ran = future.result()
        frames += ran
        total.add(lines)
        machines[str(futures[future])] = _counts(lines)
        share = len(machines) / len(by_machine)
        report(f"machines ({len(machines)}/{len(by_machine)})", share)
    return {
        "networks": plan.networks,
        "seed": plan.seed,
        "frames": frames,
        **_counts(total),
        "by_machine": dict(sorted(machines.items(), key=lambda item: int(item[0]))),
        "missing": [
            {"component": c, "signal": signal, "line": text} for c, signal, _, text in total.missing
        ],
    }


def _counts(lines: Lines) -> dict[str, int]:
    ran, every = lines.lines
    return {
        "lines": every,
        "lines_run": ran,
        "toggles": len(lines.toggles),
        "toggled": len(lines.toggled),
    }


def _machine(plan: Plan, numbers: list[int], toggles: bool) -> tuple[Lines, int]:
    """The cases of one machine: what they covered, and their frames."""
    _, config = machine_of(plan.seed, numbers[0], plan.machines)
    library = build_counting(config, toggles=toggles)
    frames = 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "coverage.dat"
        with Bench(config, library) as bench:
            for number in numbers:
                _, outcome, _ = first_that_fits(bench, plan.seed, number, config)
                if outcome.failure:
                    raise CheckFailedError(f"network {number}: {outcome.failure}")
                frames += outcome.frames
            write_coverage(library, data)
        return read_lines(data, config), frames
