"""All tasks of one image in one run, measured against running them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from moevit.compiler.cost.estimate import estimate
from moevit.compiler.program import ALL
from moevit.devices import open_device
from moevit.hw.config import AcceleratorConfig
from moevit.networks import Network
from moevit.quant.golden import Golden
from moevit.quant.network import Network as Integers
from moevit.quant.typing import Report
from moevit.sim.counters import STALLS
from moevit.sim.rtl import board_memory

from .frames import counted

__all__ = ["measure_all_tasks"]


def measure_all_tasks(
    network: Integers, config: AcceleratorConfig, image: Any, report: Report
) -> dict[str, Any]:
    """Cycles of all tasks with their heads, in one run and one by one, all of it in RTL.

    ``RuntimeError`` where an integer is not the golden model's.
    """
    report("compiling all tasks", 0.7)
    program = Network(network).compile(config, all_tasks=True)
    whole = program.linked.together
    if whole is None:
        raise ValueError("The program has no run of all tasks")
    timing = board_memory(config)
    golden = {t: r[0] for t, r in Golden(network).run_batch(image[None]).items()}
    singles: dict[str, int] = {}
    with open_device("sim", program, timing=timing) as device:
        for task, exact in golden.items():
            report(f"simulating {task}", 0.8)
            device.align()
            result = device.run(image, task)
            _check(task, result.output, exact.output)
            singles[task] = counted(result.counters).cycles
        report("simulating all tasks", 0.9)
        device.align()
        for task, result in device.run_all(image).items():
            _check(f"{task} of all", result.output, golden[task].output)
        counters = counted(device.counters)
    total, cycles = sum(singles.values()), counters.cycles
    predicted = estimate(program.linked, ALL, timing).cycles
    macs = whole.useful_macs
    return {
        "tasks": list(golden),
        "cycles": cycles,
        "bit_exact": True,
        "single_cycles": singles,
        "single_cycles_sum": total,
        "saved": 1 - cycles / total,
        "useful_macs": macs,
        "mac_utilisation": macs / (cycles * config.array.macs),
        "stall_cycles": {c.name.lower().removeprefix("stall_"): counters.values[c] for c in STALLS},
        "bytes_read": counters.bytes_read,
        "bytes_written": counters.bytes_written,
        "estimate_cycles": predicted,
        "estimate_error": predicted / cycles - 1,
    }


def _check(name: str, found: Any, expected: Any) -> None:
    if not np.array_equal(found, expected):
        raise RuntimeError(f"{name}: not the golden model's integers")
