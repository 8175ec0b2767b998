"""What each unit does in every cycle of a recording's frames, and for whom it waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moevit.compiler.timeline import Frame, State, Stretch, Work
from moevit.hw.codes import Destination
from moevit.hw.control.sequencer import QUEUES
from moevit.hw.isa import Attention, Gemm, Instruction
from moevit.hw.registers import Counter

from .credits import Taken, at
from .frames import array_states
from .recording import Recording, Wave
from .works import inside

__all__ = ["STATE_OF", "Owner", "states"]

STATE_OF = {
    Counter.ARRAY_BUSY: State.BUSY,
    Counter.STALL_OPERAND: State.OPERANDS,
    Counter.STALL_WEIGHT: State.WEIGHTS,
    Counter.STALL_DRAIN: State.DRAIN,
    Counter.STALL_SOFTMAX: State.SOFTMAX,
    Counter.NO_WORK: State.NO_WORK,
}
"""The array's states, which the accelerator counts."""

Owner = Callable[[str, int, int], str]
"""What to call an instruction of a unit, by its index in the frame of a cycle."""

Rules = list[tuple[State, tuple[str, ...], Callable[..., Any]]]


def _both(a: Any, b: Any) -> Any:
    return a & b


def _refused(valid: Any, ready: Any) -> Any:
    return valid & (ready == 0)


def _stream(name: str) -> tuple[str, str]:
    return f"{name}.valid", f"{name}.ready"


def _rules(recording: Recording) -> dict[str, Rules]:
    """Of each unit but the array and the sequencer: states and when they apply, the first that
    does."""
    has_two = recording.has("handed_1.o.valid")
    written = [["a_write"], ["x_write", "norm"]] if has_two else [["a_write", "x_write", "norm"]]
    found: dict[str, Rules] = {
        "load": [
            (State.CREDITS, _stream("load_unit.take"), _refused),
            (State.BUSY, ("load_unit.i.valid",), lambda valid: valid),
        ],
        "fetch": [
            (State.CREDITS, _stream("weights.take"), _refused),
            (State.BUSY, ("weights.i.valid",), lambda valid: valid),
        ],
        "loader": [
            (State.CREDITS, _stream("loader.take"), _refused),
            (
                State.ARRAY,
                ("reader.reading", "reader.start", "lookup.valid", "loader.i.ready"),
                lambda reading, start, row, idle: (reading == 0) & (start == 0) & row & (idle == 0),
            ),
            (State.BUSY, ("loader.i.ready",), lambda idle: idle == 0),
        ],
        "softmax": [(State.BUSY, ("softmax.busy",), lambda busy: busy)],
        "epilogue": [
            (State.BUSY, ("epilogue.valid",), lambda valid: valid),
            (State.BUSY, _stream("epilogue.i"), _both),
            (State.ARRAY, ("epilogue.i.valid", "epilogue.tile_valid"), _refused),
            (State.HAZARD, ("epilogue.i.valid",), lambda valid: valid),
        ],
        "gate": [(State.BUSY, ("gate.busy",), lambda busy: busy)],
        "norm": [
            (State.BUSY, _stream("norm.o"), _both),
            (State.DRAIN, ("norm.o.valid",), lambda valid: valid),
            (State.CREDITS, _stream("norm.take"), _refused),
            (State.FLIGHT, ("norm.busy",), lambda busy: busy),
        ],
        "store": [
            (State.BUSY, ("store_unit.axi.wvalid", "store_unit.axi.wready"), _both),
            (State.CREDITS, _stream("store_unit.take"), _refused),
            (State.MEMORY, ("store_unit.axi.wvalid",), lambda valid: valid),
            (State.FLIGHT, ("store_unit.i.valid",), lambda valid: valid),
        ],
    }
    for n, names in enumerate(written):
        found[f"load side {n}"] = [
            *((State.BUSY, _stream(f"load_unit.{name}"), _both) for name in names),
            *((State.DRAIN, (f"load_unit.{name}.valid",), lambda valid: valid) for name in names),
            (State.MEMORY, (f"handed_{n}.o.valid",), lambda valid: valid),
        ]
    return found


def _stretches(waves: Sequence[tuple[State, Wave]], frames: Sequence[Frame]) -> list[Stretch]:
    """Runs of the first state whose wave is not 0, within the frames."""
    bounds = np.array([edge for f in frames for edge in (f.start, f.end)], np.int64)
    times = np.unique(np.concatenate([bounds, *(wave.times for _, wave in waves)]))
    times = times[(times >= bounds.min()) & (times <= bounds.max())]
    chosen = np.full(len(times), len(waves))
    for number, (_, wave) in reversed(list(enumerate(waves))):
        chosen[wave.at(times) != 0] = number
    outside = np.ones(len(times), bool)
    for f in frames:
        outside[(times >= f.start) & (times < f.end)] = False
    chosen[outside] = len(waves)
    new = np.append(True, chosen[1:] != chosen[:-1]) | np.isin(times, bounds)
    at_start, which = times[new], chosen[new]
    ends = np.append(at_start[1:], times[-1])
    return [
        Stretch(start, end, waves[number][0])
        for start, end, number in zip(at_start.tolist(), ends.tolist(), which.tolist(), strict=True)
        if number < len(waves) and end > start
    ]


