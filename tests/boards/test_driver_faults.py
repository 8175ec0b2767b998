"""Faults: each ends in one clear error, and the device runs the next frame right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.boards import CONFIG, check, make_bundle, make_case, open_simulated, simulated_board

from moevit.boards.driver.device import Accelerator
from moevit.boards.driver.errors import (
    BusyError,
    FrameError,
    IdentityError,
    RoomError,
    TimeOutError,
    TransportError,
)
from moevit.boards.driver.simulated import Simulated
from moevit.boards.driver.transport import check_reach
from moevit.boards.simulated import SimulatedBoard
from moevit.hw.config import BEAT_BYTES
from moevit.hw.registers import Control, Error, Register, Status

pytestmark = pytest.mark.slow  # the first use of the configuration builds its simulator


@pytest.fixture
def board() -> Iterator[SimulatedBoard]:
    with simulated_board() as board:
        yield board


@pytest.fixture
def accelerator(board: SimulatedBoard) -> Iterator[Accelerator]:
    with open_simulated(board) as accelerator:
        accelerator.load(make_case().program)
        yield accelerator


def never_answers(board: SimulatedBoard) -> None:
    """Memory from now on, until the board is reset. The hardware waits for it in vain."""
    board.sim.configure(board.timing.but(read_latency=10**9))


# Identity --------------------------------------------------------------------------------------
def test_a_wrong_bitstream(board: SimulatedBoard) -> None:
    board.registers[Register.ID] = 0xDEAD_BEEF
    with pytest.raises(IdentityError, match=r"wrong bitstream: register ID .* reads 0xdeadbeef"):
        open_simulated(board)
    board.registers.clear()
    with open_simulated(board) as accelerator:
        accelerator.load(make_case().program)
        check(accelerator, make_case())


def test_a_program_of_another_build(accelerator: Accelerator) -> None:
    other = make_case(config=CONFIG.but(memory__ring_rows=128), count=1)
    with pytest.raises(IdentityError, match=f"{other.config.hash:016x}.* is {CONFIG.hash:016x}"):
        accelerator.load(other.program)
    check(accelerator, make_case())  # the program before is still the loaded one


def test_the_hardware_refuses_it_too(board: SimulatedBoard, accelerator: Accelerator) -> None:
    """What the driver's own check keeps from it: the header's hash."""
    memory = accelerator._memory
    assert memory is not None
    program = make_case().compiled
    header = replace(program.header("task0"), config_hash=0)
    board.sim.write(memory.address + program.task("task0").base, header.encode())
    with pytest.raises(FrameError, match="task0: the program was compiled for another config") as e:
        accelerator.run(make_case().images[0], "task0")
    assert e.value.code == Error.HASH
    memory.to_device()
    check(accelerator, make_case())


def test_another_bitstream_after_a_reset(board: SimulatedBoard, accelerator: Accelerator) -> None:
    board.registers[Register.HASH_LOW] = 0
    with pytest.raises(IdentityError, match="another bitstream after the reset"):
        accelerator.reset()
    board.registers.clear()
    check(accelerator, make_case())


# Buses -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["program", "image", "output"])
def test_a_bus_error(board: SimulatedBoard, accelerator: Accelerator, what: str) -> None:
    case = make_case()
    memory, slot = accelerator._memory, accelerator._free[-1]
    assert memory is not None
    buffer = {"program": memory, "image": slot.image, "output": slot.output}[what]
    board.sim.inject(buffer.address, len(buffer.array))
    kind, text = (Error.WRITE, "write") if what == "output" else (Error.READ, "read")
    with pytest.raises(FrameError, match=f"a memory {text} was answered with an error") as failed:
        accelerator.run(case.images[0], "task0")
    assert failed.value.code == kind
    board.sim.clear_faults()
    check(accelerator, case)


def test_damage_in_memory(board: SimulatedBoard, accelerator: Accelerator) -> None:
    """The message says which block; the program is good again once it is written again."""
    case, memory = make_case(), accelerator._memory
    assert memory is not None
    base, header = case.program.entry("task0").base, case.compiled.header("task0")
    at = base + header.stream_offset + BEAT_BYTES
    board.sim.write(memory.address + at, bytes([int(case.program.memory[at]) ^ 1]))
    with pytest.raises(FrameError, match="block 0 of port 0's stream") as failed:
        accelerator.run(case.images[0], "task0")
    assert failed.value.code == Error.WEIGHTS
    memory.to_device()
    check(accelerator, case)


def test_a_frame_waits_behind_one_that_fails(
    board: SimulatedBoard, accelerator: Accelerator
) -> None:
    """The hardware drops it, the driver starts it again; what ended before stays as it is."""
    case = make_case()
    slots = accelerator._free[::-1]
    board.sim.inject(slots[1].image.address, len(slots[1].image.array))
    tasks = ("task0", "task1", "task2")
    frames = [accelerator.submit(case.images[n], task) for n, task in enumerate(tasks)]
    with pytest.raises(FrameError, match="task1: a memory read was answered with an error"):
        frames[1].result()
    for n in (0, 2):
        np.testing.assert_array_equal(frames[n].result().output, case.golden[n][tasks[n]])
    board.sim.clear_faults()
    check(accelerator, case)


def test_nothing_begins_behind_a_failure_that_nobody_saw(
    board: SimulatedBoard, accelerator: Accelerator
) -> None:
    """START with CHAINED asks for a frame that runs."""
    case, transport = make_case(), accelerator.transport
    frames = transport.read(Register.FRAMES)
    slot = accelerator._free[-1]
    board.sim.inject(slot.image.address, len(slot.image.array))
    first = accelerator.submit(case.images[0], "task0")
    while transport.read(Register.FRAMES) == frames:
        transport.wait(1e-6)
    transport.write(Register.CONTROL, 1 << Control.START | 1 << Control.CHAINED)
    assert not transport.read(Register.STATUS) >> Status.BUSY & 1
    board.sim.clear_faults()
    second = accelerator.submit(case.images[1], "task1")  # chained too, for all the driver knows
    with pytest.raises(FrameError, match="task0: a memory read"):
        first.result()
    np.testing.assert_array_equal(second.result().output, case.golden[1]["task1"])
    assert transport.read(Register.FRAMES) == frames + 2


def test_a_register_that_is_refused(board: SimulatedBoard, accelerator: Accelerator) -> None:
    board.refused.add(Register.IMAGE_BASE)
    with pytest.raises(TransportError, match="register 0x20: AXI response 2"):
        accelerator.run(make_case().images[0], "task0")
    board.refused.clear()
    accelerator.cancel()
    check(accelerator, make_case())


def test_writing_a_base_while_busy_is_for_the_next_frame(accelerator: Accelerator) -> None:
    frame = accelerator.submit(make_case().images[0], "task0")
    accelerator.transport.write(Register.IMAGE_BASE, 0)
    np.testing.assert_array_equal(frame.result().output, make_case().golden[0]["task0"])


# Endless frames --------------------------------------------------------------------------------
def test_a_frame_that_never_ends(board: SimulatedBoard) -> None:
    case = make_case()
    with open_simulated(board, time_out=5e-4) as accelerator:
        accelerator.load(case.program)
        check(accelerator, case)
        never_answers(board)
        frames = [accelerator.submit(case.images[0], task) for task in ("task0", "task1")]
        with pytest.raises(TimeOutError, match=r"task0 did not end within 0\.0005 s"):
            frames[0].result()
        assert accelerator.resets == 1  # ABORT did not get the memory's answers
        # The frame behind it was started on the device that is right again.
        np.testing.assert_array_equal(frames[1].result().output, case.golden[0]["task1"])
        check(accelerator, case)


def test_a_slow_frame_is_aborted(board: SimulatedBoard) -> None:
    """ABORT is enough where memory answers: no reset."""
    case = make_case()
    with open_simulated(board, time_out=20e-6) as accelerator:
        accelerator.load(case.program)
        with pytest.raises(TimeOutError, match="was cancelled"):
            accelerator.run(case.images[0], "task0")
        assert accelerator.resets == 0
        accelerator.time_out = 0.02
        check(accelerator, case)


def test_the_watchdog(board: SimulatedBoard, accelerator: Accelerator) -> None:
    """A program that waits for what nobody gives: the hardware gives up by itself."""
    board.sim.configure(board.timing.but(read_latency=2 * CONFIG.watchdog_cycles))
    with pytest.raises(FrameError, match="no engine advanced") as failed:
        accelerator.run(make_case().images[0], "task0")
    assert failed.value.code == Error.HANG
    assert accelerator.resets == 1
    check(accelerator, make_case())


def test_cancel(accelerator: Accelerator) -> None:
    case = make_case()
    frames = [accelerator.submit(case.images[0], task) for task in ("task0", "task1")]
    accelerator.cancel()
    for frame in frames:
        with pytest.raises(FrameError, match=r"task\d: the frame was given up on request") as e:
            frame.result()
        assert e.value.code == Error.ABORTED
    check(accelerator, case)


def test_ctrl_c_in_a_frame(
    board: SimulatedBoard, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case()
    frame = accelerator.submit(case.images[0], "task0")

    def interrupted(_seconds: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(accelerator.transport, "wait", interrupted)
        patch.setattr(accelerator, "_make_idle", lambda: Accelerator._reset(accelerator))
        with pytest.raises(KeyboardInterrupt):
            frame.result()
    assert not board.sim.reg_read(Register.STATUS) >> Status.BUSY & 1
    check(accelerator, case)


# Interrupts ------------------------------------------------------------------------------------
def test_a_lost_interrupt(board: SimulatedBoard, accelerator: Accelerator) -> None:
    """STATUS is asked at the end of each wait, so the frame is right, and the loss is counted."""
    board.lose_interrupts = True
    check(accelerator, make_case())
    assert accelerator.interrupts_lost == 3
    board.lose_interrupts = False
    check(accelerator, make_case())
    assert accelerator.interrupts_lost == 3


def test_an_early_interrupt(board: SimulatedBoard, accelerator: Accelerator) -> None:
    board.early_interrupts = 5
    check(accelerator, make_case())
    assert accelerator.interrupts_early == 5
    assert accelerator.interrupts_lost == 0


# Memory ----------------------------------------------------------------------------------------
def test_too_little_memory() -> None:
    case = make_case()
    needed = len(case.program.memory) + 2 * (case.program.image.size + case.program.output_bytes)
    with simulated_board(memory_bytes=needed - needed % 4096) as board:
        with open_simulated(board) as accelerator:
            with pytest.raises(RoomError, match=r"no room for the \w+: .* bytes are wanted"):
                accelerator.load(case.program)
            with pytest.raises(ValueError, match="no program; load one"):
                accelerator.run(case.images[0], "task0")
    with simulated_board(memory_bytes=needed + 5 * 4096) as board:
        with open_simulated(board) as accelerator:
            for _ in range(3):  # buffers are given back
                accelerator.load(case.program)
                check(accelerator, case)


def test_memory_beyond_the_ports() -> None:
    with simulated_board(base=0x7FFF_0000) as board:
        with open_simulated(board, reach=1 << 31) as accelerator:
            with pytest.raises(RoomError, match="is beyond 0x80000000, which the accelerator's"):
                accelerator.load(make_case().program)
        with open_simulated(board) as accelerator:
            accelerator.load(make_case().program)
            check(accelerator, make_case())


def test_addresses_have_32_bits() -> None:
    with pytest.raises(RoomError, match="image, 0x800000000 to 0x800000001, is beyond 0x100000000"):
        check_reach(0x8_0000_0000, 1, "image")
    with pytest.raises(RoomError, match="begins within a page"):
        check_reach(0x1001, 1, "image")
    check_reach((1 << 32) - 4096, 4096, "image")


def test_forgotten_flushes_show(board: SimulatedBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated board's caches are as bad as they can be."""
    case = make_case()
    with open_simulated(board) as accelerator:
        accelerator.load(case.program)
        kind: Any = type(accelerator._free[0].image)
        for name in ("to_device", "to_host"):
            with monkeypatch.context() as patch:
                patch.setattr(kind, name, lambda *_: None)
                found = accelerator.run(case.images[1], "task0").output
                assert not np.array_equal(found, case.golden[1]["task0"]), name
        check(accelerator, case, 1)


