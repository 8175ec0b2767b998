"""The C library: compiled with the strictest warnings, and run on the verilated accelerator."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.boards import CONFIG, make_case, simulated_board

from moevit.boards.c_form import c_files, c_program, registers_header
from moevit.boards.driver.simulated import Operation, Reply
from moevit.boards.simulated import SimulatedBoard
from moevit.hw.registers import Counter, Error, Register
from moevit.quant.dial import Dial
from moevit.quant.golden import Golden

pytestmark = pytest.mark.slow  # the first use of the configuration builds its simulator

HERE = Path(__file__).parent / "c"
FLAGS = (
    *("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow"),
    *("-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover"),
)
OK, BAD_TRANSPORT, BAD_IDENTITY, NO_ROOM, FAILED, TIME_OUT = 0, -1, -2, -3, -4, -5
BAD_FILE, BAD_CALL = -7, -8


def enumerators(prefix: str, kind: type[IntEnum]) -> str:
    members = ", ".join(f"{prefix}_{member.name} = {int(member)}" for member in kind)
    return f"enum {{ {members} }};\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")
    for path, data in c_files().items():
        (folder / Path(path).name).write_bytes(data)
    numbers = enumerators("OPERATION", Operation) + enumerators("REPLY", Reply)
    (folder / "operations.h").write_text(numbers)
    library = [str(folder / name) for name in ("moevit.c",)]
    simulated = [f"-I{folder}", f"-I{HERE}", str(HERE / "simulated.c")]
    as_simulated = (
        "-DMOEVIT_TRANSPORT_OPEN=simulated_open",
        "-DMOEVIT_TRANSPORT_CLOSE=simulated_close",
        *("-include", "simulated.h"),
    )
    main = str(folder / "moevit_run.c")
    for output, sources in {
        "linux": [*library, str(folder / "moevit_linux.c"), main],
        "run": [*simulated, *as_simulated, *library, main],
        "script": [*simulated, *library, str(HERE / "script.c")],
    }.items():
        subprocess.run(["gcc", *FLAGS, *sources, "-o", str(folder / output)], check=True)
    return folder


@pytest.fixture
def board() -> Iterator[SimulatedBoard]:
    with simulated_board() as board:
        yield board


class Script:
    """The C library in a process, told what to do line by line."""

    def __init__(self, built: Path, board: SimulatedBoard, folder: Path, **more: str) -> None:
        case = make_case()
        (folder / "p.mvp").write_bytes(c_program(case.program))
        (folder / "images").write_bytes(case.images.tobytes())
        self._process = subprocess.Popen(
            [built / "script", folder / "p.mvp", folder / "images"],
            env={**os.environ, "MOEVIT_SIMULATED": str(board.path), **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.entries = [
            (name, task, about)
            for name, entry in case.program.entries.items()
            for task, about in entry.outputs.items()
        ]

    def __call__(self, line: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n")

    def status(self, line: str) -> tuple[int, str]:
        number, _, text = self(line).partition(" ")
        return int(number), text

    def integers(self, slot: int, entry: int) -> Any:
        _, _, about = self.entries[entry]
        raw = np.frombuffer(bytes.fromhex(self(f"get {slot} {entry}")), f"<i{about.item_bytes}")
        return raw.reshape(about.rows, about.columns)

    def check(self, image: int = 0) -> None:
        """A whole frame of each task, bit for bit."""
        for n, (name, task, _) in enumerate(self.entries):
            if name == task:
                assert self.status(f"run {n} {image}") == (OK, "")
                np.testing.assert_array_equal(
                    self.integers(0, n), make_case().golden[image][task], err_msg=task
                )

    def end(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait()


@pytest.fixture
def script(built: Path, board: SimulatedBoard, tmp_path: Path) -> Iterator[Script]:
    script = Script(built, board, tmp_path)
    assert script.status("open 0.02") == (OK, "")
    assert script.status("load") == (OK, "")
    yield script
    assert script.status("close") == (OK, "")
    assert script.end() == 0  # the sanitisers found nothing


def test_the_header_has_every_number() -> None:
    text = registers_header()
    for register in Register:
        assert f"MOEVIT_{register.name} = {int(register):#x}," in text
    for counter in Counter:
        assert f"MOEVIT_COUNTER_{counter.name} = {int(counter):#x}," in text
    for error in Error:
        assert f"MOEVIT_ERROR_{error.name} = {int(error):#x}," in text


@pytest.mark.parametrize("poll", [False, True], ids=["interrupt", "polled"])
def test_whole_frames(built: Path, board: SimulatedBoard, tmp_path: Path, poll: bool) -> None:
    script = Script(built, board, tmp_path, **({"MOEVIT_POLL": "1"} if poll else {}))
    assert script.status("open 0.02") == (OK, "") and script.status("load") == (OK, "")
    for n in range(3):
        script.check(n)
    assert script.status("close") == (OK, "")
    assert script.end() == 0


def test_two_slots(script: Script) -> None:
    """The next image goes into memory while a frame runs."""
    case = make_case()
    assert script.status("put 0 0") == (OK, "") and script.status("start 0 0") == (OK, "")
    for n in range(1, 4):
        slot = n % 2
        assert script.status(f"put {slot} {n % 3}") == (OK, "")
        assert script.status(f"put {1 - slot} 0") == (BAD_CALL, f"slot {1 - slot} runs")
        assert script.status("wait") == (OK, "")
        assert script.status(f"start {slot} {n % 2}") == (OK, "")
        task = script.entries[(n - 1) % 2][1]
        found = script.integers(1 - slot, (n - 1) % 2)
        np.testing.assert_array_equal(found, case.golden[(n - 1) % 3][task])
    assert script.status("wait") == (OK, "")


def test_all_tasks_in_one_frame(script: Script) -> None:
    several = [n for n, (name, _, _) in enumerate(script.entries) if name == "all"]
    assert script.status(f"run {several[0]} 1") == (OK, "")
    for n in several:
        task = script.entries[n][1]
        np.testing.assert_array_equal(script.integers(0, n), make_case().golden[1][task])


def test_the_dial(script: Script) -> None:
    """Of the frames that follow, until another is set; more than was compiled is refused."""
    case = make_case()
    compiled = case.program.dial
    for top_p, score, k in ((0.4, -1, 0), (1, 0.1, 0), (-1, 0, 1), (0.0001, 0.9999999, 1)):
        asked = {"top_p": top_p if top_p > 0 else None, "top_k": k or None}
        dial = Dial.of(**asked, min_score=score if score >= 0 else None)
        assert script.status(f"dial {top_p} {score} {k}") == (OK, "")
        for n, (name, task, _) in enumerate(script.entries):
            if name == task:
                assert script.status(f"run {n} 0") == (OK, "")
                want = Golden(case.network.dialled(dial)).run(case.images[0], task).output
                np.testing.assert_array_equal(script.integers(0, n), want)
    more = compiled.top_k + 1
    for line, message in (
        (f"dial -1 -1 {more}", f"the dial asks for more than the program: top_k up to {more - 1}"),
        ("dial -1 -1 16", "top_k 16, expected 1 to 15"),
        ("dial 1.5 -1 0", "top_p 1.5, expected above 0 to 1"),
        ("dial 0 -1 0", "top_p 0, expected above 0 to 1"),
        ("dial -1 1 0", "min_score 1, expected below 1"),
    ):
        status, text = script.status(line)
        assert status == BAD_CALL and text.startswith(message)
    assert script.status("dial -1 -1 0") == (OK, "")
    script.check()


def test_bad_calls(built: Path, board: SimulatedBoard, tmp_path: Path) -> None:
    script = Script(built, board, tmp_path)
    assert script.status("open 0.02") == (OK, "")
    assert script.status("run 0 0") == (BAD_CALL, "no program; load one first")
    assert script.status("wait") == (BAD_CALL, "no frame runs")
    assert script.status("load") == (OK, "")
    assert script.status("run 99 0") == (BAD_CALL, "no entry 99")
    assert script.status("put 2 0") == (BAD_CALL, "no slot 2")
    script.check()
    assert script.status("close") == (OK, "") and script.end() == 0


def test_a_bus_error(board: SimulatedBoard, script: Script) -> None:
    board.sim.inject(board._pool.start, 1 << 20)
    assert script.status("run 0 0") == (
        FAILED,
        "a memory read was answered with an error (error 7)",
    )
    board.sim.clear_faults()
    script.check()


def test_a_frame_that_never_ends(built: Path, board: SimulatedBoard, tmp_path: Path) -> None:
    script = Script(built, board, tmp_path)
    assert script.status("open 0.0005") == (OK, "") and script.status("load") == (OK, "")
    board.sim.configure(board.timing.but(read_latency=10**9))
    found = script.status("run 0 0")
    assert found == (TIME_OUT, "a frame did not end within 0.0005 s and was cancelled")
    assert script("resets") == "1"
    script.check()
    assert script.status("close") == (OK, "") and script.end() == 0


def test_interrupts_lost_and_early(board: SimulatedBoard, script: Script) -> None:
    board.lose_interrupts = True
    script.check()
    board.lose_interrupts = False
    board.early_interrupts = 4
    script.check(1)


def test_cancel_and_reset(script: Script) -> None:
    script.status("put 0 0")
    assert script.status("start 0 0") == (OK, "")
    assert script.status("cancel") == (OK, "")
    script.check()
    script.status("start 0 0")
    assert script.status("reset") == (OK, "")
    script.check()


def test_a_wrong_bitstream_and_another_build(
    built: Path, board: SimulatedBoard, tmp_path: Path
) -> None:
    script = Script(built, board, tmp_path)
    board.registers[Register.ID] = 1
    status, text = script.status("open 0.02")
    assert status == BAD_IDENTITY and text.startswith(
        "wrong bitstream: register ID reads 0x00000001"
    )
    board.registers = {Register.HASH_LOW: 0}
    assert script.status("open 0.02") == (OK, "")
    status, text = script.status("load")
    assert status == BAD_IDENTITY and f"{CONFIG.hash:016x}, the bitstream is" in text
    board.registers.clear()
    assert script.status("open 0.02") == (OK, "") and script.status("load") == (OK, "")
    script.check()
    assert script.status("close") == (OK, "") and script.end() == 0


def test_too_little_memory(built: Path, tmp_path: Path) -> None:
    with simulated_board(memory_bytes=1 << 16) as board:
        script = Script(built, board, tmp_path)
        assert script.status("open 0.02") == (OK, "")
        status, text = script.status("load")
        assert status == NO_ROOM and "no room for the program" in text
        assert script.status("close") == (OK, "") and script.end() == 0


def test_a_killed_process(built: Path, board: SimulatedBoard, tmp_path: Path) -> None:
    script = Script(built, board, tmp_path)
    assert script.status("open 0.02") == (OK, "") and script.status("load") == (OK, "")
    script.status("put 0 0")
    assert script.status("start 0 0") == (OK, "")
    script._process.kill()
    script._process.wait()
    script = Script(built, board, tmp_path)
    assert script.status("open 0.02") == (OK, "") and script.status("load") == (OK, "")
    script.check()
    assert script.status("close") == (OK, "") and script.end() == 0


# The command -----------------------------------------------------------------------------------
def command(built: Path, board: SimulatedBoard, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [built / "run", *map(str, arguments)],
        env={**os.environ, "MOEVIT_SIMULATED": str(board.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command(built: Path, board: SimulatedBoard, tmp_path: Path) -> None:
    case = make_case()
    program, image, output = tmp_path / "p.mvp", tmp_path / "image", tmp_path / "output"
    program.write_bytes(c_program(case.program))
    image.write_bytes(case.images[0].tobytes())
    status, out, err = command(built, board, program, "task1", image, output)
    assert (status, err) == (0, "") and out.startswith("task1: ") and "cycles" in out
    found = np.fromfile(output, "<i2").reshape(case.golden[0]["task1"].shape)
    np.testing.assert_array_equal(found, case.golden[0]["task1"])

    assert command(built, board)[2] == (
        "moevit_run: error: usage: moevit_run PROGRAM.mvp TASK IMAGE OUTPUT\n"
    )
    assert "no task nope" in command(built, board, program, "nope", image, output)[2]
    image.write_bytes(b"short")
    assert "image: expected 1536 bytes" in command(built, board, program, "task1", image, output)[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:20], "is cut short"),
        (lambda data: data[:-1], "is cut short"),
        (lambda data: b"x" + data[1:], "is no program file"),
        (lambda data: data[:4] + b"\t" + data[5:], "is of another version"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is damaged"),
    ],
)
def test_bad_files(
    built: Path, board: SimulatedBoard, tmp_path: Path, change: Any, message: str
) -> None:
    path = tmp_path / "p.mvp"
    path.write_bytes(change(c_program(make_case().program)))
    status, _, err = command(built, board, path, "task0", "image", "output")
    assert status == 2 and err == f"moevit_run: error: {path}: {message}\n"


def test_without_a_board_the_linux_transport_says_so(built: Path, tmp_path: Path) -> None:
    if Path("/sys/class/uio").exists():
        pytest.skip("this machine has UIO devices")
    path = tmp_path / "p.mvp"
    path.write_bytes(c_program(make_case().program))
    done = subprocess.run(
        [built / "linux", path, "task0", "i", "o"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "moevit_run: error: no UIO device moevit: load the bitstream\n"
