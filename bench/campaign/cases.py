"""A case: network, machine, schedule and memory; drawn from two numbers, written as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from moevit.compiler.plan.schedule import DEFAULT_THRESHOLD
from moevit.hw.config import AcceleratorConfig
from moevit.quant.errors import UserError
from moevit.quant.operators.activations import ACTIVATIONS
from moevit.quant.random_network import Sizes
from moevit.sim.memory_timing import MemoryTiming

from .features import DRAWN, PAIRS, Pair

__all__ = ["Case", "draw", "features"]

THRESHOLDS = {"all": 0.0, "used": DEFAULT_THRESHOLD, "popular": 3.0, "none": float("inf")}
"""Tokens an image above which an expert is streamed: none above infinity."""

TIMINGS = {
    "ideal": MemoryTiming(bytes_per_cycle=128.0, read_latency=1, write_latency=1),
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
        bytes_per_cycle=40.0, read_latency=900, write_latency=700, reorder=True, outstanding=64
    ),
}
"""A memory that always answers at once, one that stalls every channel and lets bursts overtake one
another, one with little bandwidth and a refresh, and one that is far away."""

_STEERED = tuple(p for p in PAIRS if p[0] in DRAWN and p[2] in DRAWN)
_STRIDE = 1_000_003
"""A prime, so that neighbouring numbers have unlike pairs, and each pair its turn."""
_TRIES = 30


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything that a run depends on.

    ``seed``: of weights, pictures and what the chip's memories hold before. ``schedule``:
    ``single`` frames, ``all`` tasks in one frame, or a ``queue`` of frames behind one another.
    ``fault``: what goes wrong in a frame before the good ones, an error code's name or ``none``.
    """

    config: AcceleratorConfig
    sizes: Sizes
    seed: int
    streamed: str = "used"
    schedule: str = "single"
    memory: str = "ideal"
    timing: MemoryTiming = TIMINGS["ideal"]
    fault: str = "none"

    def to_json(self) -> str:
        """One line, from which :meth:`from_json` makes the case again."""
        data = asdict(self)
        data["config"] = self.config.to_dict()
        default = Sizes()
        data["sizes"] = {k: v for k, v in data["sizes"].items() if v != getattr(default, k)}
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of :meth:`to_json`; ``UserError`` for anything else."""
        try:
            data = json.loads(text)
            sizes: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in data["sizes"].items()
            }
            made = {
                **data,
                "config": AcceleratorConfig.from_dict(data["config"]),
                "sizes": Sizes(**sizes),
                "timing": MemoryTiming(**data["timing"]),
            }
            case = cls(**made)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"--case: not a case: {error}") from None
        for name in ("streamed", "schedule", "fault"):
            if getattr(case, name) not in DRAWN[name]:
                raise UserError(f"--case: unknown {name} {getattr(case, name)!r}")
        return case


def features(case: Case) -> dict[str, str]:
    """The case's values of every feature but the compiler's; those that do not apply are absent."""
    s, config = case.sizes, case.config
    rows, columns = s.image_height // s.patch, s.image_width // s.patch
    tokens = rows * columns
    found = {
        "image": "one patch"
        if tokens == 1
        else "one line"
        if rows == 1
        else "few"
        if tokens <= 9
        else "many",
        "patch": str(s.patch) if s.patch in (4, 8) else "odd",
        "channels": str(s.channels),
        "attention heads": str(s.heads),
        "width": "wide" if s.dim > config.array.inputs else "narrow",
        "hidden": _count(min(s.hidden, s.expert_hidden), ("one", "some", "many"), (1, 12)),
        "depth": str(s.depth),
        "moe": "none" if not s.moe else "all" if len(s.moe) == s.depth else "some",
        "front": _front(s),
        "output": _output(s),
        "final norm": "yes" if s.norm else "no",
        "entry norm": "yes" if s.entry else "no",
        "tasks": str(s.tasks),
        "schedule": case.schedule,
        "memory": case.memory,
        "fault": case.fault,
        "array tokens": str(config.array.tokens),
        "array outputs": str(config.array.outputs),
        "array inputs": "twice" if config.array.inputs == 2 * config.array.outputs else "more",
        "ports": str(config.memory.ports),
        "ring": str(config.memory.ring_rows),
    }
    if s.moe:
        found |= {
            "experts": _count(s.experts, ("one", "two", "more"), (1, 2)),
            "top_k": _count(s.top_k, ("1", "2", "more"), (1, 2)),
            "routing": s.style,
            "expert bits": str(s.expert_bits),
            "window": "yes" if 0 < s.window < s.experts else "no",
            "scores": "of the chosen" if s.renormalise else "of all",
            "least score": _count(round(s.threshold * 100), ("none", "some", "most"), (0, 30)),
            "router": "ahead" if s.ahead else "behind",
            "streamed": case.streamed,
        }
    return found


def _count(value: int, names: tuple[str, ...], most: tuple[int, ...]) -> str:
    """The first name whose bound holds, else the last."""
    return next((n for n, m in zip(names, most, strict=False) if value <= m), names[-1])


def _front(s: Sizes) -> str:
    if s.registers:
        return "class, registers" if s.class_token else "registers"
    return "class, distilled" if s.distilled else "class" if s.class_token else "nothing"


def _output(s: Sizes) -> str:
    if not s.head_channels:
        return "none"
    if s.decoder_width:
        return "upsampling" if s.doublings else "convolution"
    if s.class_heads:
        return "class"
    return ("pooled" if s.pool_norm else "mean") if s.mean_heads else "patches"


def draw(seed: int, number: int, config: AcceleratorConfig) -> Iterator[Case]:
    """Case ``number`` of the campaign ``seed``, and others in its place should it not fit.

    Every number has a pair of features that it is to have; the rest is chosen at random.
    """
    rng = np.random.default_rng([seed, 11, number])
    target = _STEERED[number * _STRIDE % len(_STEERED)]
    for attempt in range(10_000):
        # What does not fit again and again gets smaller, and at last is free of its pair.
        small = attempt >= 10
        for _ in range(_TRIES):
            case = _complete(rng, _choose(rng, target if attempt < 30 else None), config, small)
            if attempt >= 30 or _has(case, target):
                break
        yield case


def _has(case: Case, target: Pair) -> bool:
    found = features(case)
    return found.get(target[0]) == target[1] and found.get(target[2]) == target[3]


_WEIGHTS: Mapping[str, tuple[float, ...]] = {
    "image": (0.1, 0.2, 0.5, 0.2),
    "hidden": (0.15, 0.5, 0.35),
    "depth": (0.75, 0.25),
    "moe": (0.15, 0.25, 0.6),
    "experts": (0.1, 0.2, 0.7),
    "tasks": (0.35, 0.35, 0.3),
    "output": (0.1, 0.3, 0.15, 0.15, 0.1, 0.1, 0.1),
    "schedule": (0.5, 0.25, 0.25),
    "memory": (0.25, 0.25, 0.1, 0.1, 0.3),
    "fault": (0.78, *(0.02 for _ in range(11))),
}
"""How often the choices of a feature are made, in their order; all alike where nothing is said."""


def _choose(rng: np.random.Generator, target: Pair | None) -> dict[str, str]:
    chosen = {name: str(rng.choice(values, p=_WEIGHTS.get(name))) for name, values in DRAWN.items()}
    if target is not None:
        chosen |= {target[0]: target[1], target[2]: target[3]}
        if "schedule" in (target[0], target[2]) and chosen["schedule"] == "all":
            fixed = (target[0], target[2])
            if chosen["tasks"] == "1" and "tasks" not in fixed:
                chosen["tasks"] = "2"
            if chosen["moe"] == "none" and "moe" not in fixed:
                chosen["moe"] = "all"
    return chosen


def _complete(
    rng: np.random.Generator, want: dict[str, str], config: AcceleratorConfig, small: bool
) -> Case:
    """Numbers for the names, as near to them as a network can be."""

    def between(low: int, high: int) -> int:
        return int(rng.integers(low, max(low, high) + 1))

    rows, columns = {
        "one patch": (1, 1),
        "one line": (1, between(2, 5)),
        "few": (between(2, 3), between(1, 3)),
        "many": (between(2, 5), between(5, 6)),
    }[want["image"]]
    patch = int(rng.choice([3, 5, 7])) if want["patch"] == "odd" else int(want["patch"])
    heads, depth = int(want["attention heads"]), int(want["depth"])
    inputs, least = config.array.inputs, 4 * heads
    narrow = max(1, inputs // least)
    dim = least * (between(1, narrow) if want["width"] == "narrow" else narrow + between(1, 2))
    hidden = {"one": (1, 1), "some": (2, 12), "many": (13, 16 if small else 40)}[want["hidden"]]
    moe = {
        "none": (),
        "some": (between(0, depth - 1),),
        "all": tuple(range(depth)),
    }[want["moe"]]
    most = config.limits.experts
    experts = {"one": 1, "two": 2, "more": between(3, most)}[want["experts"]]
    window = between(1, experts - 1) if want["window"] == "yes" and experts > 2 else 0
    seen = window or experts
    top_k = {"1": 1, "2": 2, "more": between(3, most)}[want["top_k"]]
    top_k = min(top_k, seen, config.limits.top_k)
    style = want["routing"]
    if style == "starved" and top_k >= seen:
        style = "varied"
    class_token = "class" in want["front"]
    output, norm = want["output"], want["final norm"] == "yes"
    if output == "class" and not class_token:
        output = "patches"
    if output in ("patches", "class", "mean"):
        norm = True
    elif output == "pooled":
        norm = False
    tasks = int(want["tasks"])
    with_heads = 0 if output == "none" else between(1, tasks)
    maps = output in ("upsampling", "convolution")
    schedule = want["schedule"]
    if schedule == "all" and (tasks < 2 or not moe):
        schedule = "queue"
    sizes = Sizes(
        patch=patch,
        image_height=patch * rows,
        image_width=patch * columns,
        channels=int(want["channels"]),
        heads=heads,
        dim=dim,
        depth=depth,
        hidden=between(*hidden),
        experts=experts,
        top_k=top_k,
        expert_hidden=between(*hidden),
        moe=moe,
        tasks=tasks,
        head_channels=tuple(between(1, 3) for _ in range(with_heads)),
        upscale=between(1, 3),
        class_heads=output == "class",
        mean_heads=output in ("mean", "pooled"),
        pool_norm=output == "pooled",
        decoder_width=between(1, 10 if small else 24) if maps else 0,
        doublings=between(1, 1 if small else 3) if output == "upsampling" else 0,
        distilled=want["front"] == "class, distilled",
        registers=between(1, 4) if "registers" in want["front"] else 0,
        entry=want["entry norm"] == "yes",
        class_token=class_token,
        norm=norm,
        style=style,  # type: ignore[arg-type]
        favourite=between(0, seen - 1),
        expert_bits=int(want["expert bits"]),
        window=window,
        renormalise=want["scores"] == "of the chosen",
        threshold={
            "none": 0.0,
            "some": 0.1 + 0.2 * rng.random(),
            "most": 0.3 + 0.69 * rng.random(),
        }[want["least score"]],
        ahead=want["router"] == "ahead",
    )
    seed = int(rng.integers(1 << 31))
    dense, expert = (str(name) for name in rng.choice(list(ACTIVATIONS), 2))
    sizes = replace(sizes, activation=dense, expert_activation=expert)
    return Case(
        config=config,
        sizes=sizes,
        seed=seed,
        streamed=want["streamed"],
        schedule=schedule,
        memory=want["memory"],
        timing=_timing(rng, want["memory"], seed),
        fault=want["fault"],
    )


def _timing(rng: np.random.Generator, name: str, seed: int) -> MemoryTiming:
    if name in TIMINGS:
        return TIMINGS[name].but(seed=seed)
    refresh = int(rng.choice([0, 100, 780]))
    return MemoryTiming(
        bytes_per_cycle=float(np.round(2 ** rng.uniform(2, 7), 1)),
        read_latency=int(2 ** rng.uniform(0, 9)),
        write_latency=int(2 ** rng.uniform(0, 9)),
        refresh_period=refresh,
        refresh_cycles=refresh // 10,
        outstanding=int(rng.integers(1, 33)),
        stall_probability=float(rng.choice([0.0, 0.05, 0.3, 0.7])),
        reorder=bool(rng.random() < 0.5),
        seed=seed,
    )
