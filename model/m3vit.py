"""M3ViT: a multi-task vision transformer whose odd blocks are sparse mixtures of experts.

Fan et al. 2022, "M3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning
with Model-Accelerator Co-design". A plain pre-norm ViT (Dosovitskiy et al. 2021) on timm's building
blocks; all tasks share every weight but the routers and the heads, so they compute the same up to
the first mixture.

Shapes: B images of H x W pixels; N tokens (the class token first, then patches row by row) of D
channels; h attention heads of d = D / h channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._timm import Mlp, PatchEmbed, trunc_normal_
from .activations import activation_layer
from .config import ModelConfig, TaskConfig
from .decoder import UpsamplingHead
from .moe import Balance, MixtureOfExperts, Router, TaskEmbedding

__all__ = ["Attention", "Block", "ClassHead", "Head", "M3ViT"]


class Attention(nn.Module):
    """Multi-head self-attention with a named module at every point worth observing.

    ``scores`` sees ``q @ k.T`` with the scale applied, ``softmax`` gives the probabilities,
    ``context`` the heads' results side by side.
    """

    def __init__(self, dim: int, heads: int, scale: float | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5 if scale is None else scale
        self.qkv = nn.Linear(dim, 3 * dim)
        self.scores = nn.Identity()
        self.softmax = nn.Softmax(dim=-1)
        self.context = nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to the same."""
        batch, length, dim = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, h, N, d)
        scores = self.scores((q * self.scale) @ k.transpose(-1, -2))  # (B, h, N, N)
        with torch.autocast(x.device.type, enabled=False):  # widening costs a fifth of a step
            probabilities = self.softmax(scores)
        y = probabilities @ v  # (B, h, N, d)
        y = self.context(y.transpose(1, 2).reshape(batch, length, dim))
        out: Tensor = self.proj(y)
        return out


class Block(nn.Module):
    """``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``; ``mlp`` is dense or a mixture.

    With ``gate_input_ahead`` the mixture's gate reads ``x`` as it comes in.
    """

    def __init__(self, config: ModelConfig, *, moe: bool) -> None:
        super().__init__()
        dim, self.ahead = config.dim, config.gate_input_ahead
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = Attention(dim, config.heads, config.attention_scale)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp: nn.Module
        if moe:
            router = Router(
                dim,
                config.experts,
                config.top_k,
                len(config.tasks),
                bias=config.gate_bias,
                shared=config.gate != "multi",
                task_dim=config.gate_task_dim,
                windows=(config.window, config.starts),
                renormalise=config.renormalise,
                threshold=config.prune_threshold,
                top_p=config.top_p,
            )
            self.mlp = MixtureOfExperts(
                router, dim, config.expert_hidden, config.experts_activation
            )
        else:
            self.mlp = Mlp(
                dim,
                hidden_features=config.mlp_hidden,
                act_layer=activation_layer(config.activation),
            )

    def forward(self, x: Tensor, task: Tensor | int, embedding: Tensor | None = None) -> Tensor:
        """``(B, N, D)`` to the same, for the task number(s) ``task``.

        ``embedding`` ``(T, C)`` is what a conditioned gate sees of the tasks.
        """
        before = x
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        if not isinstance(self.mlp, MixtureOfExperts):
            update: Tensor = self.mlp(y)
        else:
            update = self.mlp(y, task, before if self.ahead else y, embedding)
        return x + update


