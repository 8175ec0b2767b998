"""Whole frames of any model size in RTL, beside the peers: `moevit bench --size`.

The timed frame runs from uint8 pixels to the last block's features, as the peers' does; the same
frame with the final norm and the task's head is run beside it. The memory is that of the board.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moevit import model as model_package
from moevit import quant as quant_package
from moevit.compiler.cost.estimate import estimate
from moevit.devices import Device, open_device
from moevit.files import readable
from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.registers import Counter
from moevit.model.config import ModelConfig
from moevit.model.config import preset as model_preset
from moevit.networks import Network
from moevit.programs import Program
from moevit.quant.errors import UserError
from moevit.quant.golden import Golden, GoldenResult
from moevit.quant.io import load_network, save_network
from moevit.quant.network import Network as Integers
from moevit.quant.ptq.balance import balance_routers
from moevit.quant.typing import Report, silent
from moevit.quantising import DEFAULT_EXPERTS, expert_bits, quantise_model
from moevit.sim import cache
from moevit.sim.counters import STALLS, Counters, performance
from moevit.sim.rtl import board_memory, build_simulator
from moevit.sim.trace.recording import Recorder

from .peers import BOARD_WATTS

__all__ = ["ROUTERS", "Reference", "backbone", "counted", "measure_frames", "reference_network"]


ROUTERS = ("uniform", "random")
"""Routers that are made here; any other name is a checkpoint."""

_CALIBRATION_IMAGES = 8  # of random weights: they only set scales and schedules
_PICOJOULES_A_BIT = 20.0  # DDR4 with its PHY, a usual assumption


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Which network runs on what."""

    size: str
    config: AcceleratorConfig
    image: tuple[int, int] | None = None
    experts: str = DEFAULT_EXPERTS
    router: str = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        expert_bits(self.experts, "--experts")
        try:
            _ = self.model_config
        except ValueError as error:
            if self.image is None:
                raise
            raise UserError(f"--image-size: {error}") from None

    @property
    def model_config(self) -> ModelConfig:
        """The model; a checkpoint must be of it."""
        config = model_preset(self.size)
        return config if self.image is None else dataclasses.replace(config, image=self.image)

    @property
    def checkpoint(self) -> Path | None:
        """The trained weights, where ``router`` names them."""
        if self.router in ROUTERS:
            return None
        return readable(Path(self.router), f"{', '.join(ROUTERS)} or a checkpoint")

    @property
    def checkpoint_digest(self) -> str | None:
        """SHA-256 of the trained weights, so that a figure says which they were."""
        path = self.checkpoint
        return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def reference_network(reference: Reference, report: Report) -> Integers:
    """The quantised network, from the cache: random weights of a seed, or a checkpoint's."""
    path, config = reference.checkpoint, reference.model_config
    folders = (Path(str(p.__file__)).parent for p in (model_package, quant_package))
    key = cache.digest(
        "reference",
        config.to_json() if path is None else path.read_bytes(),
        json.dumps([reference.experts, reference.router in ROUTERS[:1], reference.seed]),
        cache.source_digest(*folders),
    )
    name = "network.safetensors"

    def make(folder: Path) -> None:
        save_network(_make(reference, report), folder / name)

    def waiting() -> None:
        report("waiting for another process that quantises the same model", 0.0)

    network = load_network(cache.entry("networks", key, make, waiting) / name)
    g, wanted = network.geometry, config.image
    if (g.image_height, g.image_width) != wanted or g.dim != config.dim:
        raise UserError(
            f"{path}: is a model of width {g.dim} for {g.image_height}x{g.image_width} pixels, "
            f"expected {config.dim} and {wanted[0]}x{wanted[1]}"
        )
    return network


def _make(reference: Reference, report: Report) -> Integers:
    import torch

    from moevit.model.checkpoint import load
    from moevit.model.m3vit import M3ViT
    from moevit.quant.ptq.quantize import Options

    report("making the model", 0.0)
    path = reference.checkpoint
    torch.manual_seed(reference.seed)
    model = M3ViT(reference.model_config) if path is None else load(path)
    options = Options(expert_bits=expert_bits(reference.experts))
    images = _CALIBRATION_IMAGES if path is None else 8 * _CALIBRATION_IMAGES
    network = quantise_model(model, count=images, options=options, report=report).network
    if reference.router != "uniform":
        return network
    # On the benchmark's own image: random weights route by image rather than by token, so
    # that what is even over others is not even here.
    report("balancing the routers", 1.0)
    return balance_routers(network, _image(reference)[None])


def backbone(network: Integers) -> Integers:
    """The network up to its last block's features, which are the residual stream."""
    return dataclasses.replace(network, norm=None, heads={})


