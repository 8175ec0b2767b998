"""The driver on the verilated accelerator: whole frames through nothing but its AXI ports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.boards import (
    CONFIG,
    PROGRAM,
    check,
    make_bundle,
    make_case,
    nano_case,
    open_simulated,
    simulated_board,
)

from moevit.boards.driver.bundle import Bundle
from moevit.boards.driver.device import Accelerator
from moevit.boards.driver.errors import IdentityError
from moevit.boards.driver.program import Program
from moevit.boards.driver.selftest import selftest
from moevit.boards.driver.session import open_accelerator, open_transport
from moevit.boards.shipping import driver_files
from moevit.boards.simulated import SimulatedBoard
from moevit.hw.config import preset
from moevit.hw.formats import ALL
from moevit.hw.registers import Control, Counter, Register
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.golden import Golden
from moevit.sim.rtl import RtlDevice

pytestmark = pytest.mark.slow  # the first use of the configuration builds its simulator


@pytest.fixture(scope="module")
def board() -> Iterator[SimulatedBoard]:
    with simulated_board() as board:
        yield board


@pytest.fixture
def accelerator(board: SimulatedBoard) -> Iterator[Accelerator]:
    with open_simulated(board) as accelerator:
        accelerator.load(make_case().program)
        yield accelerator


def test_the_program_is_read_as_moevit_reads_it() -> None:
    case = make_case()
    program = case.program
    assert program.config_hash == case.config.hash
    assert program.tasks == list(case.compiled.tasks)
    assert program.output_bytes == case.compiled.output_bytes
    assert program.image == case.compiled.image
    np.testing.assert_array_equal(program.memory, case.compiled.memory)
    for task in program.tasks:
        assert program.entry(task).base == case.compiled.task(task).base
        assert program.entry(task).outputs == {task: case.compiled.task(task).output}
    together = case.compiled.all_tasks
    assert together is not None
    assert program.entry(ALL).outputs == together.outputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:5], "not a program file, or cut short"),
        (lambda data: data[:-7], "the file is damaged"),
        (lambda data: data[:-7] + b"xxxxxxx", "the file is damaged"),
        (lambda data: data.replace(b"moevit-program-2", b"moevit-program-9"), "format is"),
        (lambda data: b"\xff" * 64, "cut short"),
    ],
)
def test_bad_programs(change: Any, message: str) -> None:
    data = make_case().compiled.to_bytes()
    with pytest.raises(ValueError, match=message):
        Program.from_bytes(change(data))


@pytest.mark.parametrize("interrupt", [True, False], ids=["interrupt", "polled"])
def test_whole_frames(board: SimulatedBoard, interrupt: bool) -> None:
    case = make_case()
    with open_simulated(board, interrupt=interrupt) as accelerator:
        accelerator.load(case.program)
        for n in range(len(case.images)):
            check(accelerator, case, n)
        assert (accelerator.interrupts_lost, accelerator.interrupts_early) == (0, 0)


def test_all_tasks_in_one_frame(accelerator: Accelerator) -> None:
    case = make_case()
    outputs = accelerator.run(case.images[0], ALL).outputs
    assert list(outputs) == list(case.network.tasks)
    for task, found in outputs.items():
        np.testing.assert_array_equal(found, case.golden[0][task])


def test_three_frames_in_flight(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next frame waits in the hardware, and another one is in memory."""
    writes: list[tuple[int, int]] = []
    write = accelerator.transport.write

    def noted(register: int, value: int) -> None:
        writes.append((register, value))
        write(register, value)

    monkeypatch.setattr(accelerator.transport, "write", noted)
    case = make_case()
    wanted = [(n, task) for n in range(len(case.images)) for task in case.network.tasks]
    frames = [accelerator.submit(case.images[n], task) for n, task in wanted]
    assert [frame.finished for frame in frames[-4:]] == [True, False, False, False]
    for (n, task), frame in reversed(list(zip(wanted, frames, strict=True))):
        np.testing.assert_array_equal(frame.result().output, case.golden[n][task])
        assert frame.result().counters is None
    starts = [value for register, value in writes if register == Register.CONTROL]
    assert sum(value >> Control.CHAINED & 1 for value in starts) >= len(frames) // 2


