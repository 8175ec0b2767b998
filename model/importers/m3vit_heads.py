"""Heads of M3ViT's checkpoints: its progressive-upsampling decoder, one a task.

Per task the file has ``decoders.TASK.`` with ``norm``, ``conv_0`` to ``conv_3`` (3x3), each with
batch norm ``syncbn_fc_N``, and ``conv_4`` (1x1, to the task's channels). Four doublings lead from a
patch of 16 pixels to the image's resolution. Side outputs (``output_level_N``) and task
affinity modules (``tam_modelN.*``) act while training only. Other decoders are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..config import ModelConfig, TaskConfig
from .tensors import Tensors

__all__ = ["PREFIX", "Decoders"]

PREFIX = "decoders."

_CONVOLUTIONS = 4
_PATCH = 16
_KINDS = {
    "semseg": "segmentation",
    "human_parts": "human_parts",
    "sal": "saliency",
    "normals": "normals",
    "edge": "edges",
    "depth": "depth",
}
"""Kinds of M3ViT's tasks."""

_PARTS = (
    "norm",
    *(f"conv_{n}" for n in range(_CONVOLUTIONS + 1)),
    *(f"syncbn_fc_{n}" for n in range(_CONVOLUTIONS)),
)
_AUXILIARY = re.compile(rf"{re.escape(PREFIX)}\w+\.output_level_\d+\..*|tam_model\d+\..*")
_INSTEAD = "(--backbone-only leaves heads aside)"


class Decoders:
    """The heads in a file, by task in the order of the gates.

    Raises ``ValueError`` naming what was found for a task or a decoder that cannot be represented.
    """

    def __init__(self, tensors: Tensors, names: Sequence[str], patch: int) -> None:
        self.tensors = tensors
        found = [name for name in tensors.names if name.startswith(PREFIX)]
        self.unused = tensors.leave(n for n in tensors.names if _AUXILIARY.fullmatch(n))
        tasks = tuple(dict.fromkeys(name.split(".")[1] for name in found))
        if names and sorted(names) != sorted(tasks):
            raise ValueError(
                f"{tensors.source} has heads of the tasks {', '.join(tasks)}, not "
                f"{', '.join(names)}: tasks name their order {_INSTEAD}"
            )
        self.tasks = tuple(names) or tasks
        for task in self.tasks:
            self._check(task, found)
        if patch != _PATCH:
            raise ValueError(
                f"{tensors.source} has heads that double {_CONVOLUTIONS} times, for patches of "
                f"{_PATCH} pixels, and patches of {patch} {_INSTEAD}"
            )
        self.width = tensors.shape(f"{PREFIX}{self.tasks[0]}.conv_0.weight", 4)[0]

    def _check(self, task: str, found: Sequence[str]) -> None:
        """Is it this decoder, and a task whose outputs have a known meaning?"""
        prefix = f"{PREFIX}{task}."
        own = (name[len(prefix) :] for name in found if f"{name}.".startswith(prefix))
        parts = dict.fromkeys(name.split(".")[0] for name in own)
        known = [part for part in parts if not part.startswith("output_level_")]
        if sorted(known) != sorted(_PARTS):
            raise ValueError(
                f"{self.tensors.source}: {prefix}* has {', '.join(known) or 'no part'}; expected "
                f"M3ViT's upsampling head: {', '.join(_PARTS)} {_INSTEAD}"
            )
        if task not in _KINDS:
            raise ValueError(
                f"{self.tensors.source} has a head for task {task}; expected some of "
                f"{', '.join(_KINDS)} {_INSTEAD}"
            )

    def configure(self, config: ModelConfig) -> ModelConfig:
        """The backbone's configuration with these heads."""
        shape = self.tensors.shape
        tasks = tuple(
            TaskConfig(
                name=task,
                kind=_KINDS[task],
                channels=shape(f"{PREFIX}{task}.conv_{_CONVOLUTIONS}.weight", 4)[0],
                stride=1,
            )
            for task in self.tasks
        )
        return replace(config, tasks=tasks, decoder="upsampling", decoder_width=self.width)

    def parameters(self, dim: int) -> dict[str, Tensor]:
        """All heads under our names."""
        out: dict[str, Tensor] = {}
        for task in self.tasks:
            out |= self._head(task, dim)
        return out

    def _head(self, task: str, dim: int) -> dict[str, Tensor]:
        tensors, theirs, ours = self.tensors, f"{PREFIX}{task}.", f"heads.{task}."
        take, width, out = tensors.take, self.width, {}
        for part in ("weight", "bias"):
            out[f"{ours}norm.{part}"] = take(f"{theirs}norm.{part}", dim)
        for n in range(_CONVOLUTIONS):
            layer, norm = f"convolutions.{n}.", f"norms.{n}."
            inputs = width if n else dim
            out[ours + layer + "weight"] = take(f"{theirs}conv_{n}.weight", width, inputs, 3, 3)
            out[ours + layer + "bias"] = take(f"{theirs}conv_{n}.bias", width)
            for part in ("weight", "bias", "running_mean", "running_var"):
                out[ours + norm + part] = take(f"{theirs}syncbn_fc_{n}.{part}", width)
            if (out[ours + norm + "running_var"] < 0).any():
                tensors.complain(f"{theirs}syncbn_fc_{n}.running_var has negative values")
            tensors.leave([f"{theirs}syncbn_fc_{n}.num_batches_tracked"])
            out[ours + norm + "num_batches_tracked"] = torch.tensor(0)
        last = f"{theirs}conv_{_CONVOLUTIONS}."
        channels = tensors.shape(last + "weight", 4)[0]
        out[ours + "classify.weight"] = take(last + "weight", channels, width, 1, 1)
        out[ours + "classify.bias"] = take(last + "bias", channels)
        return out

    def notes(self) -> list[str]:
        """What is worth knowing of them."""
        notes = [f"upsampling heads of width {self.width}: {', '.join(self.tasks)}"]
        if self.unused:
            notes.append(f"of training alone: {len(self.unused)} tensors, {self.unused[0]}...")
        if "depth" in self.tasks:
            notes.append("depth: the output is metres; this project's images and scores take exp")
        return notes
