"""What a file of timm's weights says of its network beside the name: everything that shapes say.

Files often hold a relative of the model whose name is given: another image, fewer blocks, no head,
layer scale, registers. What shapes say becomes timm's arguments, unless they were given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["image_of", "leave_outside", "sizes_of"]

_HEAD = ("head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias")


def leave_outside(outside: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """What stands beside a backbone: its classifier, and names of what is no part of the model."""
    ours = {name: tensor for name, tensor in outside.items() if name in _HEAD}
    return ours, list(dict.fromkeys(n.partition(".")[0] for n in outside if n not in ours))


def sizes_of(values: Mapping[str, Tensor], default: nn.Module) -> dict[str, Any]:
    """timm's arguments by which the network in the file differs from the ``default`` of its name.

    ``default``: timm's model, with whatever arguments were given.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in default.state_dict().items()}
    sizes: dict[str, Any] = {}
    found = values["patch_embed.proj.weight"]
    if found.ndim == 4:
        for name, axis in (("embed_dim", 0), ("in_chans", 1), ("patch_size", 2)):
            sizes |= _differs(name, found.shape[axis], expected["patch_embed.proj.weight"][axis])
    blocks = {int(m[1]) for name in values if (m := re.match(r"blocks\.(\d+)\.", name))}
    usual = {int(m[1]) for name in expected if (m := re.match(r"blocks\.(\d+)\.", name))}
    if blocks:
        sizes |= _differs("depth", max(blocks) + 1, max(usual, default=-1) + 1)
    registers = _rows(values, "reg_token")
    own = expected.get("reg_token", (0, 0))[1]
    sizes |= _differs("reg_tokens", registers, own)
    sizes |= _differs("class_token", "cls_token" in values, "cls_token" in expected)
    for name, tensor in (
        ("qkv_bias", "blocks.0.attn.qkv.bias"),
        ("pre_norm", "norm_pre.weight"),
        ("qk_norm", "blocks.0.attn.q_norm.weight"),
    ):
        sizes |= _differs(name, tensor in values, tensor in expected)
    scaled = "blocks.0.ls1.gamma"
    if (scaled in values) != (scaled in expected):
        sizes["init_values"] = 1.0 if scaled in values else None
    classes = len(values["head.weight"]) if "head.weight" in values else 0
    sizes |= _differs("num_classes", classes, expected.get("head.weight", (0,))[0])
    if "fc_norm.weight" in values and "fc_norm.weight" not in expected:
        sizes["global_pool"] = "avg"
    elif "fc_norm.weight" in expected and "norm.weight" in values:
        sizes["fc_norm"] = False
    if not sizes.get("class_token", True) and "global_pool" not in sizes and classes:
        sizes["global_pool"] = "avg"
        sizes["fc_norm"] = "fc_norm.weight" in values
    return sizes


def _differs(name: str, found: Any, usual: Any) -> dict[str, Any]:
    return {} if found == usual else {name: found}


def _rows(values: Mapping[str, Tensor], name: str) -> int:
    tensor = values.get(name)
    return tensor.shape[1] if tensor is not None and tensor.ndim == 3 else 0


def image_of(
    values: Mapping[str, Tensor], patch: int, default: Sequence[int]
) -> tuple[tuple[int, int] | None, bool | None]:
    """Image's height and width by the position embedding, and whether it leaves out the tokens in
    front (None: cannot be told); None for the image where the ``default`` one fits.

    Raises ``ValueError`` for patches that are no square, and not the default's.
    """
    rows = _rows(values, "pos_embed")
    front = int("cls_token" in values) + int("dist_token" in values) + _rows(values, "reg_token")
    count = (default[0] // patch) * (default[1] // patch)
    if not rows or rows in (count, count + front):
        return None, None if not rows else rows == count and front > 0
    for patches, without in ((rows - front, False), (rows, True)):
        side = math.isqrt(max(patches, 0))
        if side and side * side == patches:
            return (side * patch, side * patch), without and front > 0
    raise ValueError(
        f"pos_embed has {rows} rows, for {rows - front} patches, which are no square: say the "
        "image's size (--image HxW)"
    )