def test_counters_of_frames_in_flight(accelerator: Accelerator) -> None:
    """Nothing runs behind a frame whose counters are wanted until they are read."""
    case = make_case()
    tasks = list(case.network.tasks) * 2
    frames = [
        accelerator.submit(case.images[0], task, counters=n % 2 == 0)
        for n, task in enumerate(tasks)
    ]
    alone = {task: accelerator.run(case.images[0], task) for task in case.network.tasks}
    for n, (task, frame) in enumerate(zip(tasks, frames, strict=True)):
        found = frame.result()
        np.testing.assert_array_equal(found.output, case.golden[0][task])
        if n % 2 == 0:
            assert found.expert_tokens == alone[task].expert_tokens
            assert found.counters is not None and found.cycles == found.counters[Counter.CYCLES]


def test_frames_in_flight_have_dials_of_their_own(accelerator: Accelerator) -> None:
    case, task = make_case(), "task0"
    dials = [Dial(top_k=1), AS_COMPILED, Dial(enough=9000), Dial(least=15000), AS_COMPILED]
    frames = [accelerator.submit(case.images[0], task, dial=d) for d in dials]
    tokens = []
    for dial, frame in zip(dials, frames, strict=True):
        want = Golden(case.network.dialled(dial)).run(case.images[0], task)
        np.testing.assert_array_equal(frame.result().output, want.output)
        found = accelerator.run(case.images[0], task, dial=dial)
        np.testing.assert_array_equal(found.output, want.output)
        assert found.expert_tokens is not None
        tokens.append(sum(found.expert_tokens))
        assert tokens[-1] == sum(sum(r.counts) for r in want.routing)
    assert tokens[1] == tokens[4] == max(tokens) > tokens[0]
    with pytest.raises(ValueError, match="more than the program was compiled for: top_k 9"):
        accelerator.submit(case.images[0], task, dial=Dial(top_k=9))
    assert case.program.dial == case.compiled.dial == case.network.dial


def test_counters_are_those_of_the_simulator(accelerator: Accelerator) -> None:
    case = make_case()
    task = case.network.tasks[0]
    result = accelerator.run(case.images[0], task)
    with RtlDevice(CONFIG) as device:
        device.load(case.compiled)
        wanted = device.run(case.images[0], task).counters
    assert result.counters is not None and wanted is not None
    same = (Counter.ARRAY_BUSY, Counter.DATA_READ_BEATS, Counter.WEIGHT_BEATS, Counter.MISSES)
    assert [result.counters[c] for c in same] == [wanted.values[c] for c in same]
    assert result.expert_tokens == wanted.expert_tokens
    assert result.cycles == result.counters[Counter.CYCLES]


def test_bad_requests(board: SimulatedBoard) -> None:
    case = make_case()
    with open_simulated(board) as accelerator:
        with pytest.raises(ValueError, match="no program; load one"):
            accelerator.run(case.images[0], "task0")
        accelerator.load(case.program)
        with pytest.raises(ValueError, match="Unknown task 'nope'; expected one of task0"):
            accelerator.run(case.images[0], "nope")
        with pytest.raises(ValueError, match=r"Image must be .* uint8"):
            accelerator.run(case.images[0][1:], "task0")
        check(accelerator, case)
    with pytest.raises(
        ValueError, match="Unknown transport 'carrier pigeon'; expected one of auto"
    ):
        open_transport("carrier pigeon")


