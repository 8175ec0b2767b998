"""moevit's Device protocol on a board, which is a simulated one here, and `moevit run` on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.boards import CONFIG, check, make_bundle, make_case, open_simulated, simulated_board

from moevit.boards.backend import BUNDLE, TRANSPORT, BoardDevice
from moevit.boards.driver.bundle import Bundle
from moevit.boards.simulated import SimulatedBoard
from moevit.cli.main import main
from moevit.hw.registers import Error
from moevit.sim.backends import BACKENDS, open_device
from moevit.sim.device import DeviceError
from moevit.sim.rtl import RtlDevice

pytestmark = pytest.mark.slow  # the first use of the configuration builds its simulator


@pytest.fixture
def board() -> Iterator[SimulatedBoard]:
    with simulated_board() as board:
        yield board


@pytest.fixture
def bundle(
    board: SimulatedBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bundle]:
    bundle = make_bundle(tmp_path / "bundle", make_case(count=1))
    monkeypatch.setenv(BUNDLE, str(bundle.root))
    monkeypatch.setenv(TRANSPORT, f"sim:{board.path}")
    yield bundle


class Sources:
    config = CONFIG

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a board needs no {name}")


def test_by_its_name(bundle: Bundle) -> None:
    case = make_case()
    assert "board" in BACKENDS
    with open_device("board", Sources()) as device, RtlDevice(CONFIG) as simulated:
        assert device.name == "board"
        device.load(case.compiled)
        simulated.load(case.compiled)
        for task in case.network.tasks:
            found, wanted = (d.run(case.images[0], task) for d in (device, simulated))
            np.testing.assert_array_equal(found.output, wanted.output)
            np.testing.assert_array_equal(found.planes, wanted.planes)
            assert found.counters is not None and wanted.counters is not None
            assert found.counters.expert_tokens == wanted.counters.expert_tokens
            assert found.counters.seconds > found.counters.cycles / 1e8
            assert device.counters is found.counters


def test_errors_are_those_of_every_backend(board: SimulatedBoard, bundle: Bundle) -> None:
    case = make_case()
    other = make_case(config=CONFIG.but(memory__ring_rows=128), count=1)
    with open_device("board", Sources()) as device:
        with pytest.raises(DeviceError, match="HASH: the program is for configuration") as failed:
            device.load(other.compiled)
        assert failed.value.code == Error.HASH
        device.load(case.compiled)
        board.sim.inject(board._pool.start, 1 << 20)
        with pytest.raises(DeviceError, match="READ: a memory read was answered with") as failed:
            device.run(case.images[0], "task0")
        assert failed.value.code == Error.READ
        board.sim.clear_faults()
        assert isinstance(device, BoardDevice)
        device.accelerator.time_out = 20e-6
        with pytest.raises(DeviceError, match="ABORTED: task task0 did not end") as failed:
            device.run(case.images[0], "task0")
        device.accelerator.time_out = 1.0
        check(device.accelerator, case)
        with pytest.raises(OSError, match="driven by another process"):
            open_device("board", Sources())


def test_without_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BUNDLE, raising=False)
    with pytest.raises(ValueError, match="needs a bundle: set MOEVIT_BUNDLE"):
        open_device("board", Sources())


# `moevit run` ----------------------------------------------------------------------------------
def moevit(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    return status, captured.out, captured.err


def test_golden_cases_of_the_bundle(
    board: SimulatedBoard, bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ("run", "--backend", "board", "--bundle", bundle.root)
    status, out, err = moevit(capfd, *run)
    assert (status, err) == (0, "")
    assert "task0        bit-exact" in out
    assert "frames/s by the wall clock, transfers included (100 frames);" in out
    status, out, _ = moevit(capfd, *run, "--json")
    assert status == 0 and json.loads(out)["passed"]

    wrong = np.load(bundle.root / bundle.cases[0].output)
    np.save(bundle.root / bundle.cases[0].output, wrong + 1)
    status, _, err = moevit(capfd, *run)
    assert status == 2 and "golden/image0-task0.npy: is damaged" in err
    with open_simulated(board) as accelerator:
        accelerator.load(make_case().program)
        check(accelerator, make_case())


def test_a_bundle_for_another_backend(bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = moevit(capfd, "run", "--bundle", bundle.root)
    assert status == 2 and "--bundle: backend sim has none; expected --backend board" in err
