"""The verilated accelerator for tests: builds, a board that is never reset, memories that annoy."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from moevit.compiler import Program
from moevit.hw.config import AcceleratorConfig, ArrayConfig, LimitConfig, MemoryConfig, preset
from moevit.hw.registers import (
    COUNTER_BASE,
    DIAL,
    EXPERT_BASE,
    Control,
    Counter,
    Error,
    Register,
    Status,
)
from moevit.quant.dial import AS_COMPILED, NEVER, Dial
from moevit.quant.formats import SCORE, WEIGHT_BITS
from moevit.quant.operators.activations import ACTIVATIONS
from moevit.quant.random_network import Sizes
from moevit.sim.memory_timing import MemoryTiming
from moevit.sim.native import NativeSim
from moevit.sim.rtl import build_simulator

__all__ = [
    "CONFIGS",
    "ODD",
    "SMALL",
    "TIMINGS",
    "Board",
    "Frame",
    "mismatch",
    "random_dial",
    "random_sizes",
]

SMALL = AcceleratorConfig(
    name="small",
    array=ArrayConfig(tokens=4, inputs=16, outputs=4),
    memory=MemoryConfig(
        activation_words=1500,
        residual_words=1100,
        kv_rows=300,
        ring_rows=64,
        demand_rows=32,
        param_rows=32,
        demand_param_rows=32,
        norm_rows=150,
        ports=2,
        landing_beats=32,
    ),
    limits=LimitConfig(tokens=60, depth=432, experts=6, top_k=3),
    clock_mhz=100.0,
    watchdog_cycles=4000,
    drain_rows=2,
)
"""Two rows drained a cycle, two ports, four output tiles in an activation word, memories and limits
that are no powers of two, rings that hold a few output tiles, and a short watchdog."""

ODD = SMALL.but(name="odd", array__tokens=6)
"""Six tokens: tiles are no power of two, and no multiple of the outputs or fraction of them."""

CONFIGS = {"micro": preset("micro"), "small": SMALL, "odd": ODD}

TIMINGS = {
    "ideal": MemoryTiming(bytes_per_cycle=64.0, read_latency=1, write_latency=1),
    "stalls": MemoryTiming(
        bytes_per_cycle=24.0, read_latency=5, write_latency=3, stall_probability=0.5, reorder=True
    ),
    "narrow": MemoryTiming(
        bytes_per_cycle=5.0,
        read_latency=40,
        refresh_period=300,
        refresh_cycles=60,
        outstanding=1,
        stall_probability=0.1,
    ),
    "far": MemoryTiming(
        bytes_per_cycle=40.0, read_latency=1500, write_latency=900, reorder=True, outstanding=64
    ),
}
"""A memory that always answers at once, one that stalls every channel, one with little bandwidth,
and one that is far away."""

_BASE = 0x4000_0000
_IMAGE = _BASE + (1 << 20)
_OUTPUT = _IMAGE + (1 << 18)
_SIZE = (1 << 20) + (1 << 19)


@dataclass
class Frame:
    """How a frame ended."""

    error: Error
    cycles: int
    output: Any = None
    counters: dict[Counter, int] = field(default_factory=dict)
    expert_tokens: list[int] = field(default_factory=list)


class Board:
    """One verilated accelerator and its memory. It is reset once, before the first frame.

    Like a driver, except that it takes any program, and memory whose content a test has changed.
    """

    image_base, output_base, program_base = _IMAGE, _OUTPUT, _BASE

    def __init__(
        self,
        config: AcceleratorConfig,
        timing: MemoryTiming | None = None,
        library: Path | None = None,
    ) -> None:
        self.config = config
        library = library or build_simulator(config)
        self.sim = NativeSim(library, base=_BASE, memory_bytes=_SIZE, timing=timing)
        self.sim.reset()
        self.sim.reg_write(Register.IRQ_ENABLE, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sim.close()

    def place(self, program: Program, image: Any) -> None:
        """Program and image to memory; poison where the output will be."""
        self.sim.write(_BASE, program.memory.tobytes())
        self.sim.write(_IMAGE, program.image.pack(image).tobytes())
        self.sim.write(_OUTPUT, b"\xa5" * program.output_bytes)

    def start(
        self,
        program: int,
        *,
        image: int = _IMAGE,
        output: int = _OUTPUT,
        dial: Dial = AS_COMPILED,
    ) -> None:
        """Base registers and the dial's, and START."""
        sim = self.sim
        sim.reg_write(Register.PROGRAM_BASE, program)
        sim.reg_write(Register.IMAGE_BASE, image)
        sim.reg_write(Register.OUTPUT_BASE, output)
        for register, limit in DIAL.items():
            sim.reg_write(register, getattr(dial, limit))
        sim.reg_write(Register.CONTROL, 1 << Control.START)

    def wait(self, limit: int = 3_000_000) -> Frame:
        """Until the interrupt; the device must be idle then. Breaches of the protocol fail."""
        sim = self.sim
        run = sim.run(limit)
        status = sim.reg_read(Register.STATUS)
        error = Error(sim.reg_read(Register.ERROR))
        assert run.interrupt, f"no interrupt in {limit} cycles, status {status:#x}, {error.name}"
        assert not status >> Status.BUSY & 1, f"busy after the interrupt: status {status:#x}"
        assert bool(status >> Status.FAILED & 1) == (error != Error.NONE), (status, error)
        assert bool(status >> Status.DONE & 1) == (error == Error.NONE), (status, error)
        assert sim.stats.violations == 0, sim.stats
        frame = Frame(error, run.cycles)
        frame.counters = {c: sim.reg_read(COUNTER_BASE + 4 * c) for c in Counter}
        frame.expert_tokens = [
            sim.reg_read(EXPERT_BASE + 4 * e) for e in range(self.config.limits.experts)
        ]
        sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
        return frame

    def run(
        self,
        program: Program,
        image: Any,
        task: str,
        limit: int = 3_000_000,
        dial: Dial = AS_COMPILED,
    ) -> Frame:
        """A whole frame; the output is there if it succeeded."""
        self.place(program, image)
        about = program.task(task)
        self.start(_BASE + about.base, dial=dial)
        frame = self.wait(limit)
        if frame.error == Error.NONE:
            where = about.output
            frame.output = where.unpack(self.sim.read(_OUTPUT + where.address, where.size))
        return frame


