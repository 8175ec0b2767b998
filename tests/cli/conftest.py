"""A micro model, untrained, in a cache of its own: every command runs on it in a moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.micro import MICRO

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def micro_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all tests of a session share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the micro model with random weights."""
    import torch

    from moevit.model.checkpoint import store
    from moevit.model.m3vit import M3ViT

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "micro.safetensors"
    store(M3ViT(MICRO), path)
    return path


@pytest.fixture
def moevit(
    micro_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """Runs the command in an empty folder; gives exit status, standard output and error."""
    from moevit.cli.main import main

    monkeypatch.setenv("MOEVIT_CACHE", str(micro_cache))
    monkeypatch.delenv("MOEVIT_TRACEBACK", raising=False)
    # What a slow machine is told of meanwhile is no part of the answer.
    monkeypatch.setattr("moevit.cli.progress._PATIENCE_S", float("inf"))
    home = os.getcwd()
    os.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    yield run
    os.chdir(home)
