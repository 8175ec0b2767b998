"""The smallest case that still fails: simpler values one after the other, as long as any helps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from moevit.hw.config import AcceleratorConfig, preset
from moevit.quant.random_network import Sizes
from moevit.quant.typing import Report, silent

from .cases import TIMINGS, Case
from .running import TooLargeError

__all__ = ["shrink"]

Failing = Callable[[Case], str]
"""What is wrong with a case, empty if nothing is. May raise :class:`TooLargeError`."""

_LEAST = Sizes(
    image_height=4,
    image_width=4,
    patch=4,
    channels=1,
    dim=4,
    heads=1,
    depth=1,
    hidden=1,
    experts=1,
    top_k=1,
    expert_hidden=1,
    moe=(),
    tasks=1,
    head_channels=(),
    upscale=1,
    class_token=False,
    norm=False,
)
"""What every size shrinks towards."""


def shrink(
    case: Case, fails: Failing, *, tries: int = 400, builds: int = 12, report: Report = silent
) -> Case:
    """A smaller case with the same kind of failure (the words before its first colon).

    The schedule, the memory and the network come first, then the machine: each machine that is
    tried needs a simulator, ``builds`` of them at most. ``tries`` bounds all runs.
    """
    kind = _kind(fails(case))
    if not kind:
        return case
    built = {case.config.hash}
    done = 0
    progress = True
    while progress and done < tries:
        progress = False
        for smaller in _smaller(case):
            if done >= tries:
                break
            if smaller.config.hash not in built:
                if len(built) > builds:
                    continue
                built.add(smaller.config.hash)
            done += 1
            report(f"shrinking ({done} tries)", min(done / tries, 1.0))
            with contextlib.suppress(TooLargeError):
                if _kind(fails(smaller)) == kind:
                    case, progress = smaller, True
                    break
    return case


def _kind(failure: str) -> str:
    return failure.split(":", 1)[0].split(",", 1)[0]


def _smaller(case: Case) -> Iterator[Case]:
    """Simpler cases, the boldest steps first; what is no network is left out."""
    for simpler in (
        replace(case, schedule="single"),
        replace(case, fault="none"),
        replace(case, streamed="all"),
    ):
        if simpler != case:
            yield simpler
    if case.timing != TIMINGS["ideal"]:
        yield replace(case, memory="ideal", timing=TIMINGS["ideal"])
    for change in _sizes(case.sizes):
        with contextlib.suppress(ValueError):
            yield replace(case, sizes=replace(case.sizes, **change))
    if case.seed:
        yield replace(case, seed=0)
        yield replace(case, seed=case.seed // 2)
    for config in _configs(case.config):
        yield replace(case, config=config)


def _sizes(s: Sizes) -> Iterator[dict[str, Any]]:
    bold: tuple[tuple[str, dict[str, Any]], ...] = (
        ("depth", {"depth": 1, "moe": tuple(i for i in s.moe if i < 1)}),
        ("moe", {"moe": ()}),
        ("tasks", {"tasks": 1, "head_channels": s.head_channels[:1]}),
        ("head_channels", {"head_channels": (), "decoder_width": 0, "mean_heads": False}),
        ("experts", {"experts": 1, "top_k": 1, "window": 0, "favourite": 0, "style": "varied"}),
        ("dim", {"dim": 4, "heads": 1}),
    )
    for name, value in bold:
        if getattr(s, name) != value[name]:
            yield value
    default = Sizes()
    for f in fields(Sizes):
        now, least = getattr(s, f.name), getattr(_LEAST, f.name)
        if now == least:
            continue
        if isinstance(now, bool) or not isinstance(now, int):
            plain = getattr(default, f.name) if isinstance(now, str) else least
            if now != plain:
                yield {f.name: plain}
            continue
        step = s.patch if f.name.startswith("image") else s.heads if f.name == "dim" else 1
        floor = least if step == 1 else max(least, step)
        for value in dict.fromkeys((floor, (now + floor) // 2 // step * step, now - step)):
            if floor <= value < now:
                yield {f.name: value}


def _configs(config: AcceleratorConfig) -> Iterator[AcceleratorConfig]:
    """The smallest preset first; then the same machine with less."""
    micro = preset("micro")
    if config.hash == micro.hash:
        return
    yield micro
    a, m = config.array, config.memory
    for change in (
        {"memory__ports": 1},
        {"memory__ports": m.ports // 2},
        {"array__tokens": 2},
        {"array__inputs": 2 * a.outputs},
        {"array__outputs": 4, "array__inputs": max(8, a.inputs // 2)},
        {"memory__ring_rows": 32, "memory__demand_rows": 32, "memory__param_rows": 32},
        {"memory__landing_beats": 32},
    ):
        with contextlib.suppress(ValueError):
            smaller = config.but(**change, name="shrunk")
            if smaller.hash != config.hash:
                yield smaller