# Processes -------------------------------------------------------------------------------------
_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from moevit_driver.bundle import Bundle
from moevit_driver.program import Program
from moevit_driver.session import open_accelerator
bundle = Bundle.read(sys.argv[1])
accelerator = open_accelerator(bundle, "sim:" + sys.argv[2])
accelerator.load(Program.load(bundle.one("program")))
accelerator.submit(np.load(bundle.root / bundle.cases[0].image), bundle.cases[0].task)
print("running", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(board: SimulatedBoard, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has started a frame and waits."""
    bundle = make_bundle(tmp_path / "bundle", make_case(count=1))
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(bundle.root), str(board.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "running\n"
    yield process
    process.kill()
    process.communicate()


def busy(board: SimulatedBoard) -> bool:
    return bool(board.sim.reg_read(Register.STATUS) >> Status.BUSY & 1)


def test_a_second_process_is_refused(board: SimulatedBoard, child: subprocess.Popen[str]) -> None:
    with pytest.raises(BusyError, match=rf"driven by another process \({child.pid}\)"):
        open_simulated(board)
    assert busy(board)  # nobody touched its frame
    child.communicate()  # it ends by itself, and gives the frame up
    with open_simulated(board) as accelerator:
        accelerator.load(make_case().program)
        check(accelerator, make_case())


@pytest.mark.parametrize("stuck", [False, True], ids=["running", "stuck"])
def test_a_process_killed_in_a_frame(
    board: SimulatedBoard, child: subprocess.Popen[str], stuck: bool
) -> None:
    """The frame it left is given up before anything else, and its memory is free again."""
    if stuck:
        never_answers(board)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert busy(board)
    with open_simulated(board) as accelerator:
        assert not busy(board)
        assert accelerator.resets == stuck
        assert board.sim.reg_read(Register.STATUS) == 0
        accelerator.load(make_case().program)
        check(accelerator, make_case())


def test_the_board_goes_away(board: SimulatedBoard) -> None:
    with open_simulated(board) as accelerator:
        accelerator.transport._connection.close()  # type: ignore[attr-defined]
        with pytest.raises(TransportError, match="has gone"):
            accelerator.transport.read(Register.ID)
        accelerator._slots, accelerator._memory = [], None
    with pytest.raises(TransportError, match="is it running"):
        Simulated(f"{board.path}-not")
    os.unlink(f"{board.path}-not.lock")


def test_the_lock_s_file_may_be_left(board: SimulatedBoard) -> None:
    """The kernel's lock goes with its process; the file that it leaves is no lock."""
    Path(f"{board.path}.lock").write_text("123456789")
    board.sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
    with open_simulated(board):
        pass
