"""M3ViT's progressive-upsampling head (Fan et al. 2022; SETR-PUP, Zheng et al. 2021, sec. 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig, TaskConfig

__all__ = ["UpsamplingHead"]


class UpsamplingHead(nn.Module):
    """3x3 convolutions with batch norm and ReLU, bilinear doubling between them, then 1x1.

    With ``2**u`` pixels of output to a patch's side there are ``u`` convolutions (one at least) and
    ``u`` doublings: behind all convolutions but the last, and behind the 1x1. M3ViT's patch of 16
    at full resolution has four of each. A backbone without final norm leaves that to the head.
    """

    def __init__(self, config: ModelConfig, task: TaskConfig) -> None:
        super().__init__()
        self.grid, self.corners = config.grid, config.align_corners
        self.doublings = config.subpixels(task.name).bit_length() - 1
        width, layers = config.decoder_width, max(self.doublings, 1)
        self.norm: nn.Module = nn.Identity()
        if not config.final_norm:
            self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width if n else config.dim, width, 3, padding=1) for n in range(layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(layers))
        self.classify = nn.Conv2d(width, task.channels, 1)
        for layer in [*self.convolutions, self.classify]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Patch tokens ``(B, N, D)`` to ``(B, C, H/stride, W/stride)``."""
        x = self.norm(x).transpose(1, 2).unflatten(2, self.grid)
        last = len(self.convolutions) - 1
        for n, (layer, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.relu(norm(layer(x)))
            if n < last:
                x = self._double(x)
        x = self.classify(x)
        return self._double(x) if self.doublings else x

    def _double(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=self.corners)
