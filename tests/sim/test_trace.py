"""Recording: what the signals add up to, whose credits are waited for, and the trace's file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from moevit.compiler import Program, compile_network
from moevit.compiler.timeline import BUSY_UNITS, State, Timeline
from moevit.hw.config import preset
from moevit.hw.registers import Counter
from moevit.quant.random_network import Sizes, random_network
from moevit.sim.design import design_verilog
from moevit.sim.rtl import RtlDevice
from moevit.sim.trace.build import timeline
from moevit.sim.trace.perfetto import encode
from moevit.sim.trace.places import EVENTS, LEVELS
from moevit.sim.trace.recording import Recorder, Recording
from moevit.sim.trace.states import STATE_OF
from moevit.traces import timelines

pytestmark = pytest.mark.slow  # the first use builds a simulator that can record

CONFIG = preset("micro")
BEGIN, END = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END


@pytest.fixture(scope="module")
def program() -> Program:
    """Experts of both kinds: streamed, and fetched on demand."""
    network = random_network(5, Sizes(experts=4, top_k=2, moe=(0, 1)))
    return compile_network(network, CONFIG, threshold=3.0)


@pytest.fixture(scope="module")
def recorder(program: Program) -> Recorder:
    """Every task by itself, then all of them twice in a row, each behind the one before."""
    found = Recorder()
    height, width = program.image.height, program.image.width
    image = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    with RtlDevice(CONFIG, recorder=found) as device:
        device.load(program)
        for task in program.tasks:
            device.run(image, task)
        list(device.run_stream([(image, task) for task in program.tasks] * 2))
    return found


@pytest.fixture(scope="module")
def recording(recorder: Recorder) -> Recording:
    (found,) = recorder.recordings
    return found


@pytest.fixture(scope="module")
def real(recording: Recording) -> Timeline:
    return timeline(recording)


def test_signals_add_up_to_every_counter_of_every_frame(
    recording: Recording, real: Timeline, program: Program
) -> None:
    assert len(real.frames) == len(recording.counted) == 3 * len(program.tasks)
    assert any(c.values[Counter.MISSES] for c in recording.counted)
    for frame, counted in zip(real.frames, recording.counted, strict=True):
        assert frame.counters == {c.name.lower(): v for c, v in counted.values.items()}
        assert frame.end - frame.start == counted.cycles
    queued = real.frames[len(program.tasks) :]
    assert all(a.end == b.start for a, b in pairwise(queued))


def test_states_add_up_to_the_counters(recording: Recording, real: Timeline) -> None:
    for frame, counted in zip(real.frames, recording.counted, strict=True):
        array = real.units["array"]
        for counter, state in STATE_OF.items():
            cycles = array.cycles(state, frame.start, frame.end)
            assert cycles == counted.values[counter], counter
        for unit, counter in BUSY_UNITS.items():
            cycles = real.units[unit].cycles(State.BUSY, frame.start, frame.end)
            assert cycles == counted.values[Counter[counter]], unit


def test_every_instruction_is_there_once_on_its_unit(real: Timeline, program: Program) -> None:
    on = {"load": "LOAD", "store": "STORE", "norm": "NORM", "fetch": "FETCH"}
    for number, frame in enumerate(real.frames):
        listed = [type(i).__name__.upper() for i in program.instructions(frame.task)]
        compute = [n for n, name in enumerate(listed) if name in ("GEMM", "ATTENTION", "SYNC")]
        for unit, made in real.units.items():
            mine = [w for w in made.works if w.frame == number]
            assert all(a.end <= b.start for a, b in pairwise(mine)), unit
            assert all(frame.start <= w.start < w.end <= frame.end for w in mine), unit
            if unit in ("loader", "array", "epilogue"):
                assert [w.index for w in mine] == compute, unit
            elif unit in on:
                expected = [n for n, name in enumerate(listed) if name == on[unit]]
                assert [w.index for w in mine] == expected, unit
        sides = sorted(
            w.index
            for unit in ("load side 0", "load side 1")
            if unit in real.units
            for w in real.units[unit].works
            if w.frame == number
        )
        assert sides == [n for n, name in enumerate(listed) if name == "LOAD"]


def test_waits_name_an_instruction_that_gives_what_is_waited_for(
    real: Timeline, program: Program
) -> None:
    seen = 0
    for unit in ("loader", "norm", "store"):
        for stretch in real.units[unit].stretches:
            if stretch.state != State.CREDITS or stretch.end > real.frames[2].end:
                continue
            frame = next(f for f in real.frames if f.start <= stretch.start < f.end)
            (work,) = (w for w in real.units[unit].works if w.start <= stretch.start < w.end)
            code = program.instructions(frame.task)
            giver = code[int(stretch.waits_for.rpartition("#")[2][:-1])]
            assert giver.signal == code[work.index].wait
            seen += 1
    assert seen > 50


def test_levels_add_up(real: Timeline, recording: Recording) -> None:
    levels = {level.name: level for level in real.levels}
    assert max(levels["weight ring"].values) <= CONFIG.memory.ring_rows
    for name, level in levels.items():
        if name.startswith("queue of"):
            assert min(level.values) >= 0, name
    assert levels["queue of compute"].values[-1] == 0
    read = levels["m_axi_0 read"]
    ends = [*read.times[1:], read.times[-1]]
    moved = sum(
        value * (end - start)
        for start, end, value in zip(read.times, ends, read.values, strict=True)
    )
    counted = sum(c.bytes_read for c in recording.counted)
    assert moved == pytest.approx(counted, rel=0.01)


def _slices(data: bytes) -> Iterator[tuple[str, str, int, int, int]]:
    """Track, name, depth, start and end of every slice of a trace."""
    trace = Trace()
    trace.ParseFromString(data)
    tracks: dict[int, str] = {}
    names: dict[int, dict[int, str]] = defaultdict(dict)
    open_slices: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for packet in trace.packet:
        sequence = packet.trusted_packet_sequence_id
        if packet.HasField("track_descriptor"):
            about = packet.track_descriptor
            tracks[about.uuid] = about.name or about.process.process_name
        for entry in packet.interned_data.event_names:
            names[sequence][entry.iid] = entry.name
        event = packet.track_event
        stack = open_slices[event.track_uuid]
        if packet.HasField("track_event") and event.type == BEGIN:
            stack.append((names[sequence][event.name_iid], packet.timestamp))
        elif packet.HasField("track_event") and event.type == END:
            name, start = stack.pop()
            assert start <= packet.timestamp
            yield tracks[event.track_uuid], name, len(stack), start, packet.timestamp
    assert not any(open_slices.values())


def test_the_file_says_the_same(real: Timeline, recorder: Recorder, program: Program) -> None:
    both = timelines(recorder)
    assert [each.title for each in both] == ["RTL", "estimate"]
    data = encode(both[:1])
    found = list(_slices(data))
    busy = defaultdict(int)
    for track, name, _, start, end in found:
        busy[track, name] += end - start
    for counter, state in STATE_OF.items():
        total = sum(frame.counters[counter.name.lower()] for frame in real.frames)
        assert busy["array", state.value] == total, counter
    frames = [(name, start, end) for track, name, _, start, end in found if track == "frames"]
    assert frames == [(f"frame {n}: {f.task}", f.start, f.end) for n, f in enumerate(real.frames)]
    notes = set(program.entry(real.frames[0].task).notes)
    named = {name for track, name, depth, *_ in found if track == "loader" and not depth}
    assert named & notes and any("expert" in name for name in named)
    # Two files one behind the other are a trace of both, with nothing in common.
    estimate = encode(both[1:])
    assert list(_slices(data + estimate)) == [*found, *_slices(estimate)]
    assert {track for track, *_ in _slices(estimate)} <= {track for track, *_ in found}


def test_an_estimate_has_the_cycles_that_it_says(program: Program, recorder: Recorder) -> None:
    from moevit.compiler.cost.estimate import estimate
    from moevit.sim.rtl import board_memory

    _, expected = timelines(recorder)
    frame = expected.frames[0]
    about = estimate(program, frame.task, board_memory(CONFIG))
    assert frame.end - frame.start == about.cycles
    array = expected.units["array"]
    cycles = array.cycles(State.BUSY, frame.start, frame.end)
    assert cycles == pytest.approx(about.by_engine["array"], rel=0.02)


def test_nothing_is_there_to_record_unless_asked() -> None:
    """The simulator that does not record is of the design without the ports."""
    plain, watched = (design_verilog(CONFIG, watched=on) for on in (False, True))
    for port in (EVENTS, LEVELS):
        assert port not in plain and port in watched


def test_a_recording_without_a_frame(program: Program) -> None:
    recorder = Recorder()
    with RtlDevice(CONFIG, recorder=recorder) as device:
        device.load(program)
    with pytest.raises(ValueError, match="No frame of the recording has ended"):
        timeline(recorder.recordings[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--backend", "golden", "--trace", "t"], "--trace: backend golden has no cycles"),
        (["bench", "--trace", "t"], "--trace: is of one frame; expected --size"),
        (["run", "--trace", "file/t"], "file: is a file; expected a folder"),
        (["estimate", "--trace", "."], ".: is a folder; expected the name of a file"),
    ],
)
def test_refusals(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from moevit.cli.main import main

    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no picture")
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert (out, len(err.strip().splitlines())) == ("", 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