def _fails(name: str, found: Any, expected: Any) -> None:
    if not np.array_equal(found, expected):
        raise RuntimeError(f"{name}: not the golden model's integers")


def measure_frames(
    reference: Reference,
    *,
    tasks: Sequence[str] = (),
    all_tasks: bool = False,
    on_demand: int = 0,
    resources: bool = False,
    stream: int = 0,
    recorder: Recorder | None = None,
    report: Report,
) -> dict[str, Any]:
    """One test scene through the RTL: what a machine reads of `moevit bench --size`.

    ``tasks`` are run one frame after the other on one device, the first task alone if empty; each
    is repeated once before, so that what a switch costs is a difference of two measurements.
    ``all_tasks`` adds one run of every task of the image. ``on_demand``: the frame once more with
    so many experts of each layer left out of the stream, for what a miss costs. ``resources`` adds
    the DSP blocks by synthesis. ``stream``: so many scenes back to back, their tasks in turn.
    ``recorder`` gets what the accelerator does in all these frames but those of ``on_demand`` and
    ``all_tasks``.
    ``RuntimeError`` where an integer is not the golden model's.
    """
    config = reference.config
    network = reference_network(reference, report)
    tasks = list(tasks) or [network.tasks[0]]
    for task in tasks:
        if task not in network.tasks:
            expected = ", ".join(network.tasks)
            raise UserError(f"--tasks: unknown task {task!r}; expected some of {expected}")
    distinct = list(dict.fromkeys(tasks))
    report("compiling", 0.0)
    body = backbone(network)
    program = Network(body).compile(config, distinct)
    build_simulator(config, report)
    report("computing the golden model", 0.0)
    image = _image(reference)
    golden = {task: Golden(body).run(image, task) for task in distinct}
    with open_device("sim", program, recorder=recorder) as device:
        repeats: dict[str, Counters] = {}
        for task in distinct:
            for _ in range(2 if len(tasks) > 1 else 1):
                repeats[task] = _run(device, image, golden[task], report)
        first = repeats[tasks[0]]
        frames = [(tasks[0], first)]
        if len(tasks) > 1:
            frames = [(t, _run(device, image, golden[t], report)) for t in tasks]
        back_to_back = _stream(device, reference, body, distinct, stream, report)
    found = _frame(reference, config, program, golden[tasks[0]], first)
    found |= back_to_back
    found |= _with_head(reference, config, network, tasks[0], image, first, report)
    found["frames"] = [{"task": task, "cycles": c.cycles} for task, c in frames]
    if len(tasks) > 1:
        found["repeat_cycles"] = {task: c.cycles for task, c in repeats.items()}
        found["switch_cycles"] = sum(c.cycles - repeats[task].cycles for task, c in frames)
    if on_demand:
        found["on_demand"] = _misses(body, config, on_demand, image, golden[tasks[0]], first)
    if resources:
        from moevit.boards.resources import report as synthesise

        found["dsp"] = round(synthesise(config, progress=report).uses["DSP"])
    if all_tasks:
        from .all_tasks import measure_all_tasks

        found["all_tasks"] = measure_all_tasks(network, config, image, report)
    return found


def _image(reference: Reference, number: int = 0) -> Any:
    from moevit.model.scenes.render import scene

    return scene("test", number, *reference.model_config.image).image


def _stream(
    device: Device,
    reference: Reference,
    network: Integers,
    tasks: Sequence[str],
    count: int,
    report: Report,
) -> dict[str, Any]:
    """``count`` scenes one frame behind the other; a frame's cycles count from the end of the one
    before, so that the mean without the first is what a frame takes in the long run."""
    if not count:
        return {}
    frames = [(_image(reference, n), tasks[n % len(tasks)]) for n in range(count)]
    golden = Golden(network)
    cycles = []
    for n, result in enumerate(device.run_stream(frames)):
        report(f"simulating frame {n + 1} of {count}", n / count)
        image, task = frames[n]
        _fails(f"frame {n + 1}, {task}", result.output, golden.run(image, task).output)
        cycles.append(counted(result.counters).cycles)
    mean = sum(cycles[1:]) / max(len(cycles) - 1, 1)
    listed = [{"task": task, "cycles": c} for (_, task), c in zip(frames, cycles, strict=True)]
    return {"stream": {"frames": listed, "mean_cycles": mean}}


def counted(counters: Counters | None) -> Counters:
    """A device's counters; ``RuntimeError`` if it has none."""
    if counters is None:
        raise RuntimeError("The device has counted nothing")
    return counters


def _run(device: Device, image: Any, expected: GoldenResult, report: Report) -> Counters:
    report(f"simulating {expected.task}", 0.5)
    device.align()  # so that frames differ in nothing but what they do
    result = device.run(image, expected.task)
    _fails(f"{device.program.config.name}, {expected.task}", result.output, expected.output)
    return counted(result.counters)


