"""A batch computed in parts, one after another or by several processes, is the same batch."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.datasets import write_pascal_context

from moevit.model.checkpoint import load
from moevit.model.config import ModelConfig
from moevit.model.datasets import open_dataset
from moevit.model.training.parallel import Member
from moevit.model.training.settings import TrainConfig
from moevit.model.training.train import Trainer, _run, train
from moevit.model.training.watching import Watch


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With unknown pixels of every kind, of which parts of a batch have unequal numbers."""
    return write_pascal_context(tmp_path_factory.mktemp("pascal"), train=21, size=(24, 40))


@pytest.fixture
def config(micro: ModelConfig, root: Path, tmp_path: Path) -> TrainConfig:
    tasks = open_dataset("pascal_context", root, "train").tasks(4)
    return TrainConfig(
        out=tmp_path / "one" / "micro.safetensors",
        model=dataclasses.replace(micro, tasks=tasks),
        data="pascal_context",
        root=root,
        steps=3,
        batch=4,
        warmup=0,
        clip=1e9,
        log_every=1,
        validation=2,
        device="cpu",
        threads=1,
    )


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the gates' noise, which is drawn anew for each part."""
    monkeypatch.setattr("moevit.model.moe.torch.randn_like", torch.zeros_like)
    yield


def losses(config: TrainConfig) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in config.log_path.read_text().splitlines()]
    return [record for record in records if "total" in record]


def assert_equal_up_to_rounding(one: TrainConfig, other: TrainConfig) -> None:
    first, second = losses(one), losses(other)
    assert len(first) == one.steps
    for a, b in zip(first, second, strict=True):
        for name in (*one.model.task_names, "gradient", "total"):
            assert b[name] == pytest.approx(a[name], rel=2e-3), name
    # The first step's gradient, before Adam divides by its small size
    assert second[0]["gradient"] == pytest.approx(first[0]["gradient"], rel=3e-5)
    assert second[0]["total"] == pytest.approx(first[0]["total"], rel=3e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_is_the_larger_batch(config: TrainConfig, quiet: None, parts: int) -> None:
    config = dataclasses.replace(config, balance=0.0)
    train(config)
    other = dataclasses.replace(
        config, out=config.out.parent / "parts.safetensors", accumulate=parts
    )
    train(other)
    assert_equal_up_to_rounding(config, other)


def _second(config: TrainConfig, meeting: str) -> int:
    """Fork the second of two processes."""
    pid = os.fork()
    if not pid:
        signal.alarm(200)  # rather than hang
        status = 1
        try:
            _run(config, Member(rank=1, size=2, meeting=meeting), Watch("none"))
            status = 0
        finally:
            os._exit(status)
    return pid


def test_two_processes_compute_one_batch(config: TrainConfig, quiet: None, tmp_path: Path) -> None:
    config = dataclasses.replace(config, balance=0.0)
    train(config)
    other = dataclasses.replace(
        config, out=tmp_path / "two" / "micro.safetensors", workers=2, accumulate=2
    )
    meeting = f"file://{tmp_path / 'meeting'}"
    pid = _second(other, meeting)
    results = _run(other, Member(rank=0, size=2, meeting=meeting), Watch("none"))
    assert os.waitpid(pid, 0)[1] == 0
    assert set(results) == set(config.model.task_names)
    assert_equal_up_to_rounding(config, other)


def test_two_processes_resume_exactly(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, workers=2, steps=4, ema=0.5, amp="bf16", decay=0.25)
    files = []
    for name, legs in (("straight", [4]), ("resumed", [2, 4])):
        out = tmp_path / name / "micro.safetensors"
        for number, steps in enumerate(legs):
            leg = dataclasses.replace(config, out=out, steps=steps, resume=number > 0)
            meeting = f"file://{tmp_path / f'{name}{number}'}"
            pid = _second(leg, meeting)
            _run(leg, Member(rank=0, size=2, meeting=meeting), Watch("none"))
            assert os.waitpid(pid, 0)[1] == 0
        files.append(load(out).state_dict())
    straight, resumed = files
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.slow
def test_torchrun(config: TrainConfig, tmp_path: Path) -> None:
    """The command under torchrun, two processes on the CPU with gloo; their result is that of two
    workers."""
    script = tmp_path / "run.py"
    script.write_text(
        "import dataclasses, sys\n"
        "from moevit.cli.main import main\n"
        "from moevit.model.config import PRESETS, ModelConfig\n"
        f"PRESETS['micro'] = ModelConfig.from_json({config.model.to_json()!r})\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["train", "--size", "micro", "--data", "pascal_context", "--root", config.root]
    arguments += ["--steps", 3, "--batch", 4, "--warmup", 0, "--log-every", 1, "--validation", 2]
    arguments += ["--threads", 1, "--device", "cpu", "--json"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    out = tmp_path / "torchrun.safetensors"
    command = [*launch, 2, script, *arguments, "-o", out]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["step"] for line in lines[:3]] == [1, 2, 3]
    assert lines[-1]["output"] == str(out) and len(lines) == 5
    two = dataclasses.replace(config, out=tmp_path / "workers.safetensors", workers=2, clip=1.0)
    train(two)
    first, second = load(out).state_dict(), load(two.out).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_workers_mistake_is_told(config: TrainConfig) -> None:
    data = open_dataset("pascal_context", config.root or Path(), "train")
    broken = data.image_path(0)
    before = broken.read_bytes()
    try:
        broken.write_bytes(before[:40])
        with pytest.raises(ValueError, match="not a whole image"):
            train(dataclasses.replace(config, loaders=1))
    finally:
        broken.write_bytes(before)


def test_who_torchrun_says_we_are(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert Member.from_environment() is None
    monkeypatch.setenv("RANK", "3")
    assert Member.from_environment() is None
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, value)
    assert Member.from_environment() == Member(rank=3, size=4, local=1)
    with pytest.raises(ValueError, match="workers 2 must be 1 under torchrun, which started 4"):
        train(dataclasses.replace(config, workers=2))


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch would report two of them."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert Member(rank=3, size=4, local=1).device("auto") == torch.device("cuda", 1)
    assert Member().device("auto") == torch.device("cuda")
    with pytest.raises(ValueError, match=r"Process 2 of this machine needs a GPU .* are 2"):
        Member(rank=2, size=4, local=2).device("cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        Member().device("cuda")


def test_kinds_without_truth_are_refused(config: TrainConfig, micro: ModelConfig) -> None:
    with pytest.raises(ValueError, match="Recipe pascal_context has no weight for 'depth'"):
        Trainer(dataclasses.replace(config, model=micro))
