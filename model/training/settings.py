"""What a training run depends on, and its learning rate."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import PRESETS, ModelConfig
from ..datasets import NAMES, Units

__all__ = ["AMP", "SCENES", "TrainConfig", "fall", "learning_rate"]

SCENES = "scenes"
"""Name of the rendered scenes as training data."""

AMP = ("none", "bf16", "fp16")
"""Mixed precision: none, or the format of matrix products; weights stay in float32."""

# What may differ between a run and the one that goes on from its state.
_FREE = (
    *("out", "model", "root", "log_every", "save_every", "validate_every"),
    *("validation", "resume", "threads", "loaders", "device", "start"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that a training run depends on.

    ``out`` is the checkpoint to write; beside it go the state for resuming (``.state``) and the
    log (``.jsonl``, an object a line). ``data`` is ``scenes``, of which ``scenes`` are rendered, or
    a data set of :mod:`moevit.model.datasets` in the folder ``root``, with what
    :class:`moevit.model.datasets.Units` has; the recipe of losses is the data's.
    ``batch`` counts images of each task in a step; they are computed in ``accumulate``
    parts, one after another. The learning rate rises over ``warmup`` steps and falls over the last
    ``decay`` share of the others; between the two it stays, so a run may be resumed with other
    ``steps`` as long as its fall has not begun. ``device`` is a torch device or ``auto`` (CUDA when
    present). ``amp`` is the precision of matrix products (:data:`AMP`). ``ema`` is the decay of an
    average of the weights (0: none), which is then what is validated and stored. ``workers``
    processes share each batch, on the CPU: where other programs compete for the cores they do
    better than one process with as many threads, because they wait for one another once a step
    instead of in every operator; under torchrun it is the number of its processes. ``loaders``
    threads prepare the next batches meanwhile. ``start`` is a checkpoint whose weights the first
    step finds, as far as they fit (:func:`~.start.start_from`).

    Raises ``ValueError`` naming the field for values out of range.
    """

    out: Path
    model: ModelConfig = field(default_factory=lambda: PRESETS["nano"])
    data: str = SCENES
    root: Path | None = None
    depth_scale: float = 1.0
    normals_range: str = "signed"
    steps: int = 3600
    batch: int = 16
    accumulate: int = 1
    scenes: int = 20_000
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 200
    decay: float = 1.0
    clip: float = 1.0
    balance: float = 0.01
    ema: float = 0.0
    seed: int = 0
    device: str = "auto"
    amp: str = "none"
    workers: int = 1
    threads: int = 0
    loaders: int = 0
    log_every: int = 20
    save_every: int = 250
    validate_every: int = 500
    validation: int = 100
    resume: bool = False
    start: Path | None = None

    @property
    def units(self) -> Units:
        """How the data set's truths are stored."""
        return Units(depth_scale=self.depth_scale, normals_range=self.normals_range)

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "accumulate", "scenes", "workers")
        for name in (*positive, "log_every", "save_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Training {name} must be positive, not {getattr(self, name)!r}")
        natural = ("weight_decay", "warmup", "balance", "seed", "threads", "loaders", "validation")
        for name in natural:
            if getattr(self, name) < 0:
                raise ValueError(
                    f"Training {name} must not be negative, not {getattr(self, name)!r}"
                )
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Training {name} must be positive, not {getattr(self, name)!r}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"Training decay must be above 0 and at most 1, not {self.decay!r}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"Training ema must be at least 0 and below 1, not {self.ema!r}")
        if self.amp not in AMP:
            raise ValueError(f"Training amp must be one of {', '.join(AMP)}, not {self.amp!r}")
        if self.data not in (SCENES, *NAMES):
            known = ", ".join((SCENES, *NAMES))
            raise ValueError(f"Training data must be one of {known}, not {self.data!r}")
        if (self.root is None) != (self.data == SCENES):
            wanted = "no root" if self.data == SCENES else "a root, its folder"
            raise ValueError(f"Training data {self.data} needs {wanted}, not {self.root}")
        if self.batch % (self.workers * self.accumulate):
            parts = f"workers {self.workers}"
            if self.accumulate > 1:
                parts += f" times accumulate {self.accumulate}"
            raise ValueError(f"Training batch {self.batch} must divide by {parts}")

    @property
    def state_path(self) -> Path:
        """Where the state for resuming is kept."""
        return self.out.with_suffix(".state")

    @property
    def log_path(self) -> Path:
        """Where the log goes."""
        return self.out.with_suffix(".jsonl")

    def describe(self) -> dict[str, Any]:
        """What decides the result, as plain JSON: all but paths, logging and where to resume."""
        values = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _FREE
        }
        return {"size": self.model.name, **values}


def fall(config: TrainConfig, steps: int) -> int:
    """Step at which the learning rate of a run of ``steps`` begins to fall."""
    return config.warmup + round((1 - config.decay) * max(steps - config.warmup, 0))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate at a step: a linear warm-up, a plateau, then half a cosine down to zero."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    start = fall(config, config.steps)
    done = max(step - start, 0) / max(config.steps - start, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