def test_self_test_of_a_bundle(board: SimulatedBoard, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", make_case())
    lines: list[str] = []
    with open_accelerator(bundle, f"sim:{board.path}") as accelerator:
        report = selftest(bundle, accelerator, frames=4, say=lines.append)
    assert report.passed and len(report.outcomes) == 9
    (rate,) = report.rates
    assert rate.frames == 4 and rate.fps > 0
    assert rate.cycles_fps == pytest.approx(1e8 / rate.cycles)
    assert "frames/s by the wall clock, transfers included" in lines[-1]


def test_self_test_finds_a_wrong_integer(board: SimulatedBoard, tmp_path: Path) -> None:
    case = make_case(count=1)
    bundle = make_bundle(tmp_path / "bundle", case)
    target = bundle.root / bundle.cases[1].output
    wrong = np.load(target)
    wrong[2, 1] += 1
    np.save(target, wrong)
    with open_accelerator(bundle, f"sim:{board.path}") as accelerator:
        report = selftest(bundle, accelerator, frames=4)
    assert [bool(o.difference) for o in report.outcomes] == [False, True, False]
    assert "1 of" in report.outcomes[1].difference and "first at (2, 1)" in (
        report.outcomes[1].difference
    )
    assert not report.passed and not report.rates


def test_a_bundle_of_another_build(board: SimulatedBoard, tmp_path: Path) -> None:
    other = make_case(config=preset("micro").but(memory__ring_rows=128), count=1)
    bundle = make_bundle(tmp_path / "bundle", other)
    with pytest.raises(IdentityError, match=f"{CONFIG.hash:016x}, the bundle .* is micro"):
        open_accelerator(bundle, f"sim:{board.path}")
    with open_simulated(board) as accelerator:  # the lock was given back
        accelerator.load(make_case().program)


# As shipped ------------------------------------------------------------------------------------
def python_3_10() -> str | None:
    """A Python 3.10 with NumPy, as PYNQ's images have; MOEVIT_PYTHON310 names one."""
    found = os.environ.get("MOEVIT_PYTHON310") or shutil.which("python3.10")
    if not found:
        return None
    works = subprocess.run([found, "-c", "import numpy"], capture_output=True, check=False)
    return found if works.returncode == 0 else None


def test_what_is_shipped_is_python_3_10() -> None:
    import ast

    for name, data in driver_files().items():
        ast.parse(data, name, feature_version=(3, 10))
        assert b"from moevit." not in data and b"import moevit" not in data


@pytest.mark.parametrize("version", ["this", "3.10"])
def test_the_shipped_driver_needs_numpy_alone(
    board: SimulatedBoard, tmp_path: Path, version: str
) -> None:
    """It runs the self-test from a bundle, by a Python that knows neither moevit nor Amaranth."""
    python = sys.executable if version == "this" else python_3_10()
    if python is None:
        pytest.skip("no Python 3.10 with NumPy (MOEVIT_PYTHON310 names one)")
    bundle = make_bundle(tmp_path / "bundle", make_case(count=1))
    blocker = tmp_path / "blocked"
    for name in ("moevit", "amaranth", "torch", "safetensors", "scipy", "PIL"):
        (blocker / name).mkdir(parents=True)
        (blocker / name / "__init__.py").write_text("raise ImportError('not on a board')\n")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-m", "moevit_driver", *arguments],
            cwd=bundle.root,
            env={"PYTHONPATH": str(blocker), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )

    where = ("--transport", f"sim:{board.path}")
    done = call("selftest", "--frames", "2", *where)
    assert (done.returncode, done.stderr) == (0, "")
    assert "task0        bit-exact" in done.stdout and "self-test passed" in done.stdout
    np.save(tmp_path / "image.npy", make_case(count=1).images[0])
    done = call("run", str(tmp_path / "image.npy"), "-o", str(tmp_path / "out"), *where)
    assert done.returncode == 0, done.stderr
    assert "frames/s by the simulated clock, transfers included" in done.stdout
    found = np.load(tmp_path / "out" / "image-task0.npy")
    np.testing.assert_array_equal(found, make_case(count=1).golden[0]["task0"])
    assert (tmp_path / "out" / "image-task0.png").read_bytes().startswith(b"\x89PNG")
    (bundle.root / "moevit.bit").write_bytes(b"cut short")
    done = call("verify")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "moevit.bit: has 9 bytes, expected" in done.stderr


def test_importing_it_here_needs_neither_torch_nor_amaranth() -> None:
    code = (
        "import moevit.boards.driver.session, moevit.boards.driver.selftest, sys; "
        "print(sorted({'torch', 'amaranth', 'safetensors', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_frames_of_nano(tmp_path: Path) -> None:
    """Through the bundle's own self-test; the network has nano's sizes and random weights."""
    case = nano_case()
    bundle = make_bundle(tmp_path / "bundle", case)
    assert PROGRAM in {entry.path for entry in bundle.files}
    with (
        simulated_board(case.config) as board,
        open_accelerator(Bundle.read(bundle.root), f"sim:{board.path}") as accelerator,
    ):
        assert selftest(bundle, accelerator, frames=0).passed


def test_the_docs_name_tests_that_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "boards.md").read_text()
    here = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named and all(f"def {name}(" in here for name in named)
