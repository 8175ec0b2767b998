"""Heads of M3ViT's checkpoints: its two upsampling decoders, one a task.

Per task the file has ``decoders.TASK.`` (``decoder.`` in a network of one task) with ``norm`` and

- progressive: ``conv_0`` to ``conv_3`` (3x3), each with batch norm ``syncbn_fc_N``, and ``conv_4``
  (1x1, to the task's channels). Four doublings lead from a patch of 16 pixels to the image.
- plain: ``conv_0`` (3x3 or 1x1) with ``syncbn_fc_0``, and ``conv_1`` (1x1). What it gives, a value
  a patch, is enlarged bilinearly to the image, at once or in two steps: that enlargement has no
  weights, comes last and is no part of the imported network.

Side outputs (``output_level_N``) and task affinity modules (``tam_modelN.*``) act while training
only. Other decoders are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig, TaskConfig
from .tensors import Tensors

__all__ = ["PREFIX", "SINGLE", "Decoders"]

PREFIX = "decoders."
SINGLE = "decoder."
"""In front of the head of a network that has one task."""

_PATCH = 16  # that four doublings lead from
_KINDS = {
    "semseg": "segmentation",
    "human_parts": "human_parts",
    "sal": "saliency",
    "normals": "normals",
    "edge": "edges",
    "depth": "depth",
}
"""Kinds of M3ViT's tasks."""


def _parts(convolutions: int) -> tuple[str, ...]:
    """What a decoder has with so many convolutions in front of the last."""
    return (
        "norm",
        *(f"conv_{n}" for n in range(convolutions + 1)),
        *(f"syncbn_fc_{n}" for n in range(convolutions)),
    )


_FORMS = {4: sorted(_parts(4)), 1: sorted(_parts(1))}
"""Parts by the number of convolutions."""
_AUXILIARY = re.compile(rf"{re.escape(PREFIX)}\w+\.output_level_\d+\..*|tam_model\d+\..*")
_INSTEAD = "(--backbone-only leaves heads aside)"


class Decoders:
    """The heads in a file, by task in the order of the gates.

    Raises ``ValueError`` naming what was found for a task or a decoder that cannot be represented.
    """

    def __init__(self, tensors: Tensors, names: Sequence[str], patch: int) -> None:
        self.tensors = tensors
        found = [name for name in tensors.names if name.startswith(PREFIX)]
        unused = tensors.leave(n for n in tensors.names if _AUXILIARY.fullmatch(n))
        self.unused = tuple(
            dict.fromkeys(n.split(".")[0 if n.startswith("tam_") else 2] for n in unused)
        )
        """what acts in training alone, by name"""
        tasks = tuple(dict.fromkeys(name.split(".")[1] for name in found))
        if names and sorted(names) != sorted(tasks):
            raise ValueError(
                f"{tensors.source} has heads of the tasks {', '.join(tasks)}, not "
                f"{', '.join(names)}: tasks name their order {_INSTEAD}"
            )
        self.tasks = tuple(names) or tasks
        forms = {self._form(task, found) for task in self.tasks}
        if len(forms) != 1:
            raise ValueError(f"{tensors.source} has heads of different forms {_INSTEAD}")
        self.convolutions = forms.pop()
        if self.doublings and patch != _PATCH:
            raise ValueError(
                f"{tensors.source} has heads that double {self.doublings} times, for patches of "
                f"{_PATCH} pixels, and patches of {patch} {_INSTEAD}"
            )
        self.patch = patch
        self.width = tensors.shape(f"{PREFIX}{self.tasks[0]}.conv_0.weight", 4)[0]

    @property
    def doublings(self) -> int:
        """Bilinear doublings inside the network."""
        return self.convolutions if self.convolutions > 1 else 0

    def _form(self, task: str, found: Sequence[str]) -> int:
        """Convolutions of a known decoder, for a task whose outputs have a known meaning."""
        prefix = f"{PREFIX}{task}."
        own = (name[len(prefix) :] for name in found if f"{name}.".startswith(prefix))
        parts = dict.fromkeys(name.split(".")[0] for name in own)
        known = [part for part in parts if not part.startswith("output_level_")]
        form = next((n for n, expected in _FORMS.items() if expected == sorted(known)), None)
        if form is None:
            raise ValueError(
                f"{self.tensors.source}: {prefix}* has {', '.join(known) or 'no part'}; expected "
                f"M3ViT's upsampling head: {', '.join(_parts(4))}, or {', '.join(_parts(1))} "
                f"{_INSTEAD}"
            )
        if task not in _KINDS:
            raise ValueError(
                f"{self.tensors.source} has a head for task {task}; expected some of "
                f"{', '.join(_KINDS)} {_INSTEAD}"
            )
        return form

    def configure(self, config: ModelConfig) -> ModelConfig:
        """The backbone's configuration with these heads."""
        shape = self.tensors.shape
        tasks = tuple(
            TaskConfig(
                name=task,
                kind=_KINDS[task],
                channels=shape(f"{PREFIX}{task}.conv_{self.convolutions}.weight", 4)[0],
                stride=self.patch >> self.doublings if self.doublings else self.patch,
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
        for n in range(self.convolutions):
            layer, norm = f"convolutions.{n}.", f"norms.{n}."
            inputs = width if n else dim
            out[ours + layer + "weight"] = self._kernel(f"{theirs}conv_{n}.weight", width, inputs)
            out[ours + layer + "bias"] = take(f"{theirs}conv_{n}.bias", width)
            for part in ("weight", "bias", "running_mean", "running_var"):
                out[ours + norm + part] = take(f"{theirs}syncbn_fc_{n}.{part}", width)
            if (out[ours + norm + "running_var"] < 0).any():
                tensors.complain(f"{theirs}syncbn_fc_{n}.running_var has negative values")
            tensors.leave([f"{theirs}syncbn_fc_{n}.num_batches_tracked"])
            out[ours + norm + "num_batches_tracked"] = torch.tensor(0)
        last = f"{theirs}conv_{self.convolutions}."
        channels = tensors.shape(last + "weight", 4)[0]
        out[ours + "classify.weight"] = take(last + "weight", channels, width, 1, 1)
        out[ours + "classify.bias"] = take(last + "bias", channels)
        return out

    def _kernel(self, name: str, outputs: int, inputs: int) -> Tensor:
        """A kernel of 3x3; the plain decoder's first may be 1x1, the middle of one with zeros."""
        one = self.convolutions == 1 and self.tensors.shape(name, 4)[2:] == (1, 1)
        kernel = self.tensors.take(name, outputs, inputs, *((1, 1) if one else (3, 3)))
        return F.pad(kernel, (1, 1, 1, 1)) if one else kernel

    def notes(self) -> list[str]:
        """What is worth knowing of them."""
        notes = [f"upsampling heads of width {self.width}: {', '.join(self.tasks)}"]
        if not self.doublings:
            notes.append(
                f"heads give a value a patch; enlarging it bilinearly by {self.patch}, which M3ViT "
                "does last, is left to whoever uses it"
            )
        if "depth" in self.tasks:
            notes.append("depth: the output is metres; this project's images and scores take exp")
        return notes
