"""One image through the accelerator, and all that can be said of it: what `moevit report` shows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moevit.compiler.cost.estimate import Estimate, estimate
from moevit.compiler.timeline import State, Timeline
from moevit.hw.checks import code_bytes
from moevit.hw.config import BEAT_BYTES
from moevit.hw.image import HEADER_BYTES, BlockHeader
from moevit.hw.isa import Fetch, Gemm, Load, Store
from moevit.models import Model
from moevit.quant.golden import Golden, GoldenResult
from moevit.quant.typing import Report, part_of
from moevit.quantising import quantiser_options
from moevit.traces import Recorder, timelines
from moevit.workload import Workload

from .comparison import NamedImage, Outcome, compare
from .quant_report import measure_report

__all__ = ["Explanation", "PartCost", "TaskCost", "explain", "part_of_frame"]


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """What a part of a frame costs.

    ``states``: cycles that the array spent on its instructions, by what it did; ``estimated``: all
    of them by the cycle model. ``streamed``, ``fetched``, ``moved``: bytes of weights that come
    with the stream and on demand, and of all else.
    """

    states: dict[State, int]
    estimated: int
    streamed: int
    fetched: int
    moved: int


@dataclass(frozen=True, kw_only=True)
class TaskCost:
    """One frame: its counters, what the model expected, and its parts in order."""

    task: str
    counters: dict[str, int]
    expected: Estimate
    parts: dict[str, PartCost]


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Everything about one image. ``real`` and ``expected`` have a frame a task, in order.

    ``golden``: the reference with its routing, empty where only a program is known. ``accuracy``:
    :func:`.quant_report.measure_report`, None where it was not asked for or cannot be had.
    """

    workload: Workload
    image: NamedImage
    outcomes: list[Outcome]
    real: Timeline
    expected: Timeline
    costs: list[TaskCost]
    golden: dict[str, GoldenResult]
    accuracy: dict[str, Any] | None

    @property
    def tasks(self) -> list[str]:
        """In the order of the frames."""
        return [outcome.task for outcome in self.outcomes]


def explain(
    workload: Workload,
    image: NamedImage,
    tasks: Sequence[str],
    *,
    scenes: int,
    report: Report,
) -> Explanation:
    """Runs ``tasks`` on the RTL, recorded, and measures the integers on ``scenes`` images.

    Raises as :func:`.comparison.compare`.
    """
    recorder = Recorder()
    (outcomes,) = compare(
        workload, [image], tasks, "sim", jobs=1, recorder=recorder, report=part_of(report, 0, 0.6)
    )
    report("reading the recording", 0.6)
    real, expected = timelines(recorder)
    reference = workload.reference
    golden = Golden(reference).run_batch(image.pixels[None], list(tasks)) if reference else {}
    accuracy = None
    if scenes and isinstance(workload.subject, Model):
        accuracy = _accuracy(workload, workload.subject, scenes, part_of(report, 0.65, 0.3))
    return Explanation(
        workload=workload,
        image=image,
        outcomes=outcomes,
        real=real,
        expected=expected,
        costs=[_cost(real, expected, number) for number in range(len(tasks))],
        golden={task: results[0] for task, results in golden.items()},
        accuracy=accuracy,
    )


def _accuracy(workload: Workload, model: Model, scenes: int, report: Report) -> dict[str, Any]:
    options = quantiser_options(workload.experts, workload.method)
    made = model.quantize_with_parts(
        workload.source, options=options, report=part_of(report, 0.0, 0.4)
    )
    found, _, _ = workload.source.validation(workload.model_config, scenes)
    return measure_report(
        made.exact, made.network, made.layers, workload.model_config, list(found),
        part_of(report, 0.4, 0.6),
    )  # fmt: skip


def part_of_frame(note: str) -> str:
    """The part of a network that an instruction's note names: a block, or what is around them."""
    found = re.match(r"block \d+", note)
    if found:
        return found[0]
    for word, part in (("head", "heads"), ("result", "heads"), ("embedding", "embedding")):
        if word in note:
            return part
    return "embedding" if "pixels" in note else "other"


def _cost(real: Timeline, expected: Timeline, number: int) -> TaskCost:
    from moevit.sim.rtl import board_memory

    frame, program = real.frames[number], real.program
    notes = [part_of_frame(note) for note in program.entry(frame.task).notes]
    states: dict[str, dict[State, int]] = defaultdict(lambda: defaultdict(int))
    works = [w for w in real.units["array"].works if w.frame == number]
    place = 0
    for s in real.units["array"].stretches:
        if s.end <= frame.start or s.start >= frame.end:
            continue
        # Cycles between two instructions are spent on the one that comes.
        at = max(s.start, frame.start)
        while at < min(s.end, frame.end):
            while place < len(works) and works[place].end <= at:
                place += 1
            until = min(s.end, frame.end, works[place].end if place < len(works) else frame.end)
            part = notes[works[place].index] if place < len(works) else "end"
            states[part][s.state] += until - at
            at = until
    estimated: dict[str, int] = defaultdict(int)
    last = expected.frames[number].start
    for w in expected.units["array"].works:
        if w.frame == number:
            estimated[notes[w.index]] += w.end - last
            last = w.end
    estimated["end"] = expected.frames[number].end - last
    traffic = _traffic(real, number, notes)
    order = list(dict.fromkeys([*(notes[w.index] for w in works), *states, *traffic]))
    nothing = {"streamed": 0, "fetched": 0, "moved": 0}
    return TaskCost(
        task=frame.task,
        counters=dict(frame.counters),
        expected=estimate(program, frame.task, board_memory(program.config)),
        parts={
            part: PartCost(
                states=dict(states[part]),
                estimated=estimated[part],
                **{**nothing, **traffic.get(part, {})},
            )
            for part in order
        },
    )


def _traffic(real: Timeline, number: int, notes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Bytes by part: weights by the instruction that uses them, data by the one that moves them."""
    frame, program = real.frames[number], real.program
    config, code = program.config, real.code(frame.task)
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    found["program"]["moved"] = HEADER_BYTES + code_bytes(len(code))
    blocks = iter(program.blocks(frame.task))
    kept = False
    for index, i in enumerate(code):
        if isinstance(i, Gemm):
            if not i.demand and not kept and (block := next(blocks, None)) is not None:
                beats = 1 + block.beats(config)
                found[notes[index]]["streamed"] += beats * BEAT_BYTES * config.memory.ports
            kept = bool(i.keep)
        elif isinstance(i, Load):
            row = -(-i.patches * i.patch_bytes // BEAT_BYTES)
            beats = i.strips * i.patch_rows * row if i.strips else i.beats
            found[notes[index]]["moved"] += beats * BEAT_BYTES
        elif isinstance(i, Store):
            size = 2 * config.array.outputs if i.residual else config.array.inputs
            found[notes[index]]["moved"] += i.rows * i.words * size
    for index in (index for frame_number, index in real.misses if frame_number == number):
        i = code[index]
        assert isinstance(i, Fetch)
        block = BlockHeader(
            param_rows=i.param_rows, weight_rows=i.weight_rows, packed=bool(i.packed)
        )
        beats = block.beats(config)
        found[notes[index]]["fetched"] += beats * BEAT_BYTES * config.memory.ports
    return {part: dict(each) for part, each in found.items()}
