"""One training step after another: configuration, optimiser, state, and what a step does."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from .batches import Batch
from .checkpoint import store, write_atomically
from .config import PRESETS, ModelConfig
from .evaluate import Results, evaluate, float_backend
from .losses import RECIPES, task_loss
from .m3vit import M3ViT

__all__ = ["TrainConfig", "Trainer", "learning_rate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that a training run depends on.

    ``out`` is the checkpoint to write; beside it go the state for resuming (``.state``) and the
    log (``.jsonl``, an object a line). ``batch`` counts images of each task. The learning rate
    rises over ``warmup`` steps and falls over the last ``decay`` share of the others; between the
    two it stays, so a run may be resumed with other ``steps`` as long as its fall has not begun.
    ``device`` is a torch device or ``auto`` (CUDA when present). ``bf16`` computes matrix products
    in bfloat16; weights stay in float32. ``workers`` processes share each batch, on the CPU: where
    other programs compete for the cores they do better than one process with as many threads,
    because they wait for one another once a step instead of in every operator.

    Raises ``ValueError`` naming the field for values out of range.
    """

    out: Path
    model: ModelConfig = field(default_factory=lambda: PRESETS["nano"])
    steps: int = 3600
    batch: int = 16
    scenes: int = 20_000
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 200
    decay: float = 1.0
    clip: float = 1.0
    balance: float = 0.01
    seed: int = 0
    device: str = "auto"
    bf16: bool = False
    workers: int = 1
    threads: int = 0
    log_every: int = 20
    save_every: int = 250
    validate_every: int = 500
    validation: int = 100
    resume: bool = False

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "scenes",
            "workers",
            "log_every",
            "save_every",
            "validate_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"Training {name} must be positive, not {getattr(self, name)!r}")
        for name in ("weight_decay", "warmup", "balance", "seed", "threads", "validation"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"Training {name} must not be negative, not {getattr(self, name)!r}"
                )
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Training {name} must be positive, not {getattr(self, name)!r}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"Training decay must be above 0 and at most 1, not {self.decay!r}")
        if self.batch % self.workers:
            raise ValueError(f"Training batch {self.batch} must divide by workers {self.workers}")

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
        values = dataclasses.asdict(self)
        for name in ("out", "model", "log_every", "save_every", "validate_every"):
            del values[name]
        for name in ("validation", "resume", "threads", "device"):
            del values[name]
        return {"size": self.model.name, **values}


def _fall(config: TrainConfig, steps: int) -> int:
    """Step at which the learning rate of a run of ``steps`` begins to fall."""
    return config.warmup + round((1 - config.decay) * max(steps - config.warmup, 0))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate at a step: a linear warm-up, a plateau, then half a cosine down to zero."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    start = _fall(config, config.steps)
    done = max(step - start, 0) / max(config.steps - start, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _optimiser(model: M3ViT, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only: not biases, norms, embeddings or routers."""
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and "embed" not in name.split(".")[0]
        keep = not matrix or "router" in name or name in ("pos_embed", "cls_token")
        (free if keep else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


class Trainer:
    """A model, its optimiser and the step it has reached; ``rank`` numbers the worker."""

    def __init__(self, config: TrainConfig, rank: int = 0) -> None:
        self.config, self.rank = config, rank
        wanted = config.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(wanted)
        except RuntimeError:
            raise ValueError(f"Device must be auto, cpu or cuda, not {wanted!r}") from None
        if config.workers > 1 and self.device.type != "cpu":
            raise ValueError(f"Training with {config.workers} workers needs the CPU, not {wanted}")
        torch.manual_seed(config.seed)
        self.model = M3ViT(config.model).to(self.device)
        self.optimiser = _optimiser(self.model, config)
        self.step = 0
        self.seconds = 0.0

    def save(self) -> None:
        """Write the state for resuming."""
        buffer = io.BytesIO()
        state = {
            "training": json.dumps(self.config.describe()),
            "model_config": self.config.model.to_json(),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, buffer)
        write_atomically(self.config.state_path, buffer.getvalue())

    def restore(self) -> None:
        """Go on from a saved state; ``ValueError`` where it is absent, broken or of another run."""
        path = self.config.state_path
        if not path.is_file():
            raise ValueError(f"There is no training state {path} to resume from")
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            saved, model_config = state["training"], state["model_config"]
        except Exception as error:  # torch.load raises whatever unpickling or unzipping meets
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"Training state {path} is not readable: {reason}") from None
        if ModelConfig.from_json(model_config) != self.config.model:
            raise ValueError(f"Training state {path} is of another model than was asked for")
        config = self.config
        now = config.describe()
        for name, value in json.loads(saved).items():
            if name == "steps":
                if value == config.steps:
                    continue
                if state["step"] <= min(_fall(config, value), _fall(config, config.steps)):
                    continue
            if now.get(name) != value:
                raise ValueError(
                    f"Training state {path} has {name} {value!r}, not {now.get(name)!r}"
                )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step of the optimiser; returns the losses and the gradient's length."""
        config = self.config
        # The gates' noise: its own for each seed, step and worker.
        torch.manual_seed(((config.seed << 24) + self.step) * config.workers + self.rank)
        rate = learning_rate(config, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        images = batch.images.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            outputs = self.model.forward_mixed(images, batch.counts)
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for task in config.model.tasks:
            truth = batch.truths[task.name].to(self.device)
            losses[task.name] = task_loss(task.kind, outputs[task.name], truth)
            total = total + RECIPES["scenes"].weight(task.kind) * losses[task.name]
        balance = self.model.balance()
        total = total + config.balance * (balance.importance + balance.load)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        self._share_gradients()
        length = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimiser.step()
        self.step += 1
        report = {name: loss.item() for name, loss in losses.items()}
        report |= {"importance": balance.importance.item(), "load": balance.load.item()}
        return report | {"total": total.item(), "gradient": length.item(), "rate": rate}

    def _share_gradients(self) -> None:
        """Give all workers the mean of their gradients."""
        if self.config.workers == 1:
            return
        parameters = list(self.model.parameters())
        for parameter in parameters:
            if parameter.grad is None:  # an expert that no token chose
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        distributed.all_reduce(flat)
        flat /= self.config.workers
        for parameter, part in zip(
            parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter)

    def validate(self, count: int) -> Results:
        """Score the model on the validation split."""
        self.model.eval()
        return evaluate(float_backend(self.model), self.config.model, count=count)

    def publish(self) -> None:
        """Write the checkpoint."""
        training = {**self.config.describe(), "step": self.step}
        store(self.model, self.config.out, training)
