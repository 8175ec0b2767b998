"""Norm parameters on the chip: all of a network's where they fit, else the next few.

Those of gates' inputs are always there.

Norm ``n`` has slot ``n modulo tiling.norms``. It is loaded when the norm that had the slot before
has been carried out (:func:`used`), and awaited in front of the first GEMM that makes residuals for
it (:func:`needed`). With two slots or more that never waits for itself: the GEMMs in front of which
norm ``n`` is awaited come behind the last use of norm ``n - 2``.
"""

from __future__ import annotations

import numpy as np

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Load, LoadKind, Norm, Sync
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.rescale import Rescale

from ..lower.context import Context
from ..lower.emit import Semaphore
from .buffers import gates_ahead
from .layout import pack_norm

__all__ = ["all_norms", "gate_input", "load_norms", "load_scales", "needed", "used"]


def all_norms(c: Context) -> list[LayerNorm | Rescale]:
    """Every norm in the order of execution; its place is its number."""
    norms: list[LayerNorm | Rescale] = []
    for block in c.network.blocks:
        norms += [block.norm1, block.norm2]
    norms += [c.final_norm] if c.final_norm else []
    pooled = c.linear_head.pooled if c.linear_head else None
    return norms + ([pooled.norm] if pooled else [])


def load_norms(c: Context, first: int, end: int, *, wait: int = 0, signal: int) -> None:
    """LOAD of norms ``first .. end - 1``, which lie one behind the other on the chip."""
    norms = all_norms(c)[first:end]
    own = c.final_norm is not c.network.norm and first + len(norms) > 2 * len(c.network.blocks)
    name = f"norm parameters {first}:{end}" + (f" {c.task}" if own else "")
    length = c.code.table(name, lambda: np.concatenate([pack_norm(n, c.shapes) for n in norms]))
    c.code.add(
        Load(
            kind=LoadKind.NORM,
            target=c.plan.norm_row(first, c.shapes.words),
            beats=length // BEAT_BYTES,
            wait=wait,
            wait_count=1 if wait else 0,
            signal=signal,
        ),
        f"norms {first}..{end - 1}",
        pool=name,
    )


def load_scales(c: Context) -> None:
    """LOAD of the parameters of gates' inputs, or of the norm in front of the blocks, whose credit
    counts like a residual tile."""
    entry, scales = c.network.entry, list[LayerNorm | Rescale]()
    if entry is not None:
        scales, name = [entry.norm], "norm in front of the blocks"
    else:
        scales, name = list(gates_ahead(c.network).values()), "gate scales"
    if not scales:
        return
    length = c.code.table(name, lambda: np.concatenate([pack_norm(n, c.shapes) for n in scales]))
    c.code.add(
        Load(
            kind=LoadKind.NORM,
            target=c.plan.scales.base,
            beats=length // BEAT_BYTES,
            signal=Semaphore.RESIDUAL if entry is not None else Semaphore.SCALES,
        ),
        name,
        pool=name,
    )


def gate_input(c: Context, index: int) -> None:
    """Plain NORM of the whole residual in front of block ``index``, if its gate reads that.

    It stands behind the block's first norm, which has taken the credits of all residual tiles.
    """
    s, gates = c.shapes, list(gates_ahead(c.network))
    if index not in gates:
        return
    first = index == gates[0]
    c.code.add(
        Norm(
            source=c.plan.residual.base,
            words=s.words,
            tokens=s.tokens,
            target=c.plan.ahead.base,
            stride=s.chunks,
            params=c.plan.scales.base + gates.index(index) * s.words,
            dim=s.geometry.dim,
            plain=1,
            wait=Semaphore.SCALES if first else Semaphore.NONE,
            wait_count=int(first),
            signal=Semaphore.TOKENS,
        ),
        f"block {index} input for the gate",
    )


def used(c: Context, *numbers: int) -> None:
    """Everything that norms ``numbers`` made has been taken: others are loaded in their place."""
    for number in numbers:
        after = number + c.plan.tiling.norms
        if after < len(all_norms(c)):
            c.code.add(Sync(signal=Semaphore.FREED, count=1), f"parameters of norm {number} used")
            load_norms(c, after, after + 1, wait=Semaphore.FREED, signal=Semaphore.PARAMETERS)


def needed(c: Context, *numbers: int) -> None:
    """The parameters of norms ``numbers`` are there before anything later is read."""
    for number in numbers:
        if c.plan.tiling.norms <= number < len(all_norms(c)):
            c.code.add(
                Sync(wait=Semaphore.PARAMETERS, wait_count=1), f"norm {number} parameters complete"
            )
