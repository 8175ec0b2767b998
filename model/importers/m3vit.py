"""M3ViT's checkpoints (Fan et al. 2022): the backbone, with any of its gates that are linear, and
its upsampling heads (:mod:`.m3vit_heads`).

The file holds tensors and no configuration. Sizes are read from shapes; what shapes do not say are
parameters: image, heads, experts a token, names of the tasks, mean and deviation of the pixels.

Gates are matrices ``(D, E)``: one a task (``gate.T.w_gate``), or one for all (``gate.w_gate``). The
task-conditioned gate ``(D + C, E)`` sees the token beside C channels that
``gate_task_represent`` makes of the task's number alone. What else the training was told about its
gates (``gate_input_ahead``, ``num_experts_pertask``, ``expert_prune``; scores over the chosen
experts, as its gate ``noisy`` has them) the file does not say: those are parameters too. Weights of
the auxiliary gate ``w_gate_aux`` act only on a training loss.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from .common import Imported, Sizes, build, experts_of
from .m3vit_heads import PREFIX, Decoders
from .tensors import Tensors, read_weights

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "import_m3vit"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_REPRESENT = "gate_task_represent."


def import_m3vit(
    path: Path | str,
    *,
    name: str = "m3vit",
    image: tuple[int, int] | None = None,
    heads: int | None = None,
    top_k: int = 2,
    tasks: Sequence[str] = (),
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN,
    pixel_std: tuple[float, float, float] = IMAGENET_STD,
    gate_input_ahead: bool = False,
    experts_per_task: int = 0,
    expert_starts: Sequence[int] = (),
    prune_threshold: float = 0.0,
    renormalise: bool = False,
    backbone_only: bool = False,
) -> Imported:
    """Read a checkpoint file. Without heads in it the model gives tokens: it has no final norm.

    ``image`` is (height, width) in pixels, square if None; ``heads`` are 64 channels wide if None.
    ``tasks`` are names for the gates; one gate for all tasks serves as many as there are names. The
    five from ``gate_input_ahead`` on say what gates were trained with, as in
    :class:`~..config.ModelConfig`. Upsampling heads in the file (``decoders.TASK.*``) name the
    tasks, in the order of the gates unless ``tasks`` says another; other heads are refused. With
    ``backbone_only`` all are left aside. Raises ``ValueError`` listing each tensor that is missing,
    misshapen or unexpected.
    """
    tensors = Tensors(str(path), read_weights(path))
    dim, channels, patch, _ = tensors.shape("patch_embed.proj.weight", 4)
    if channels != 3:
        raise ValueError(f"{path}: patch_embed.proj.weight takes {channels} channels, expected 3")
    tokens = tensors.shape("pos_embed", 3)[1]
    depth, mixtures = _blocks(tensors)
    gates = _Gates(tensors, mixtures, dim)
    decoders = None
    if not backbone_only and any(n.startswith(PREFIX) for n in tensors.names):
        decoders = Decoders(tensors, tasks, patch)
        tasks = decoders.tasks
    count = gates.tasks if gates.tasks else max(len(tasks), 1)
    experts, expert_hidden = 1, 1
    if mixtures:
        htoh4 = f"blocks.{mixtures[0]}.mlp.experts.htoh4.weight"
        experts, expert_hidden, _ = tensors.shape(htoh4, 3)
    dense = [block for block in range(depth) if block not in mixtures]
    hidden = tensors.shape(f"blocks.{dense[0]}.mlp.fc1.weight", 2)[0] if dense else dim
    sizes = Sizes(
        dim=dim,
        patch=patch,
        tokens=tokens,
        depth=depth,
        mixtures=mixtures,
        hidden=hidden,
        experts=experts,
        expert_hidden=expert_hidden,
        tasks=count,
    )
    config = sizes.config(
        name=name,
        image=image,
        heads=heads,
        top_k=top_k,
        tasks=tasks,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        gate=gates.kind,
        gate_task_dim=gates.width,
        gate_task_hidden=gates.hidden,
        gate_input_ahead=gate_input_ahead,
        experts_per_task=experts_per_task,
        expert_starts=tuple(expert_starts),
        prune_threshold=prune_threshold,
        renormalise=renormalise,
    )
    if decoders is not None:
        config = decoders.configure(config)
    model = {
        "patch_embed.proj.weight": tensors.take("patch_embed.proj.weight", dim, 3, patch, patch),
        "patch_embed.proj.bias": tensors.take("patch_embed.proj.bias", dim),
        "cls_token": tensors.take("cls_token", 1, 1, dim),
        "pos_embed": tensors.take("pos_embed", 1, tokens, dim),
    }
    model |= gates.embedding()
    for block in range(depth):
        model |= _block(tensors, config, block, gates)
    ignored = tensors.leave(n for n in tensors.names if n.endswith(".w_gate_aux"))
    left: list[str] = []
    if decoders is not None:
        model |= decoders.parameters(dim)
    else:
        left = tensors.leave(n for n in tensors.names if n.startswith((PREFIX, "tam_model")))
    tensors.finish()
    notes = sizes.notes(top_k)
    if ignored:
        notes.append(f"not needed: {', '.join(ignored)}")
    if decoders is not None:
        notes += decoders.notes()
    if left:
        names = dict.fromkeys(n.split(".")[1] if n.startswith(PREFIX) else n for n in left)
        notes.append(f"heads left aside: {', '.join(names)}")
    return Imported(
        model=build(config, model),
        source={"import": "m3vit", "file": Path(path).name},
        notes=tuple(notes),
    )


def _blocks(tensors: Tensors) -> tuple[int, list[int]]:
    """Number of blocks, and those with experts."""
    found, mixtures = set(), set()
    for name in tensors.names:
        if match := re.match(r"blocks\.(\d+)\.", name):
            found.add(int(match[1]))
            if ".mlp.experts." in name:
                mixtures.add(int(match[1]))
    if not found:
        raise ValueError(f"{tensors.source} has no tensors blocks.N.*: not an M3ViT backbone")
    return max(found) + 1, sorted(mixtures)


def _block(tensors: Tensors, config: ModelConfig, index: int, gates: _Gates) -> dict[str, Tensor]:
    dim, prefix = config.dim, f"blocks.{index}."
    out = {}
    for norm in ("norm1", "norm2"):
        for part in ("weight", "bias"):
            out[f"{prefix}{norm}.{part}"] = tensors.take(f"{prefix}{norm}.{part}", dim)
    qkv = prefix + "attn.qkv."
    out[qkv + "weight"] = tensors.take(qkv + "weight", 3 * dim, dim)
    out[qkv + "bias"] = tensors.take(qkv + "bias", 3 * dim)
    out[prefix + "attn.proj.weight"] = tensors.take(prefix + "attn.proj.weight", dim, dim)
    out[prefix + "attn.proj.bias"] = tensors.take(prefix + "attn.proj.bias", dim)
    mlp = prefix + "mlp."
    if not config.is_moe(index):
        hidden = config.mlp_hidden
        out[mlp + "fc1.weight"] = tensors.take(mlp + "fc1.weight", hidden, dim)
        out[mlp + "fc1.bias"] = tensors.take(mlp + "fc1.bias", hidden)
        out[mlp + "fc2.weight"] = tensors.take(mlp + "fc2.weight", dim, hidden)
        out[mlp + "fc2.bias"] = tensors.take(mlp + "fc2.bias", dim)
        return out

    def take(layer: str, *shape: int) -> tuple[Tensor, Tensor]:
        name = f"{mlp}experts.{layer}."
        return tensors.take(name + "weight", *shape), tensors.take(name + "bias", *shape[:2])

    out |= experts_of(take, prefix, config)
    return out | gates.router(index, len(config.tasks), config.experts)


class _Gates:
    """The gates of all mixtures: their form, and each as our router's parameters.

    ``kind`` is a :data:`~..config.GATES`; ``tasks``: how many tasks the gates tell apart, 0 if one
    gate serves all; ``width`` and ``hidden`` channels of the task's embedding, 0 without one.
    """

    def __init__(self, tensors: Tensors, mixtures: Sequence[int], dim: int) -> None:
        self.tensors, self.dim = tensors, dim
        self.kind, self.tasks, self.width, self.hidden = "multi", 0, 0, 0
        if not mixtures:
            return
        prefix = f"blocks.{mixtures[0]}.mlp.gate."
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.w_gate")
        numbers = {int(m[1]) for n in tensors.names if (m := pattern.fullmatch(n))}
        conditioned = any(n.startswith(_REPRESENT) for n in tensors.names)
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
        if self.kind == "multi":
            gates = [take(f"{theirs}{task}.w_gate", dim, experts).T for task in range(tasks)]
            return {ours + "weight": torch.stack(gates)}
        gate = take(theirs + "w_gate", dim + self.width, experts)
        out = {ours + "weight": gate[:dim].T[None].contiguous()}
        if self.width:
            out[ours + "task_weight"] = gate[dim:].T.contiguous()
        return out
