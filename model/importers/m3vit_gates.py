"""Gates of M3ViT's checkpoints: their form, and each as our router's parameters.

A gate is a matrix ``(D, E)``: one a task (``gate.T.w_gate``), or one for all (``gate.w_gate``). The
task-conditioned gate ``(D + C, E)`` sees the token beside C channels that ``gate_task_represent``
makes of the task's number alone. FastMoE's own gate is a linear layer (``gate.gate``) with a bias.

With windows (``regu_experts_fromtask``) a task chooses among some of the experts. M3ViT's last
windows may begin so late that fewer experts are left than a window has: here the window begins
earlier and those in front are shut out by a constant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .tensors import Tensors

__all__ = ["Gates", "Windows"]

_REPRESENT = "gate_task_represent."
_SHUT = -40.0  # added to a logit: its score is below 2**-57
_TRAINING = re.compile(
    r"blocks\.\d+\.mlp\.gate\.(?:\d+\.)?(?:w_gate_aux|w_noise|w_noise_aux|head\..*)"
)


class Windows:
    """Experts that each task may choose: ``starts`` where our windows begin, and ``shut``, those of
    a window that the task may not choose, by task.

    ``asked`` are the starts as M3ViT counts them. Raises ``ValueError`` for a window that leaves
    fewer than ``top_k`` experts.
    """

    def __init__(self, asked: Sequence[int], window: int, experts: int, top_k: int) -> None:
        self.asked = tuple(asked)
        self.starts = tuple(min(start, experts - window) for start in asked)
        self.shut = {
            task: range(ours, start)
            for task, (ours, start) in enumerate(zip(self.starts, asked, strict=True))
            if start > ours
        }
        for start in asked:
            if start < 0 or experts - start < top_k:
                raise ValueError(
                    f"Experts from {start} on are {max(experts - start, 0)} of {experts}, fewer "
                    f"than the {top_k} a token (--expert-starts)"
                )


class Gates:
    """The gates of all mixtures.

    ``kind`` is a :data:`~..config.GATES`; ``tasks``: how many tasks the gates tell apart, 0 if one
    gate serves all; ``width`` and ``hidden`` channels of the task's embedding, 0 without one;
    ``chosen_alone``: whether scores are a softmax over the chosen experts by the gate's class.
    """

    def __init__(self, tensors: Tensors, mixtures: Sequence[int], dim: int) -> None:
        self.tensors, self.dim = tensors, dim
        self.kind, self.tasks, self.width, self.hidden = "multi", 0, 0, 0
        self.linear, self.chosen_alone = False, False
        self.windows: Windows | None = None
        if not mixtures:
            return
        prefix = f"blocks.{mixtures[0]}.mlp.gate."
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.w_gate")
        numbers = {int(m[1]) for n in tensors.names if (m := pattern.fullmatch(n))}
        conditioned = any(n.startswith(_REPRESENT) for n in tensors.names)
        self.linear = f"{prefix}gate.weight" in tensors
        noisy = any(n.startswith(prefix) and n.endswith("w_noise") for n in tensors.names)
        self.chosen_alone = self.linear or noisy
        if numbers and conditioned:
            raise ValueError(
                f"{tensors.source} has gate_task_represent and a gate for each task; "
                "expected one gate for all beside it"
            )
        if numbers:
            self.tasks = max(numbers) + 1
        elif conditioned:
            self.kind = "conditioned"
            self.hidden, self.tasks = tensors.shape(_REPRESENT + "fc1.weight", 2)
            self.width = tensors.shape(_REPRESENT + "fc2.weight", 2)[0]
        else:
            self.kind = "one"

    @property
    def bias(self) -> bool:
        """Whether tasks add constants to their logits."""
        return self.linear or bool(self.windows and self.windows.shut)

    def experts(self, block: int) -> int:
        """Experts that the gate of a block tells apart; 0 if it is not there."""
        prefix = f"blocks.{block}.mlp.gate."
        for name, axis in (("w_gate", 1), ("0.w_gate", 1), ("gate.weight", 0)):
            if prefix + name in self.tensors:
                return self.tensors.shape(prefix + name, 2)[axis]
        return 0

    def leave(self) -> list[str]:
        """Set aside what acts in training alone; names of the kinds."""
        names = self.tensors.leave(n for n in self.tensors.names if _TRAINING.fullmatch(n))
        kinds = dict.fromkeys(re.sub(r".*\.gate\.(?:\d+\.)?", "", n).split(".")[0] for n in names)
        return ["gate's head (regu_sem)" if kind == "head" else kind for kind in kinds]

    def embedding(self) -> dict[str, Tensor]:
        """What makes the task's channels: one-hot number, linear, GELU, linear, LayerNorm."""
        if self.kind != "conditioned":
            return {}
        shapes = {
            "fc1.weight": (self.hidden, self.tasks),
            "fc1.bias": (self.hidden,),
            "fc2.weight": (self.width, self.hidden),
            "fc2.bias": (self.width,),
            "norm.weight": (self.width,),
            "norm.bias": (self.width,),
        }
        return {
            f"gate_task.{name}": self.tensors.take(_REPRESENT + name, *shape)
            for name, shape in shapes.items()
        }

    def router(self, block: int, tasks: int, experts: int) -> dict[str, Tensor]:
        """The router's parameters of a block."""
        ours, theirs = f"blocks.{block}.mlp.router.", f"blocks.{block}.mlp.gate."
        take, dim = self.tensors.take, self.dim
        out = {}
        if self.bias:
            constants = torch.zeros(tasks, experts)
            if self.linear:
                constants += take(theirs + "gate.bias", experts)
            for task, shut in self.windows.shut.items() if self.windows else ():
                constants[task, list(shut)] = _SHUT
            out[ours + "bias"] = constants
        if self.linear:
            return out | {ours + "weight": take(theirs + "gate.weight", experts, dim)[None]}
        if self.kind == "multi":
            gates = [take(f"{theirs}{task}.w_gate", dim, experts).T for task in range(tasks)]
            return out | {ours + "weight": torch.stack(gates)}
        gate = take(theirs + "w_gate", dim + self.width, experts)
        out[ours + "weight"] = gate[:dim].T[None].contiguous()
        if self.width:
            out[ours + "task_weight"] = gate[dim:].T.contiguous()
        return out