def states(
    recording: Recording,
    frames: Sequence[Frame],
    code: Sequence[Sequence[Instruction]],
    works: dict[str, list[Work]],
    credits: dict[str, list[Taken]],
    owner: Owner,
) -> dict[str, list[Stretch]]:
    """The states of every unit. ``code``: of each frame; ``owner``: how a waiter names others."""
    found = {
        unit: _stretches(
            [(state, recording.combine(rule, *names)) for state, names, rule in rules], frames
        )
        for unit, rules in _rules(recording).items()
    }
    found["array"] = _stretches(
        [(STATE_OF[counter], wave) for counter, wave in array_states(recording).items()], frames
    )
    found["sequencer"] = _sequencer(recording, frames, code)
    for unit, stretches in found.items():
        takes = np.array([t.cycle for t in credits.get(unit, ())], np.int64)
        for n, s in enumerate(stretches):
            if s.state == State.CREDITS:
                place = int(np.searchsorted(takes, s.start))
                if place < len(takes):
                    taken = credits[unit][place]
                    stretches[n] = replace(s, waits_for=owner(taken.unit, taken.index, s.start))
    _name_others(found, works, code, owner)
    return found


def _name_others(
    found: dict[str, list[Stretch]],
    works: dict[str, list[Work]],
    code: Sequence[Sequence[Instruction]],
    owner: Owner,
) -> None:
    """For whom the array, the loader and those behind the array wait."""

    def doing(unit: str, cycle: int) -> str:
        work = at(works.get(unit, ()), cycle)
        return unit if work is None else owner(unit, work.index, cycle)

    waits = [s for s in found["loader"] if s.state == State.CREDITS]
    starts = np.array([s.start for s in waits], np.int64)

    def loader(cycle: int) -> str:
        place = int(np.searchsorted(starts, cycle, side="right")) - 1
        text = doing("loader", cycle)
        if place >= 0 and cycle < waits[place].end and waits[place].waits_for:
            text += f", which waits for {waits[place].waits_for}"
        return text

    for n, s in enumerate(found["array"]):
        last = s.end - 1
        if s.state == State.OPERANDS:
            text = loader(last)
        elif s.state == State.WEIGHTS:
            work = at(works["array"], last)
            here = None if work is None else code[work.frame][work.index]
            on_demand = isinstance(here, Gemm) and here.demand
            text = "an expert on demand" if on_demand else "the weight stream"
        elif s.state == State.DRAIN:
            text = doing("epilogue", last)
        elif s.state == State.SOFTMAX:
            text = doing("softmax", last)
        else:
            continue
        found["array"][n] = replace(s, waits_for=text)
    for n, s in enumerate(found["epilogue"]):
        if s.state == State.ARRAY:
            found["epilogue"][n] = replace(s, waits_for=doing("array", s.end - 1))
        elif s.state == State.HAZARD:
            work = at(works["epilogue"], s.start)
            here = None if work is None else code[work.frame][work.index]
            state = State.HAZARD
            if isinstance(here, Attention):
                state = State.SOFTMAX
            elif isinstance(here, Gemm) and here.mode == Destination.GATE:
                state = State.GATE
            found["epilogue"][n] = replace(s, state=state)
    for n, s in enumerate(found["loader"]):
        if s.state == State.ARRAY:
            found["loader"][n] = replace(s, waits_for=doing("array", s.end - 1))


def _sequencer(
    recording: Recording, frames: Sequence[Frame], code: Sequence[Sequence[Instruction]]
) -> list[Stretch]:
    """Hands instructions out, waits for them, for room in a queue, or for the frame's end."""
    fired = [recording.fires(f"{queue}_queue.i") for queue in QUEUES]
    dispatches = np.sort(np.concatenate(fired))
    waves = [
        (State.BUSY, recording.combine(_both, *_stream("sequencer.code"))),
        (State.QUEUE, recording.combine(_refused, *_stream("sequencer.code"))),
        (State.MEMORY, recording.wave("sequencer.busy")),
    ]
    found: list[Stretch] = []
    for frame, instructions in zip(frames, code, strict=True):
        mine = inside(dispatches, frame)
        if not len(mine):
            continue
        first, last = int(mine[0]), int(mine[-1]) + 1
        found.append(Stretch(frame.start, first, State.FLIGHT, "its header and first instructions"))
        middle = Frame(task=frame.task, start=first, end=last)
        for s in _stretches(waves, [middle]):
            if s.state == State.QUEUE:
                index = int(np.searchsorted(mine, s.start))
                opcode = instructions[index].OPCODE
                queue = next(name for name, codes in QUEUES.items() if opcode in codes)
                s = replace(s, waits_for=f"the queue of {queue}")
            found.append(s)
        found.append(Stretch(last, frame.end, State.FLIGHT, "the engines, at the frame's end"))
    return found