class Head(nn.Module):
    """A linear map from each patch token to its block of the output, then pixel shuffle.

    ``linear`` gives channel ``c * s * s + dy * s + dx`` for output channel ``c`` at sub-pixel
    ``(dy, dx)`` of the patch, ``s`` sub-pixels a side.
    """

    def __init__(self, config: ModelConfig, task: TaskConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.side = config.subpixels(task.name)
        self.linear = nn.Linear(config.dim, task.channels * self.side**2)

    def forward(self, x: Tensor) -> Tensor:
        """Patch tokens ``(B, N, D)``, class token dropped, to ``(B, C, H/stride, W/stride)``."""
        y = self.linear(x).transpose(1, 2).unflatten(2, self.grid)
        return F.pixel_shuffle(y, self.side)


class ClassHead(nn.Module):
    """A linear map to the logits of the classes: from the class token, side by side with the
    distillation token where there is one, or from the patches' mean.
    """

    def __init__(self, config: ModelConfig, task: TaskConfig) -> None:
        super().__init__()
        self.front, self.mean = config.front, config.mean_pool
        self.read = config.front - config.registers
        self.norm: nn.Module = nn.Identity()
        if config.pool_norm:
            self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.linear = nn.Linear(config.class_inputs, task.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, N, D)`` to ``(B, C)``."""
        x = x[:, self.front :].mean(1) if self.mean else x[:, : self.read].flatten(1)
        out: Tensor = self.linear(self.norm(x))
        return out


def _head(config: ModelConfig, task: TaskConfig) -> nn.Module:
    if task.kind == "classification":
        return ClassHead(config, task)
    return Head(config, task) if config.decoder == "linear" else UpsamplingHead(config, task)


class M3ViT(nn.Module):
    """The network of a :class:`ModelConfig`, from pixels to the heads' raw outputs.

    ``forward`` takes pixels as a camera gives them, ``(B, H, W, 3)`` in 0..255 (uint8 or float);
    normalising them is part of the network. Raw outputs are decoded by :mod:`moevit.model.tasks`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        mean, std = torch.tensor(config.pixel_mean), torch.tensor(config.pixel_std)
        scale = config.pixel_scale
        self.register_buffer("pixel_mean", scale * mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", scale * std.view(1, 3, 1, 1), persistent=False)
        self.patch_embed = PatchEmbed(config.image, config.patch, 3, config.dim)
        own_token = config.class_token and not config.class_token_in_position
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if own_token else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.distilled else None
        self.reg_token: nn.Parameter | None = None
        if config.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, config.dim))
        self.blocks = nn.ModuleList(
            Block(config, moe=config.is_moe(index)) for index in range(config.depth)
        )
        self.gate_task: TaskEmbedding | None = None
        if config.gate == "conditioned":
            self.gate_task = TaskEmbedding(
                len(config.tasks),
                config.gate_task_hidden or config.gate_task_dim,
                config.gate_task_dim,
            )
        self.norm_pre: nn.Module = nn.Identity()
        if config.pre_norm:
            self.norm_pre = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.norm: nn.Module = nn.Identity()
        if config.final_norm:
            self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.heads = nn.ModuleDict(
            {task.name: _head(config, task) for task in config.tasks if task.kind != "tokens"}
        )
        self._initialise()

    def _initialise(self) -> None:
        trunc_normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.dist_token, self.reg_token):
            if token is not None:
                trunc_normal_(token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def mixtures(self) -> Iterator[tuple[int, MixtureOfExperts]]:
        """The mixture-of-experts layers with their block's number."""
        for index, block in enumerate(self.blocks):
            if isinstance(block.mlp, MixtureOfExperts):
                yield index, block.mlp

    def embed(self, images: Tensor) -> Tensor:
        """Pixels ``(B, H, W, 3)`` in 0..255 to tokens ``(B, N, D)``."""
        expected = (*self.config.image, 3)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"Images must be (B, {expected}), not {tuple(images.shape)}")
        pixels = images.permute(0, 3, 1, 2).to(self.pos_embed.dtype)
        x = self.patch_embed((pixels - self.pixel_mean) / self.pixel_std)  # (B, N, D)
        front = [t for t in (self.cls_token, self.dist_token, self.reg_token) if t is not None]
        if front:
            x = torch.cat([*(t.expand(x.shape[0], -1, -1) for t in front), x], dim=1)
        elif self.config.class_token:  # it is row 0 of the position embedding
            x = torch.cat([x.new_zeros(1, 1, 1).expand(x.shape[0], 1, x.shape[2]), x], dim=1)
        tokens: Tensor = self.norm_pre(x + self.pos_embed)
        return tokens

    def task_embedding(self) -> Tensor | None:
        """What a conditioned gate sees of each task ``(T, C)``; None for other gates."""
        if self.gate_task is None:
            return None
        out: Tensor = self.gate_task()
        return out

    def tokens(self, images: Tensor, task: Tensor | int) -> Tensor:
        """Tokens ``(B, N, D)`` after the last norm, for a task number or one number a sample."""
        x, embedding = self.embed(images), self.task_embedding()
        for block in self.blocks:
            x = block(x, task, embedding)
        out: Tensor = self.norm(x)
        return out

    def output(self, tokens: Tensor, task: str) -> Tensor:
        """A task's raw output of its tokens ``(B, N, D)``; see :meth:`forward`."""
        kind = self.config.task(task).kind
        if kind == "tokens":
            return tokens
        if kind == "classification":
            logits: Tensor = self.heads[task](tokens)
            return logits
        out: Tensor = self.heads[task](tokens[:, self.config.front :])
        return out

    def forward(self, images: Tensor, task: str) -> Tensor:
        """Raw output of one task for every image.

        ``(B, C, H/stride, W/stride)``; of kind ``classification`` logits ``(B, C)``; of kind
        ``tokens`` the tokens ``(B, N, D)``.
        """
        return self.output(self.tokens(images, self.config.task_index(task)), task)

    def forward_mixed(self, images: Tensor, counts: Sequence[int]) -> dict[str, Tensor]:
        """One pass over a batch of mixed tasks: the first ``counts[0]`` images are task 0's, and so
        on. Returns the raw output of each task that has images."""
        if len(counts) != len(self.config.tasks) or sum(counts) != len(images):
            raise ValueError(
                f"Counts {tuple(counts)} must split {len(images)} images over "
                f"{len(self.config.tasks)} tasks"
            )
        numbers = torch.arange(len(counts), device=images.device)
        task = numbers.repeat_interleave(torch.tensor(counts, device=images.device))
        parts = torch.split(self.tokens(images, task), list(counts))
        return {
            name: self.output(part, name)
            for name, part in zip(self.config.task_names, parts, strict=True)
            if len(part)
        }

    def balance(self) -> Balance:
        """Mean auxiliary losses of all mixtures in the last training pass."""
        losses = [mixture.losses for _, mixture in self.mixtures() if mixture.losses is not None]
        if not losses:
            zero = self.pos_embed.new_zeros(())
            return Balance(zero, zero)
        importance, load = (torch.stack(values).mean() for values in zip(*losses, strict=True))
        return Balance(importance, load)
