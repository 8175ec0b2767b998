"""Training of an M3ViT on the procedural scenes.

AdamW with a linear warm-up and a cosine to zero; each batch holds as many images of every task, in
one forward pass. Training that was interrupted goes on from its last saved state, on the CPU with
exactly the weights that it would have had.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from torch import distributed, multiprocessing

from .batches import Batches
from .config import PRESETS, preset
from .data import Cache
from .evaluate import Results
from .trainer import TrainConfig, Trainer, learning_rate

__all__ = ["TrainConfig", "Trainer", "learning_rate", "main", "train"]


def _log(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in values.items()}


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )


def _run(trainer: Trainer, cache: Cache) -> Results:
    """One worker's loop; the first worker also logs, saves and validates."""
    config, first = trainer.config, trainer.rank == 0
    batches = Batches(cache, config.model, config.batch, config.seed, trainer.rank, config.workers)
    results: Results = {}
    with Progress(*_columns(), disable=not first) as progress:
        bar = progress.add_task(f"Training {config.model.name}", total=config.steps)
        before = time.monotonic()
        while trainer.step < config.steps:
            report = trainer.advance(batches[trainer.step])
            trainer.seconds += time.monotonic() - before
            before = time.monotonic()
            if not math.isfinite(report["total"]):
                raise RuntimeError(f"Training loss is {report['total']} at step {trainer.step}")
            if first:
                progress.update(bar, completed=trainer.step)
                results = _record(trainer, report) or results
    return results


def _record(trainer: Trainer, report: dict[str, float]) -> Results | None:
    """Log, save and validate where the step asks for it; returns new scores if there are any."""
    config, step = trainer.config, trainer.step
    last = step == config.steps
    if step % config.log_every == 0 or last:
        record = {"step": step, "seconds": round(trainer.seconds, 1), **_rounded(report)}
        _log(config.log_path, record)
    if step % config.save_every == 0 or last:
        trainer.save()
        trainer.publish()
    if not config.validation or not (step % config.validate_every == 0 or last):
        return None
    results = trainer.validate(config.validation)
    scores = {name: _rounded(metrics) for name, metrics in results.items()}
    _log(config.log_path, {"step": step, "validation": scores})
    return results


def _work(rank: int, config: TrainConfig, meeting: str, results: Any) -> None:
    """Body of a worker process."""
    if config.threads:
        torch.set_num_threads(config.threads)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=config.workers
    )
    try:
        scores = _run(_prepare(config, rank), _open_cache(config))
        if rank == 0:
            results.put(scores)
    finally:
        distributed.destroy_process_group()


def _open_cache(config: TrainConfig) -> Cache:
    return Cache.open("train", config.scenes, *config.model.image)


def _prepare(config: TrainConfig, rank: int = 0) -> Trainer:
    trainer = Trainer(config, rank)
    if config.resume:
        trainer.restore()
    return trainer


def train(config: TrainConfig) -> Results:
    """Train to the end and write the checkpoint; returns the last validation scores.

    Raises ``ValueError`` for a configuration or a state that cannot be used, and ``RuntimeError``
    when the loss stops being finite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    trainer = _prepare(config)  # before any worker starts, so that mistakes are reported here
    if not config.resume:
        config.log_path.unlink(missing_ok=True)
    cache = _open_cache(config)
    if config.workers == 1:
        return _run(trainer, cache)
    results = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="moevit-") as folder:
        meeting = str(Path(folder) / "meeting")
        multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
            _work, (config, meeting, results), nprocs=config.workers
        )
    scores: Results = results.get()
    return scores


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m moevit.model.train", description=__doc__)
    for field in dataclasses.fields(TrainConfig):
        flag = f"--{field.name.replace('_', '-')}"
        if field.name == "model":
            parser.add_argument("--size", choices=tuple(PRESETS), default="nano")
        elif field.name == "out":
            parser.add_argument(flag, type=Path, required=True)
        elif isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say, an option for each field of :class:`TrainConfig`.

    Prints the validation scores as JSON. Returns the exit status: 2 for a mistake of the user.
    """
    options = vars(_parser().parse_args(arguments))
    try:
        results = train(TrainConfig(model=preset(options.pop("size")), **options))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(results) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