def _multiplier_clock(config: AcceleratorConfig) -> int:
    """The clock of the board's multipliers, as a multiple of the accelerator's."""
    from moevit.boards import platform
    from moevit.boards.parts import primitives
    from moevit.hw.verilog import clocks

    return max((c.times for c in clocks(platform(primitives(config.name)))), default=1)


def _frame(
    reference: Reference,
    config: AcceleratorConfig,
    program: Program,
    golden: GoldenResult,
    counters: Counters,
) -> dict[str, Any]:
    task, timing = golden.task, board_memory(config)
    macs = program.linked.task(task).useful_macs
    cost = performance(counters, config, macs)
    lengths = [layer.counts for layer in golden.routing]
    predicted = estimate(program.linked, task, timing).cycles
    routed = estimate(program.linked, task, timing, lengths=lengths).cycles
    values = counters.values
    return {
        "preset": config.name,
        "config_hash": f"{config.hash:016x}",
        "multiplier_clock_mhz": config.clock_mhz * _multiplier_clock(config),
        "size": reference.size,
        "image_size": "x".join(str(side) for side in reference.model_config.image),
        "tokens": program.linked.geometry.tokens,
        "task": task,
        "router": reference.router if reference.checkpoint is None else "trained",
        "checkpoint": reference.checkpoint_digest,
        "experts": reference.experts,
        "bit_exact": True,
        "cycles": cost.cycles,
        "ms": cost.ms,
        "fps": cost.fps,
        "clock_mhz": config.clock_mhz,
        "mac_utilisation": cost.mac_utilisation,
        "useful_macs": macs,
        "macs_per_cycle": config.array.macs,
        "array_busy_cycles": values[Counter.ARRAY_BUSY],
        "stall_cycles": _stalls(counters),
        "bytes_read": counters.bytes_read,
        "bytes_written": counters.bytes_written,
        "misses": values[Counter.MISSES],
        "expert_tokens": [list(layer) for layer in lengths],
        "simulation_s": counters.seconds,
        "simulated_cycles_per_s": counters.cycles_per_second,
        "estimate_cycles": predicted,
        "estimate_error": predicted / cost.cycles - 1,
        "estimate_cycles_this_routing": routed,
        "energy_estimate": energy(cost.ms, counters.bytes_read + counters.bytes_written),
        "memory": asdict(timing),
    }


def energy(ms: float, moved: int) -> dict[str, Any]:
    """An estimate of a frame's energy, with what it assumes."""
    low, high = BOARD_WATTS
    return {
        "millijoules": [low * ms, high * ms],
        "of_which_memory": moved * 8 * _PICOJOULES_A_BIT * 1e-9,
        "assumes": f"a board that draws {low} to {high} W as the peers' do, {_PICOJOULES_A_BIT:g} "
        "pJ a bit of DDR4 traffic, the target clock; nothing is measured",
    }


def _misses(
    network: Integers,
    config: AcceleratorConfig,
    experts: int,
    image: Any,
    golden: GoldenResult,
    streamed: Counters,
) -> dict[str, Any]:
    """The frame with the ``experts`` least used of each layer fetched on demand."""
    program = Network(network).compile(config, [golden.task], fetched=experts)
    with open_device("sim", program) as device:
        found = _run(device, image, golden, silent)
    misses = found.values[Counter.MISSES] - streamed.values[Counter.MISSES]
    extra = found.cycles - streamed.cycles
    fetched = found.values[Counter.DEMAND_BEATS] - streamed.values[Counter.DEMAND_BEATS]
    return {
        "experts_a_layer": experts,
        "misses": misses,
        "cycles": found.cycles,
        "extra_cycles": extra,
        "extra_cycles_a_miss": extra / misses if misses else 0.0,
        "bytes_a_miss": fetched * BEAT_BYTES / misses if misses else 0.0,
        "bytes_read": found.bytes_read,
        "stall_cycles": _stalls(found),
    }


def _stalls(counters: Counters) -> dict[str, int]:
    return {c.name.lower().removeprefix("stall_"): counters.values[c] for c in STALLS}


def _with_head(
    reference: Reference,
    config: AcceleratorConfig,
    network: Integers,
    task: str,
    image: Any,
    alone: Counters,
    report: Report,
) -> dict[str, Any]:
    """The same frame with final norm and head."""
    program = Network(network).compile(config, [task])
    golden = Golden(network).run(image, task)
    with open_device("sim", program) as device:
        cycles = _run(device, image, golden, report).cycles
    predicted = estimate(program.linked, task, board_memory(config)).cycles
    return {
        "cycles_with_head": cycles,
        "head_cycles": cycles - alone.cycles,
        "estimate_cycles_with_head": predicted,
    }
