"""Campaigns of random networks: reproducible, resumable, and wrong where something is wrong.

They run on the accelerator that the other tests have built, in this process.
"""

import json
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.rtl import SMALL

from moevit.bench.campaign import campaign, running
from moevit.bench.campaign.cases import Case, draw, features
from moevit.bench.campaign.features import CHOICES, DRAWN, PAIRS, pairs_of, possible
from moevit.bench.campaign.machines import random_machine
from moevit.bench.campaign.points import POINTS
from moevit.bench.campaign.record import Record
from moevit.bench.campaign.shrink import shrink
from moevit.bench.campaign.soak import soak
from moevit.errors import CheckFailedError, UserError
from moevit.quant.random_network import Sizes
from moevit.sim.rtl import RtlDevice

_ARRAY = ("array tokens", "array outputs", "array inputs", "ports", "ring")


class Here(Executor):
    """Runs everything at once, in this process, and counts it."""

    count = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def stopped(_what: str, share: float) -> None:
    """Ctrl-C when something is done."""
    if share > 0:
        raise KeyboardInterrupt


# What is drawn ------------------------------------------------------------------------------------
def test_a_number_is_a_case() -> None:
    config = random_machine(3, 1)
    for number in range(60):
        case = next(draw(3, number, config))
        assert case == next(draw(3, number, config))
        assert case != next(draw(4, number, config))
        assert Case.from_json(case.to_json()) == case
        found = features(case)
        assert all(found[name] in CHOICES[name] for name in found)
        assert all(possible(pair) for pair in pairs_of(found))


def test_the_pairs_are_steered_at() -> None:
    """Few cases have most pairs, whatever the machine."""
    config = random_machine(0, 0)
    seen = set()
    for number in range(400):
        seen |= pairs_of(features(next(draw(0, number, config))))
    of_networks = [p for p in PAIRS if p[0] in DRAWN and p[2] in DRAWN]
    missing = [p for p in of_networks if p not in seen]
    assert len(missing) < 0.1 * len(of_networks)


def test_eighteen_machines_have_all_pairs() -> None:
    seen = set()
    for index in range(campaign.MACHINES):
        config = random_machine(9, index)
        assert config == random_machine(9, index)
        seen |= pairs_of(features(Case(config=config, sizes=Sizes(), seed=0)))
    assert not [p for p in PAIRS if p[0] in _ARRAY and p[2] in _ARRAY and p not in seen]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"config": 1}', "x"])
def test_what_is_no_case(text: str) -> None:
    with pytest.raises(UserError, match="--case: not a case"):
        Case.from_json(text)


# Runs ---------------------------------------------------------------------------------------------
@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine is the one that the other tests have built."""
    monkeypatch.setattr(campaign, "random_machine", lambda _seed, _index: SMALL)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(small: None, tmp_path: Path) -> None:
    plan = campaign.Plan(seed=5, networks=35, first=15)
    whole, failures = campaign.run(plan, tmp_path / "whole", Here())
    assert not failures
    assert (whole["networks"], whole["failures"]) == (35, [])
    assert whole["frames"] > 35
    assert len(whole["holes"]) < 0.25 * len(POINTS)

    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        campaign.run(plan, part, Here(), stopped)
    done = len(Record(part, {"seed": 5, "machines": plan.machines}).done)
    assert 0 < done < 35
    with part.open("ab") as file:  # killed while it wrote
        file.write(b'{"first": 7')
    again, _ = campaign.run(plan, part, Here())
    assert again == whole
    idle = Here()
    assert campaign.run(plan, part, idle)[0] == whole
    assert idle.count == 0

    with pytest.raises(UserError, match="record of a campaign with seed 5, not 6"):
        campaign.run(campaign.Plan(seed=6, networks=1), part, Here())
    part.write_text("something else\n")
    with pytest.raises(UserError, match="no record of a campaign"):
        campaign.run(plan, part, Here())


@pytest.mark.slow
def test_a_wrong_bit_is_found(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one value of the device's result, in networks with three tasks."""
    run = RtlDevice.run

    def wrong(self: RtlDevice, image: Any, task: str, **options: Any) -> Any:
        result = run(self, image, task, **options)
        if task == "task2":
            result.output[-1, -1] ^= 1
        return result

    monkeypatch.setattr(RtlDevice, "run", wrong)
    found, failures = campaign.run(campaign.Plan(seed=1, networks=25), tmp_path / "r", Here())
    assert failures
    assert found["failures"] == failures
    first = failures[0]
    assert first["failure"].startswith("RTL, task2: 1 of ")
    assert first["alone"]
    case = Case.from_json(first["case"])
    assert case == campaign.case_of(1, first["number"])
    assert campaign.run_case(case).failure == first["failure"]
    with running.Bench(SMALL, campaign.build_simulator(SMALL)) as bench:

        def fails(case: Case) -> str:
            return bench.run(case).failure if case.config == SMALL else ""

        small_case = shrink(case, fails)
    assert (small_case.sizes.tasks, small_case.sizes.depth) == (3, 1)
    assert small_case.sizes.moe == ()
    assert small_case.schedule == "single"


def test_shrinking_to_what_matters() -> None:
    """Four experts and two ports are to blame; everything else goes."""

    def fails(case: Case) -> str:
        both = case.sizes.experts >= 4 and case.sizes.moe and case.config.memory.ports >= 2
        return "RTL: wrong" if both else "proof: another" if case.sizes.dim > 8 else ""

    sizes = Sizes(experts=8, dim=24, heads=3, hidden=40, depth=3, moe=(0, 2), registers=2)
    start = next(draw(0, 0, random_machine(0, 2)))
    case = Case(config=start.config, sizes=sizes, seed=77, schedule="queue", fault="HANG")
    found = shrink(case, fails)
    assert found.sizes.experts == 4
    assert found.config.memory.ports == 2
    assert (found.schedule, found.fault, found.seed) == ("single", "none", 0)
    s = found.sizes
    assert (s.dim, s.heads, s.hidden, s.registers, len(s.moe)) == (4, 1, 1, 0, 1)
    assert shrink(start, lambda case: "") == start


# Long runs ----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_hundred_frames_without_a_restart() -> None:
    found = soak(100, 4, SMALL)
    assert found["frames"] >= 100
    assert {"frame", "queue", "all", "fault", "reset", "program"} <= set(found["done"])


@pytest.mark.slow
def test_a_soak_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is off by one, on the tenth frame of a kind."""
    run, frames = RtlDevice.run, 0

    def wrong(self: RtlDevice, image: Any, task: str, **options: Any) -> Any:
        nonlocal frames
        result = run(self, image, task, **options)
        frames += 1
        if frames == 10:
            result.output[0, 0] += np.int16(1)
        return result

    monkeypatch.setattr(RtlDevice, "run", wrong)
    with pytest.raises(CheckFailedError, match=r"soak of seed 3, frame \d+: .* values differ"):
        soak(100, 3, SMALL)


def test_the_record_is_lines(tmp_path: Path) -> None:
    record = Record(tmp_path / "a" / "r", {"seed": 1, "machines": 2})
    record.add({"first": 4, "networks": 3})
    lines = [json.loads(line) for line in (tmp_path / "a" / "r").read_text().splitlines()]
    assert lines[0]["seed"] == 1
    assert Record(tmp_path / "a" / "r", {"seed": 1, "machines": 2}).done == {4, 5, 6}
