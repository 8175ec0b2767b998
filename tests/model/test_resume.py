"""Resuming is exact, and a run that is killed at any moment leaves what can be read."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support.datasets import write_nyud

from moevit.model import checkpoint
from moevit.model.checkpoint import load, read_training
from moevit.model.config import ModelConfig
from moevit.model.datasets import open_dataset
from moevit.model.training.settings import TrainConfig
from moevit.model.training.train import Stopped, Trainer, train

STEPS = 8
_LONG = 200  # seconds after which a forked process that hangs is ended


@pytest.fixture(scope="module")
def nyud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nyud(tmp_path_factory.mktemp("nyud"), train=21, validation=2, size=(24, 40))


@pytest.fixture
def config(micro: ModelConfig, nyud: Path, tmp_path: Path) -> TrainConfig:
    """Epochs of two steps: most steps are in the middle of one."""
    tasks = open_dataset("nyud", nyud, "train").tasks(4)
    return TrainConfig(
        out=tmp_path / "a" / "micro.safetensors",
        model=dataclasses.replace(micro, tasks=tasks),
        data="nyud",
        root=nyud,
        steps=STEPS,
        batch=2,
        warmup=2,
        log_every=1,
        save_every=3,
        validate_every=100,
        validation=2,
        device="cpu",
        threads=1,
    )


def curve(path: Path) -> list[dict[str, Any]]:
    """The log, without the times."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process the signal of Ctrl-C in the middle of a step."""
    advance = Trainer.advance

    def interrupted(self: Trainer, batch: Any, *, stop: bool = False) -> dict[str, float]:
        if self.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
            stop = True
        return advance(self, batch, stop=stop)

    monkeypatch.setattr(Trainer, "advance", interrupted)


