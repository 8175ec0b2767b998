"""The record that goes with a trained checkpoint: its scores, the baselines', and how it was made.

``python -m moevit.model.evaluation.figures CHECKPOINT [--log LOG] [-o JSON]`` scores a checkpoint
on the whole validation split, fits and scores the baselines, and writes one JSON file. The shipped
model's lies beside it, ``checkpoints/nano.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from ..checkpoint import load, read_training, write_atomically
from ..config import ModelConfig
from ..training.data import Cache
from .baselines import Constant, LinearProbe, Pixels
from .evaluate import Backend, Results, evaluate, float_backend
from .metrics import delta_m

__all__ = ["VALIDATION", "command", "main", "record"]

VALIDATION = 500
"""Scenes in the whole validation split."""


def command(training: dict[str, Any]) -> str:
    """The command that repeats a training described by :meth:`TrainConfig.describe`; of a data set
    the folder has to be given too (``--root``)."""
    training = dict(training)
    size = training["size"]
    words = [f"moevit train --size {size} --output {size}.safetensors"]
    if training.pop("bf16", False):  # before version 0.2
        words.append("--amp bf16")
    for name, value in training.items():
        if name in ("size", "step") or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        words.append(flag if value is True else f"{flag} {value}")
    return " ".join(words)


def _seconds(log: Path) -> float | None:
    """Wall-clock seconds of the last step in a training log."""
    last = None
    for line in log.read_text(encoding="utf-8").splitlines():
        last = json.loads(line).get("seconds", last)
    return last


def _rounded(results: Results) -> Results:
    return {
        task: {name: float(f"{value:.5g}") for name, value in metrics.items()}
        for task, metrics in results.items()
    }


def record(path: Path, log: Path | None = None, count: int = VALIDATION) -> dict[str, Any]:
    """Everything worth knowing about a checkpoint, as plain JSON."""
    model = load(path)
    config: ModelConfig = model.config
    training = read_training(path)
    scenes = int(training.get("scenes", 20_000))
    kinds = {task.name: task.kind for task in config.tasks}
    pixels = Pixels.draw(Cache.open("train", scenes, *config.image, kinds=list(kinds.values())))
    backends: dict[str, Backend] = {
        "float": float_backend(model),
        "constant": Constant(config, pixels),
        "linear_probe": LinearProbe(config, pixels),
    }
    scores: dict[str, Results] = {}
    with Progress(transient=True) as progress:
        bar = progress.add_task("Scoring", total=count * len(backends))
        for number, (name, backend) in enumerate(backends.items()):
            scores[name] = evaluate(
                backend,
                config,
                count=count,
                on_progress=lambda done, base=number * count: progress.update(  # type: ignore[misc]
                    bar, completed=base + done
                ),
            )
    return {
        "size": config.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "split": "validation",
        "images": count,
        **{name: _rounded(results) for name, results in scores.items()},
        "delta_m_over_linear_probe": round(
            delta_m(scores["float"], scores["linear_probe"], kinds), 2
        ),
        "training": {
            "command": command(training),
            **training,
            "seconds": _seconds(log) if log is not None else None,
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the record of a checkpoint; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m moevit.model.evaluation.figures", description=__doc__
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--log", type=Path, help="the training's .jsonl, for its wall time")
    parser.add_argument("--count", type=int, default=VALIDATION, help="scenes to score")
    parser.add_argument("-o", "--output", type=Path, help="default: the checkpoint's name, .json")
    options = parser.parse_args(arguments)
    try:
        found = record(options.checkpoint, options.log, options.count)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    output: Path = options.output or options.checkpoint.with_suffix(".json")
    write_atomically(output, (json.dumps(found, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
