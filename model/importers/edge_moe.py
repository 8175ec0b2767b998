"""Edge-MoE's weight folder (Sarkar et al. 2023): raw float32 files of an M3ViT backbone.

Every tensor is one little-endian file ``NAME.float32.bin``. Sizes are read from the files' lengths,
so that networks other than the published 12 layers of 192 channels fit too.

Its kernel differs from M3ViT in two conventions, kept in the imported configuration: a pixel is its
byte over 256 without normalisation, and row 0 of the position embedding is the class token itself.
The scores' scale is 1/8, that of 64 channels a head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig
from .common import Imported, Sizes, build, experts_of
from .containers import listed
from .tensors import Tensors

__all__ = ["import_edge_moe"]

_SUFFIX = ".float32.bin"
_SCALE = 0.125
_CHANNELS = 3
_PUBLISHED = {128: (128, 256)}  # patches: image of the published network
_REFERENCE = re.compile(r"image|l\d+_x_\w+")  # the test bench's input and expected results
_OURS = {"attn_proj": "attn.proj", "qkv": "attn.qkv", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def import_edge_moe(
    folder: Path | str,
    *,
    name: str = "edge-moe",
    image: tuple[int, int] | None = None,
    heads: int | None = None,
    top_k: int = 2,
    tasks: Sequence[str] = (),
) -> Imported:
    """Read a weight folder. The model has no final norm and no heads: it gives tokens.

    ``image`` is (height, width) in pixels, by default 128 x 256 of 128 patches, else square;
    ``heads`` are 64 channels wide if None; ``tasks`` are names for the gates. Raises ``ValueError``
    listing each file that is missing, unexpected or of another length.
    """
    folder = Path(folder)
    files = _Files(folder)
    dim = files.count("patch_embed_bias")
    patch = math.isqrt(files.parts("patch_embed_weight", dim * _CHANNELS))
    tokens = files.parts("pos_embed", dim)
    depth, mixtures, gates = _layers(files)
    experts, expert_hidden = 1, 1
    if mixtures:
        first = f"l{mixtures[0]}_"
        experts = files.parts(f"{first}h4toh_bias", dim)
        expert_hidden = files.parts(f"{first}htoh4_bias", experts)
    dense = [layer for layer in range(depth) if layer not in mixtures]
    sizes = Sizes(
        dim=dim,
        patch=patch,
        tokens=tokens,
        depth=depth,
        mixtures=mixtures,
        hidden=files.count(f"l{dense[0]}_fc1_bias") if dense else dim,
        experts=experts,
        expert_hidden=expert_hidden,
        tasks=gates,
    )
    config = sizes.config(
        name=name,
        image=image or _PUBLISHED.get(tokens - 1),
        heads=heads,
        top_k=top_k,
        tasks=tasks,
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
        pixel_scale=256.0,
        attention_scale=_SCALE,
        class_token_in_position=True,
    )
    kernel = (dim, _CHANNELS, patch, patch)
    model = {
        "patch_embed.proj.weight": files.take("patch_embed_weight", *kernel),
        "patch_embed.proj.bias": files.take("patch_embed_bias", dim),
        "pos_embed": files.take("pos_embed", tokens, dim)[None],
    }
    for layer in range(depth):
        model |= _layer(files, config, layer)
    ignored = files.tensors.leave(n for n in files.tensors.names if _REFERENCE.fullmatch(n))
    files.tensors.finish()
    notes = sizes.notes(top_k)
    if ignored := [n + _SUFFIX for n in ignored] + files.others:
        notes.append(f"not weights, not needed: {listed(ignored)}")
    return Imported(
        model=build(config, model),
        source={"import": "edge-moe", "folder": folder.resolve().name},
        notes=tuple(notes),
    )


class _Files:
    """A folder's files as flat tensors, reshaped when their shape is known.

    ``others``: names of what else is there.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file, expected a folder of files *{_SUFFIX}")
        if not folder.is_dir():
            raise ValueError(f"Weight folder {folder} does not exist")
        values = {}
        for path in sorted(folder.glob("*" + _SUFFIX)):
            size = path.stat().st_size
            if size % 4 or not size:
                raise ValueError(f"{path} has {size} bytes, expected a positive multiple of 4")
            values[path.name.removesuffix(_SUFFIX)] = torch.from_numpy(
                np.fromfile(path, "<f4").astype(np.float32, copy=False)
            )
        if not values:
            raise ValueError(f"Weight folder {folder} has no files *{_SUFFIX}")
        self.tensors = Tensors(str(folder), values)
        self.others = sorted(p.name for p in folder.iterdir() if not p.name.endswith(_SUFFIX))

    def count(self, name: str) -> int:
        """Numbers in a file that sizes are read from."""
        return self.tensors.shape(name, 1)[0]

    def parts(self, name: str, size: int) -> int:
        """How many times ``size`` numbers a file holds; ``ValueError`` if it is not whole times."""
        count = self.count(name)
        if count % size:
            raise ValueError(
                f"{self.tensors.source}: {name}{_SUFFIX} has {count} numbers, expected a multiple "
                f"of {size}"
            )
        return count // size

    def take(self, name: str, *shape: int) -> Tensor:
        """A file's numbers in this shape; see :meth:`Tensors.take`."""
        return self.tensors.take(name, int(np.prod(shape))).view(shape)


def _layers(files: _Files) -> tuple[int, list[int], int]:
    """Number of layers, those with experts, and number of tasks."""
    found, mixtures, tasks = set(), set(), {0}
    for name in files.tensors.names:
        match = re.match(r"l(\d+)_", name)
        if match is None or _REFERENCE.fullmatch(name):
            continue
        found.add(int(match[1]))
        if "htoh4" in name or "h4toh" in name:
            mixtures.add(int(match[1]))
        if gate := re.fullmatch(r"l\d+_w_gate_T_task(\d+)", name):
            tasks.add(int(gate[1]))
    if not found:
        raise ValueError(f"{files.tensors.source} has no files lN_*{_SUFFIX}")
    return max(found) + 1, sorted(mixtures), max(tasks) + 1


def _layer(files: _Files, config: ModelConfig, index: int) -> dict[str, Tensor]:
    dim, theirs, ours = config.dim, f"l{index}_", f"blocks.{index}."
    out = {}
    for norm in ("norm1", "norm2"):
        for part in ("weight", "bias"):
            out[f"{ours}{norm}.{part}"] = files.take(f"{theirs}{norm}_{part}", dim)
    linears = {"qkv": (3 * dim, dim), "attn_proj": (dim, dim)}
    if not config.is_moe(index):
        linears |= {"fc1": (config.mlp_hidden, dim), "fc2": (dim, config.mlp_hidden)}
    for name, (outputs, inputs) in linears.items():
        out[f"{ours}{_OURS[name]}.weight"] = files.take(f"{theirs}{name}_weight", outputs, inputs)
        out[f"{ours}{_OURS[name]}.bias"] = files.take(f"{theirs}{name}_bias", outputs)
    if not config.is_moe(index):
        return out

    def take(layer: str, *shape: int) -> tuple[Tensor, Tensor]:
        name = f"{theirs}{layer}_"
        return files.take(name + "weight", *shape), files.take(name + "bias", *shape[:2])

    out |= experts_of(take, ours, config)
    gates = [
        files.take(f"{theirs}w_gate_T_task{task}", config.experts, dim)
        for task in range(len(config.tasks))
    ]
    return out | {f"{ours}mlp.router.weight": torch.stack(gates)}