WAYS = {
    "plain": {},
    "ema": {"ema": 0.9},
    "bf16": {"amp": "bf16"},
    "fp16": {"amp": "fp16"},
    "accumulate": {"accumulate": 2},
    "loaders": {"loaders": 2},
    "all": {"ema": 0.9, "amp": "bf16", "accumulate": 2, "loaders": 2},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at", [1, 5])
def test_the_same_curve_to_the_last_bit(
    config: TrainConfig, way: str, at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, **WAYS[way])
    wanted = train(config)
    other = dataclasses.replace(config, out=tmp_path / "b" / "micro.safetensors")
    with monkeypatch.context() as patch:
        stop_after(patch, at)
        with pytest.raises(Stopped, match=f"stopped after step {at}"):
            train(other)
    assert read_training(other.out)["step"] == at
    torch.manual_seed(4321)
    assert train(dataclasses.replace(other, resume=True)) == wanted
    assert other.out.read_bytes() == config.out.read_bytes()
    assert curve(other.log_path) == curve(config.log_path)
    assert len(curve(config.log_path)) == STEPS + 1


def test_average_is_what_is_stored(config: TrainConfig) -> None:
    config = dataclasses.replace(config, ema=0.9, steps=3)
    trainer = Trainer(config)
    from moevit.model.training.batches import Batches, Images

    data = open_dataset("nyud", config.root or Path(), "train")
    batches = Batches(Images(data, config.model.image), config.model, 2, 0)
    name = "blocks.0.mlp.fc1.weight"
    average = trainer.model.state_dict()[name].double()
    for step in range(3):
        trainer.advance(batches[step])
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * trainer.model.state_dict()[name].double()
    trainer.publish()
    stored = load(config.out).state_dict()[name]
    assert torch.allclose(stored.double(), average, atol=1e-6)
    assert not torch.equal(stored, trainer.model.state_dict()[name])
    assert trainer.validate(2) == Trainer.validate(trainer, 2)


def test_fp16_gives_way_when_it_overflows(config: TrainConfig) -> None:
    from moevit.model.training.batches import Batches, Images

    trainer = Trainer(dataclasses.replace(config, amp="fp16"))
    data = open_dataset("nyud", config.root or Path(), "train")
    batches = Batches(Images(data, config.model.image), config.model, 2, 0)
    trainer.advance(batches[0])
    trainer.scaler.update(2.0**40)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    report = trainer.advance(batches[1])
    assert not torch.isfinite(torch.tensor(report["gradient"]))
    assert trainer.healthy(report)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert trainer.scaler.get_scale() < 2.0**40


def test_log_is_cut_to_the_state(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done after the last save is done again, and is in the log once."""
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Stopped):
            train(config)
    with config.log_path.open("a") as file:
        file.write('{"step": 6, "total": 1}\n{"step": 7, "tot')  # killed in the middle of a line
    train(dataclasses.replace(config, resume=True))
    steps = [record["step"] for record in curve(config.log_path)]
    assert steps == [*range(1, STEPS + 1), STEPS]


def test_another_run_is_refused(config: TrainConfig) -> None:
    train(dataclasses.replace(config, steps=2, warmup=0, validation=0))
    for change, message in (
        ({"ema": 0.5}, "has ema 0.0, not 0.5"),
        ({"amp": "bf16"}, "has amp 'none', not 'bf16'"),
        ({"accumulate": 2}, "has accumulate 1, not 2"),
    ):
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(config, steps=2, warmup=0, resume=True, **change))


# Killed ----------------------------------------------------------------------------------------
def whole(config: TrainConfig) -> int:
    """Step of the state, having read everything that a killed run left."""
    trainer = Trainer(dataclasses.replace(config, resume=True))
    trainer.restore()
    load(config.out)
    assert read_training(config.out)["step"] <= trainer.step
    return trainer.step


@pytest.mark.parametrize("point", ["before", "half", "unmoved", "between"])
def test_killed_in_the_middle_of_a_save(
    config: TrainConfig, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the process die at each point of the save path, as SIGKILL would: nothing runs after."""
    wanted = dataclasses.replace(config, out=config.out.parent / "wanted.safetensors")
    train(wanted)
    pid = os.fork()
    if not pid:
        signal.alarm(_LONG)
        try:
            _die(config, point)
        finally:
            os._exit(99)
    assert os.waitpid(pid, 0)[1] == 9 << 8, "died where it was to"
    assert whole(config) == (6 if point == "between" else 3)
    partial = list(config.out.parent.glob(".micro*"))
    assert bool(partial) == (point in ("half", "unmoved"))
    train(dataclasses.replace(config, resume=True))
    assert config.out.read_bytes() == wanted.out.read_bytes()
    assert curve(config.log_path) == curve(wanted.log_path)
    assert not list(config.out.parent.glob(".micro*"))


def _die(config: TrainConfig, point: str) -> None:
    saves = 0
    save, publish = Trainer.save, Trainer.publish

    def dying(trainer: Trainer) -> None:
        nonlocal saves
        saves += 1
        if saves == 3 and point == "before":  # at steps 0, 3 and 6
            os._exit(9)
        if saves == 3 and point == "half":
            os.fdopen = lambda handle, mode: os._exit(os.write(handle, b"PK\3\4") and 9)  # type: ignore[assignment]
        if saves == 3 and point == "unmoved":
            os.replace = lambda *_: os._exit(9)  # type: ignore[assignment]
        save(trainer)

    def between(trainer: Trainer) -> None:
        if saves == 3 and point == "between":
            os._exit(9)
        publish(trainer)

    Trainer.save, Trainer.publish = dying, between  # type: ignore[method-assign]
    assert checkpoint.os is os
    train(config)


@pytest.mark.slow
def test_killed_at_random(config: TrainConfig, tmp_path: Path) -> None:
    """Ended at arbitrary moments by a signal that nothing catches, after so much processor time; in
    the end the result is that of a run that was left alone."""
    config = dataclasses.replace(config, steps=60, save_every=1, validation=0, ema=0.9)
    wanted = dataclasses.replace(config, out=tmp_path / "wanted.safetensors")
    train(wanted)
    rng = random.Random(5)
    kills = 0
    for attempt in range(100):
        again = dataclasses.replace(config, resume=config.state_path.is_file())
        pid = os.fork()
        if not pid:
            signal.alarm(_LONG)
            signal.setitimer(signal.ITIMER_PROF, 0.1 + 0.1 * attempt + 0.2 * rng.random())
            try:
                train(again)
            finally:
                os._exit(0)
        ended = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(ended):
            break
        assert os.WTERMSIG(ended) == signal.SIGPROF
        kills += 1

        if config.out.is_file():
            whole(config)
    assert kills >= 2
    assert whole(config) == config.steps
    assert config.out.read_bytes() == wanted.out.read_bytes()
    assert curve(config.log_path) == curve(wanted.log_path)
