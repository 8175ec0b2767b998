"""The building blocks that we take from timm, imported after torchvision has been made to load.

Everything here imports them from this module, so that no import order can go wrong.
"""

from __future__ import annotations

from . import _torchvision  # noqa: F401  (must run before timm is imported)

# isort: split
from timm.layers import Mlp, PatchEmbed, trunc_normal_

__all__ = ["Mlp", "PatchEmbed", "trunc_normal_"]
