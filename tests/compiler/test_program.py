"""Program files: everything comes back, and a damaged file is refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from moevit.compiler import Program, compile_network
from moevit.compiler.disasm import disassemble, format_instruction
from moevit.hw.config import preset
from moevit.hw.formats import UNSEALED, seal
from moevit.hw.isa import Fetch, Gemm
from moevit.quant.random_network import Sizes, random_network


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(random_network(3), preset("micro"), threshold=2.0)


def rewritten(program: Program, **changes: object) -> bytes:
    """The file with other fields in its JSON."""
    data = program.to_bytes()
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    about = json.loads(metadata["program"])
    for key, value in changes.items():
        if value is None:
            del about[key]
        else:
            about[key] = value
    metadata |= {"program": json.dumps(about), "sha256": UNSEALED}
    return seal(save({"memory": program.memory}, metadata))


def test_round_trip(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "net.mvp"
    program.save(path)
    again = Program.load(path)
    np.testing.assert_array_equal(again.memory, program.memory)
    for name in ("config", "geometry", "image", "tasks", "regions", "meta"):
        assert getattr(again, name) == getattr(program, name)
    assert [p.name for p in tmp_path.iterdir()] == ["net.mvp"]


def test_missing_and_cut_short(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.mvp: cannot be read: No such file"):
        Program.load(tmp_path / "no.mvp")
    data = program.to_bytes()
    for size in (0, 7, 100, len(data) // 2, len(data) - 1):
        path = tmp_path / "cut.mvp"
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut\.mvp: not a program file, or cut short"):
            Program.load(path)


def test_damaged(program: Program) -> None:
    data = bytearray(program.to_bytes())
    assert bytes(data) == program.to_bytes()
    data[-100] ^= 1
    with pytest.raises(ValueError, match="the file is damaged"):
        Program.from_bytes(bytes(data))
    with pytest.raises(ValueError, match="format is None, expected 'moevit-program-2'"):
        Program.from_bytes(save({"memory": program.memory}))
    with pytest.raises(ValueError, match="config_hash is 00, expected"):
        Program.from_bytes(rewritten(program, config_hash="00"))
    with pytest.raises(ValueError, match="field 'tasks'"):
        Program.from_bytes(rewritten(program, tasks=None))
    with pytest.raises(ValueError, match="ports"):
        config = program.config.to_dict()
        config["memory"]["ports"] = 0
        Program.from_bytes(rewritten(program, config=config))


def test_every_bit_is_covered(program: Program) -> None:
    """No single flip loads, wherever it is."""
    data = program.to_bytes()
    rng = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little")
    for ends in ((0, 8), (8, 8 + header), (8 + header, len(data))):
        for bit in rng.integers(8 * ends[0], 8 * ends[1], 60).tolist():
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ValueError):
                Program.from_bytes(bytes(damaged))


def test_another_configuration_in_the_header(program: Program) -> None:
    """A file whose JSON was changed to another configuration does not pass for it."""
    other = preset("micro").but(memory__kv_rows=1024)
    changed = rewritten(program, config=other.to_dict(), config_hash=f"{other.hash:016x}")
    with pytest.raises(ValueError, match="config_hash in the header"):
        Program.from_bytes(changed)


def test_unknown_task(program: Program) -> None:
    with pytest.raises(ValueError, match="Unknown task 'nose'; expected one of task0, task1"):
        program.task("nose")
    with pytest.raises(ValueError, match="Unknown task 'nose'; expected one of task0, task1"):
        compile_network(random_network(3), preset("micro"), ["nose"])


def test_some_tasks() -> None:
    program = compile_network(random_network(3), preset("micro"), ["task1"])
    assert list(program.tasks) == ["task1"]


def test_experts_that_are_fetched_in_any_case() -> None:
    network = random_network(1, Sizes(experts=4, top_k=2))
    for fetched, streamed in ((0, 4), (1, 3), (3, 1), (9, 0)):
        program = compile_network(network, preset("default"), threshold=0.0, fetched=fetched)
        for task in network.tasks:
            for schedule in program.task(task).schedules:
                assert len(schedule.streamed) == streamed
                assert sorted(schedule.order) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="at least 0, not -1"):
        compile_network(network, preset("default"), fetched=-1)


def test_image_of_another_shape(program: Program) -> None:
    with pytest.raises(ValueError, match=r"Image must be \(16, 24, 3\) uint8"):
        program.image.pack(np.zeros((16, 24), np.uint8))


def test_tasks_share_what_is_not_streamed(program: Program) -> None:
    """One more task costs its stream and code, not another embedding or expert pool."""
    network = random_network(3)
    one = compile_network(network, preset("micro"), ["task0"], threshold=float("inf"))
    both = compile_network(network, preset("micro"), threshold=float("inf"))
    header = both.header("task1")
    own = header.stream_offset + 16 * header.stream_beats
    assert len(both.memory) - len(one.memory) <= own + 64


def test_experts_of_four_bits_take_half_the_memory() -> None:
    """Streamed and in the pool alike; only the weights shrink."""
    config = preset("micro")
    for threshold in (0.0, float("inf")):
        wide, narrow = (
            compile_network(random_network(3, Sizes(expert_bits=bits)), config, threshold=threshold)
            for bits in (8, 4)
        )
        for task in wide.tasks:
            a, b = wide.blocks(task), narrow.blocks(task)
            assert [(x.param_rows, x.weight_rows) for x in a] == [
                (x.param_rows, x.weight_rows) for x in b
            ]
            saved = sum(x.weight_rows * config.row_bytes // 2 for x in b if x.packed)
            beats = [p.header(task).stream_beats for p in (wide, narrow)]
            assert 16 * (beats[0] - beats[1]) == saved
            assert (saved > 0) == (threshold == 0)
            fetches = [i for i in narrow.instructions(task) if isinstance(i, Fetch)]
            assert all(i.packed for i in fetches)
            assert (len(fetches) > 0) == (threshold > 0)
        rows = 4 * (12 * 4 + 8 * 6)  # four experts, two layers: output tiles x input words
        if threshold:
            assert len(wide.memory) - len(narrow.memory) == rows * config.row_bytes // 2
    assert "weight rows of 4 bits" in "\n".join(disassemble(narrow))


def test_a_stream_that_is_not_whole_blocks(program: Program) -> None:
    header = program.header("task0")
    for beat, message in ((0, "beat 0 of the stream: Block header: its CRC"), (-1, "exceeds")):
        memory = program.memory.copy()
        at = program.tasks["task0"].base + header.stream_offset
        if beat:
            memory[at + 8] += 1  # one row more
            message = "Block header: its CRC"
        else:
            memory[at] ^= 1
        with pytest.raises(ValueError, match=message):
            replace(program, memory=memory).blocks("task0")


def test_listing(program: Program) -> None:
    lines = list(disassemble(program))
    text = "\n".join(lines)
    assert f"{program.config.hash:016x}" in lines[0]
    for word in ("LOAD      PIXELS", "ATTENTION", "FETCH", "demand", "GATE queues of 4", "HALT"):
        assert word in text
    for task in program.tasks:
        code = program.instructions(task)
        assert sum(1 for n in range(len(code)) if program.tasks[task].notes[n] in text) == len(code)
    assert len(list(disassemble(program, ["task0"]))) < len(lines)


def test_useful_macs() -> None:
    """Counted by hand: 7 tokens of 32 channels."""
    program = compile_network(random_network(0, Sizes()), preset("default"), ["task0"])
    n, d = 7, 32
    blocks = 2 * (4 * n * d * d + 2 * n * n * d)
    dense, experts, router = 2 * n * d * 64, 2 * n * 2 * d * 48, n * d * 4
    patches, head = 6 * 192 * d, 6 * d * 12
    assert program.tasks["task0"].useful_macs == blocks + dense + experts + router + patches + head


def test_windows_in_words() -> None:
    window = {"stride": 2, "depth": 18, "line": 5, "source_line": 7, "span": 6}
    gemm = Gemm(tokens=15, otiles=3, target=40, target_stride=4, target_line=14, **window)
    assert format_instruction(gemm) == (
        "GEMM      ACT8 A[40+4] in 14 <- A[0+2] lines of 5 in 7 spans of 6, 15 rows, 18x3 tiles"
    )
