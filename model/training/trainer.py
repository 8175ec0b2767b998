"""One training step after another: the optimiser, the state, and what a step does."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import store, write_atomically
from ..config import ModelConfig
from ..datasets import open_for
from ..evaluation.evaluate import Results, Sampled, evaluate, fitted, float_backend
from ..m3vit import M3ViT
from .batches import Batch
from .data import samples
from .losses import RECIPES, counts, task_loss
from .parallel import Member, add_up
from .settings import SCENES, TrainConfig, fall, learning_rate
from .start import start_from

__all__ = ["TrainConfig", "Trainer", "learning_rate"]

_PRECISION = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _optimiser(model: M3ViT, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only: not biases, norms, embeddings or routers."""
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and "embed" not in name.split(".")[0]
        keep = not matrix or "router" in name or name in ("pos_embed", "cls_token", "dist_token")
        (free if keep else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


class Trainer:
    """A model, its optimiser and the step it has reached, as one of the processes of a run.

    ``average`` is a second model with the exponential average of the weights, where the
    configuration asks for one.
    """

    def __init__(self, config: TrainConfig, member: Member | None = None) -> None:
        self.config = config
        self.member = member or Member(size=config.workers)
        self.device = self.member.device(config.device)
        self.recipe = RECIPES[config.data]
        for task in config.model.tasks:
            self.recipe.weight(task.kind)  # refuses kinds that the data has no truth of
        torch.manual_seed(config.seed)
        model = M3ViT(config.model)
        if config.start is not None and not config.resume:
            start_from(model, config.start)
        self.model = model.to(self.device)
        self.average = copy.deepcopy(self.model).eval() if config.ema else None
        self.optimiser = _optimiser(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.step = 0
        self.seconds = 0.0

    @property
    def result(self) -> M3ViT:
        """The model that is validated and stored."""
        return self.model if self.average is None else self.average

    def save(self) -> None:
        """Write the state for resuming."""
        buffer = io.BytesIO()
        state: dict[str, Any] = {
            "training": json.dumps(self.config.describe()),
            "model_config": self.config.model.to_json(),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        torch.save(state, buffer)
        write_atomically(self.config.state_path, buffer.getvalue())

    def restore(self) -> None:
        """Go on from a saved state; ``ValueError`` where it is absent, broken or of another run."""
        path = self.config.state_path
        if not path.is_file():
            raise ValueError(f"There is no training state {path} to resume from")
        try:
            with warnings.catch_warnings():  # of what pickle it is; what is wrong is said below
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True)
            saved, model_config = json.loads(state["training"]), state["model_config"]
        except Exception as error:  # torch.load raises whatever unpickling or unzipping meets
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"Training state {path} is not readable: {reason}") from None
        if ModelConfig.from_json(model_config) != self.config.model:
            raise ValueError(f"Training state {path} is of another model than was asked for")
        self._compare(saved, int(state["step"]))
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])

    def _compare(self, saved: dict[str, Any], step: int) -> None:
        """Refuse to go on from a state of a run whose result would have been another."""
        config, path = self.config, self.config.state_path
        if "bf16" in saved:  # before version 0.2
            saved["amp"] = "bf16" if saved.pop("bf16") else "none"
        defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
        for name, now in config.describe().items():
            value: Any = saved.get(name, defaults.get(name))
            if name == "steps" and step <= min(fall(config, value), fall(config, now)):
                continue
            if value != now:
                raise ValueError(f"Training state {path} has {name} {value!r}, not {now!r}")

    def advance(self, batch: Batch, *, stop: bool = False) -> dict[str, float]:
        """One step of the optimiser.

        Returns the losses of the whole batch, the gradient's length, and under ``stop`` how many
        processes were asked to stop. In fp16 a step whose gradient overflows changes no weight; its
        length is not finite, and the next step scales its loss down.
        """
        config, tasks = self.config, self.config.model.tasks
        rate = learning_rate(config, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        found = torch.stack([counts(task.kind, batch.truths[task.name]) for task in tasks])
        totals = add_up(found.to(self.device))
        sums = torch.zeros(len(tasks) + 3, device=self.device)
        sums[-1] = float(stop)
        for number, part in enumerate(batch.parts(config.accumulate)):
            sums[:-1] += self._part(part, number, totals)
        sums = self._share(sums)
        self.scaler.unscale_(self.optimiser)
        length = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._follow()
        self.step += 1
        *losses, importance, load, asked = sums.tolist()
        weighted = zip(tasks, losses, strict=True)
        total = sum(self.recipe.weight(task.kind) * loss for task, loss in weighted)
        return {
            **{task.name: loss for task, loss in zip(tasks, losses, strict=True)},
            "importance": importance,
            "load": load,
            "total": total + config.balance * (importance + load),
            "gradient": length.item(),
            "rate": rate,
            "stop": asked,
        }

    def _part(self, part: Batch, number: int, totals: Tensor) -> Tensor:
        """Add a part's gradient; returns its share of the tasks' losses and of the balance's."""
        config = self.config
        member, pieces = self.member, config.accumulate
        # The gates' noise: its own for each seed, step, worker and part.
        draw = ((config.seed << 24) + self.step) * member.size + member.rank
        torch.manual_seed(draw * pieces + number)
        precision = _PRECISION[config.amp]
        with torch.autocast(self.device.type, precision, enabled=config.amp != "none"):
            outputs = self.model.forward_mixed(part.images.to(self.device), part.counts)
        objective = torch.zeros((), device=self.device)
        values = []
        for task, total in zip(config.model.tasks, totals, strict=True):
            truth = part.truths[task.name].to(self.device)
            loss = task_loss(task.kind, outputs[task.name], truth, self.recipe, total)
            objective = objective + self.recipe.weight(task.kind) * loss
            values.append(loss.detach())
        balance = self.model.balance()
        share = 1 / (pieces * member.size)
        objective = objective + config.balance * share * (balance.importance + balance.load)
        torch.autograd.backward(self.scaler.scale(objective))
        values += [share * balance.importance.detach(), share * balance.load.detach()]
        return torch.stack([value.float() for value in values])

    def _share(self, sums: Tensor) -> Tensor:
        """Give all processes the sum of their gradients and of ``sums``."""
        if self.member.size == 1:
            return sums
        parameters = list(self.model.parameters())
        for parameter in parameters:
            if parameter.grad is None:  # an expert that no token chose
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
        flat = add_up(torch.cat([*gradients, sums]))
        *parts, sums = torch.split(flat, [*(p.numel() for p in parameters), len(sums)])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return sums

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights; at first faster, so that it forgets the start."""
        if self.average is None:
            return
        share = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))
        targets = self.model.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(targets[name], share)
            else:
                value.copy_(targets[name])

    def validate(self, count: int, on_progress: Callable[[int], None] | None = None) -> Results:
        """Score the result on at most ``count`` images of the validation split."""
        config = self.config
        backend = float_backend(self.result.eval())
        source: Sampled = samples("validation", count, *config.model.image)
        if config.data != SCENES:
            assert config.root is not None
            tasks = config.model.tasks
            data = open_for(config.data, config.root, "validation", tasks, config.units)
            source = fitted(data, config.model, count)
        return evaluate(backend, config.model, count=count, source=source, on_progress=on_progress)

    def publish(self) -> None:
        """Write the checkpoint."""
        training = {**self.config.describe(), "step": self.step}
        store(self.result, self.config.out, training)

    def healthy(self, report: dict[str, float]) -> bool:
        """Whether a step's loss is finite, or fp16's scale can still give way."""
        if math.isfinite(report["total"]):
            return True
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1
