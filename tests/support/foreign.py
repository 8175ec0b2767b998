"""Random weights in the layouts of other projects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

__all__ = ["EdgeMoe", "M3vit", "Weights", "edge_moe_folder", "m3vit_decoders", "m3vit_weights"]

Weights = dict[str, torch.Tensor]


class M3vit:
    """Sizes of :func:`m3vit_weights`."""

    DIM, PATCH, EXPERTS, HIDDEN, HEADS, TOP_K, DEPTH = 16, 8, 4, 12, 2, 2, 4
    IMAGE = (16, 24)
    TOKENS = 7


class EdgeMoe:
    """Sizes of :func:`edge_moe_folder`."""

    DIM, PATCH, EXPERTS, HIDDEN, MLP, HEADS, TOP_K, DEPTH, TASKS = 16, 4, 3, 10, 24, 2, 2, 2, 2
    IMAGE = (8, 12)
    TOKENS = 7


def m3vit_weights(
    gate: str = "multi", tasks: int = 3, conditions: int = 5, patch: int = M3vit.PATCH
) -> Weights:
    """A backbone in the source's names and shapes; ``gate`` is multi, one or conditioned."""
    D, PATCH, EXPERTS = M3vit.DIM, patch, M3vit.EXPERTS
    HIDDEN, DEPTH, TOKENS = M3vit.HIDDEN, M3vit.DEPTH, M3vit.TOKENS
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int, spread: float = 0.3) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * spread

    w = {
        "patch_embed.proj.weight": draw(D, 3, PATCH, PATCH, spread=0.1),
        "patch_embed.proj.bias": draw(D),
        "cls_token": draw(1, 1, D),
        "pos_embed": draw(1, TOKENS, D),
    }
    for i in range(DEPTH):
        p = f"blocks.{i}."
        for norm in ("norm1", "norm2"):
            w[f"{p}{norm}.weight"], w[f"{p}{norm}.bias"] = 1 + draw(D), draw(D)
        w[f"{p}attn.qkv.weight"], w[f"{p}attn.qkv.bias"] = draw(3 * D, D), draw(3 * D)
        w[f"{p}attn.proj.weight"], w[f"{p}attn.proj.bias"] = draw(D, D), draw(D)
        p += "mlp."
        if i % 2 == 0:
            w[f"{p}fc1.weight"], w[f"{p}fc1.bias"] = draw(2 * D, D), draw(2 * D)
            w[f"{p}fc2.weight"], w[f"{p}fc2.bias"] = draw(D, 2 * D), draw(D)
            continue
        w[f"{p}experts.htoh4.weight"] = draw(EXPERTS, HIDDEN, D)
        w[f"{p}experts.htoh4.bias"] = draw(EXPERTS, HIDDEN)
        w[f"{p}experts.h4toh.weight"] = draw(EXPERTS, D, HIDDEN)
        w[f"{p}experts.h4toh.bias"] = draw(EXPERTS, D)
        if gate == "multi":
            for task in range(tasks):
                w[f"{p}gate.{task}.w_gate"] = draw(D, EXPERTS)
        else:
            extra = conditions if gate == "conditioned" else 0
            w[f"{p}gate.w_gate"] = draw(D + extra, EXPERTS)
    if gate == "conditioned":
        r = "gate_task_represent."
        w[f"{r}fc1.weight"], w[f"{r}fc1.bias"] = draw(6, tasks, spread=1), draw(6, spread=1)
        w[f"{r}fc2.weight"], w[f"{r}fc2.bias"] = draw(conditions, 6, spread=1), draw(conditions)
        w[f"{r}norm.weight"], w[f"{r}norm.bias"] = 1 + draw(conditions), draw(conditions)
    return w


def m3vit_decoders(tasks: dict[str, int], width: int = 6) -> Weights:
    """Progressive-upsampling heads with so many channels, in the source's names and shapes."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int, spread: float = 0.3) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * spread

    w: Weights = {}
    for task, channels in tasks.items():
        p = f"decoders.{task}."
        w[f"{p}norm.weight"], w[f"{p}norm.bias"] = 1 + draw(M3vit.DIM), draw(M3vit.DIM)
        for n in range(4):
            inputs = width if n else M3vit.DIM
            w[f"{p}conv_{n}.weight"], w[f"{p}conv_{n}.bias"] = (
                draw(width, inputs, 3, 3, spread=0.2),
                draw(width),
            )
        w[f"{p}conv_4.weight"], w[f"{p}conv_4.bias"] = draw(channels, width, 1, 1), draw(channels)
        for n in range(4):
            w[f"{p}syncbn_fc_{n}.weight"], w[f"{p}syncbn_fc_{n}.bias"] = (
                1 + draw(width),
                draw(width),
            )
            w[f"{p}syncbn_fc_{n}.running_mean"] = draw(width)
            w[f"{p}syncbn_fc_{n}.running_var"] = 1 + draw(width).abs()
            w[f"{p}syncbn_fc_{n}.num_batches_tracked"] = torch.tensor(7)
    return w


def edge_moe_folder(folder: Path) -> dict[str, np.ndarray]:
    """Random weights in the published layout."""
    D, PATCH, EXPERTS, HIDDEN = EdgeMoe.DIM, EdgeMoe.PATCH, EdgeMoe.EXPERTS, EdgeMoe.HIDDEN
    MLP, DEPTH, TASKS, TOKENS = EdgeMoe.MLP, EdgeMoe.DEPTH, EdgeMoe.TASKS, EdgeMoe.TOKENS
    rng = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed_weight": (D, 3, PATCH, PATCH),
        "patch_embed_bias": (D,),
        "pos_embed": (TOKENS, D),
    }
    for i in range(DEPTH):
        for norm in ("norm1", "norm2"):
            shapes |= {f"l{i}_{norm}_weight": (D,), f"l{i}_{norm}_bias": (D,)}
        shapes |= {f"l{i}_qkv_weight": (3 * D, D), f"l{i}_qkv_bias": (3 * D,)}
        shapes |= {f"l{i}_attn_proj_weight": (D, D), f"l{i}_attn_proj_bias": (D,)}
        if i % 2 == 0:
            shapes |= {f"l{i}_fc1_weight": (MLP, D), f"l{i}_fc1_bias": (MLP,)}
            shapes |= {f"l{i}_fc2_weight": (D, MLP), f"l{i}_fc2_bias": (D,)}
        else:
            shapes |= {f"l{i}_htoh4_weight": (EXPERTS, HIDDEN, D)}
            shapes |= {f"l{i}_htoh4_bias": (EXPERTS, HIDDEN)}
            shapes |= {f"l{i}_h4toh_weight": (EXPERTS, D, HIDDEN)}
            shapes |= {f"l{i}_h4toh_bias": (EXPERTS, D)}
            shapes |= {f"l{i}_w_gate_T_task{t}": (EXPERTS, D) for t in range(TASKS)}
    values = {name: rng.normal(0, 0.3, shape).astype("<f4") for name, shape in shapes.items()}
    for name, value in values.items():
        value.tofile(folder / f"{name}.float32.bin")
    return values
