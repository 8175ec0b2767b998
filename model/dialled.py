"""The float model of a frame whose dial leaves fewer experts a token."""

from __future__ import annotations

import copy

from moevit.quant.dial import NEVER, SCORE_BITS, Dial

from .m3vit import M3ViT
from .moe import Router

__all__ = ["dialled"]

_ONE = 1 << SCORE_BITS


def dialled(model: M3ViT, dial: Dial) -> M3ViT:
    """``model`` with each router's limits narrowed by ``dial``; its parameters are the same ones.

    The dial's integers become the fractions that they stand for (docs/numbers.md).
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, shared)
    for router in found.modules():
        if isinstance(router, Router):
            router.top_k = min(router.top_k, dial.top_k or router.top_k)
            if dial.least:  # a score above the one before the least
                router.threshold = max(router.threshold, (dial.least - 1) / _ONE)
            if 0 < dial.enough < NEVER:
                router.top_p = min(router.top_p, dial.enough / _ONE)
    return found