def random_sizes(rng: np.random.Generator, config: AcceleratorConfig) -> Sizes:
    """A small network; one in three has something extreme about it. It may not fit ``config``."""

    def between(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    patch = int(rng.choice([4, 8]))
    heads = between(1, 3)
    depth = between(1, 2)
    experts = int(rng.choice([1, between(2, config.limits.experts)], p=[0.15, 0.85]))
    window = between(1, experts) if rng.random() < 0.3 else 0
    seen = window or experts
    top_k = between(1, min(seen, config.limits.top_k))
    if rng.random() < 0.2:
        top_k = min(seen, config.limits.top_k)
    styles = ["varied", "varied", "one"] + ["starved"] * (top_k < seen)
    norm = rng.random() < 0.85
    class_token = rng.random() < 0.5
    heads_on = rng.choice(["patches", "class", "mean"], p=[0.6, 0.2, 0.2])
    tasks = between(1, 3)
    sizes = Sizes(
        patch=patch,
        image_height=patch * between(1, 6),
        image_width=patch * between(1, 6),
        channels=int(rng.choice([1, 3])),
        heads=heads,
        dim=heads * 4 * between(1, 8),
        depth=depth,
        hidden=between(1, 120),
        experts=experts,
        top_k=top_k,
        expert_hidden=between(1, 70),
        moe=tuple(n for n in range(depth) if rng.random() < 0.7),
        tasks=tasks,
        head_channels=tuple(between(1, 3) for _ in range(between(0, tasks) * norm)),
        upscale=between(1, 3),
        class_token=class_token,
        class_heads=bool(class_token and heads_on == "class"),
        mean_heads=bool(heads_on == "mean"),
        distilled=bool(class_token and rng.random() < 0.4),
        norm=norm,
        style=str(rng.choice(styles)),
        favourite=between(0, seen - 1),
        window=window,
        renormalise=rng.random() < 0.4,
        threshold=float(rng.choice([0.0, 0.05, 0.2, 0.5, 0.99], p=[0.5, 0.15, 0.15, 0.1, 0.1])),
        top_p=float(rng.choice([1.0, rng.uniform(0.2, 1.0)], p=[0.6, 0.4])),
        ahead=rng.random() < 0.4,
        expert_bits=int(rng.choice(WEIGHT_BITS)),
    )
    if rng.random() < 0.3:
        own = int(rng.choice([3, 5, 7]))
        rows, columns = sizes.image_height // patch, sizes.image_width // patch
        sizes = replace(sizes, patch=own, image_height=own * rows, image_width=own * columns)
    sizes = replace(sizes, registers=int(rng.choice([0, 0, 1, 4])), entry=rng.random() < 0.4)
    dense, expert = (str(rng.choice(list(ACTIVATIONS))) for _ in range(2))
    sizes = replace(sizes, activation=dense, expert_activation=expert)
    if heads_on != "patches" or rng.random() < 0.6:
        return sizes
    channels = tuple(between(1, 5) for _ in range(between(1, tasks)))
    width, doublings = between(1, 20), between(0, 2)
    return replace(sizes, decoder_width=width, doublings=doublings, head_channels=channels)


def random_dial(rng: np.random.Generator, compiled: Dial) -> Dial:
    """Of a frame: half of the time none, else any that ``compiled`` allows, the strictest too."""
    if not compiled.top_k or rng.random() < 0.5:
        return AS_COMPILED
    enough = int(rng.choice([rng.integers(1, SCORE.max), 1, SCORE.max]))
    dial = Dial(
        top_k=int(rng.integers(0, compiled.top_k + 1)),
        least=int(rng.choice([0, max(compiled.least, int(rng.integers(1, SCORE.max // 2)))])),
        enough=int(rng.choice([0, min(enough, compiled.enough or NEVER)])),
    )
    dial.check(compiled)
    return dial


def mismatch(got: Any, want: Any) -> str:
    """Empty if the arrays are equal, else the first index that differs and how many do."""
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}"
    wrong = np.argwhere(got != want)
    if not len(wrong):
        return ""
    first = tuple(int(n) for n in wrong[0])
    return (
        f"{len(wrong)} of {want.size} differ, first {first}: {got[first]}, expected {want[first]}"
    )
