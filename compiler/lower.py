"""Lowering of one task: from the network to instructions and stream blocks."""

from __future__ import annotations

from moevit.hw.isa import Halt, Sync
from moevit.quant.network import Mlp, Moe

from .block import lower_attention, lower_dense
from .context import Context
from .emit import Semaphore
from .frame import OutputRows, lower_input, lower_output, output_credits
from .layout import ceil_div
from .moe import lower_moe
from .norms import gate_input, needed, used
from .passing import lower_passing

__all__ = ["lower"]


def lower(c: Context) -> OutputRows:
    """Write the whole frame of a task into ``c.code``."""
    net, s = c.network, c.shapes
    if not net.blocks:
        raise ValueError("A network needs at least one block")
    if c.plan.spill is not None:
        return lower_passing(c)
    lower_input(c)
    for index, block in enumerate(net.blocks):
        if index:
            c.norm(
                block.norm1,
                2 * index,
                tokens=s.tokens,
                wait=Semaphore.RESIDUAL,
                signal=Semaphore.TOKENS,
                note=f"block {index} norm1",
            )
        gate_input(c, index)
        lower_attention(c, index, block)
        c.norm(
            block.norm2,
            2 * index + 1,
            tokens=s.tokens,
            wait=Semaphore.RESIDUAL,
            signal=Semaphore.TOKENS,
            note=f"block {index} norm2",
        )
        needed(c, 2 * index + 2)
        last = index + 1 == len(net.blocks)
        reader, credits, aligned = (
            output_credits(c) if last else (Semaphore.RESIDUAL, s.tiles, True)
        )
        lower_mlp(c, index, block.mlp, reader if aligned else Semaphore.NONE)
        if not aligned:  # the final norm's tiles begin behind the class token
            c.code.add(Sync(signal=reader, count=credits), "all tokens complete")
        used(c, 2 * index + 1)
    rows = lower_output(c)
    c.code.add(Halt(), "end of the frame")
    return rows


def lower_mlp(c: Context, index: int, mlp: Mlp | Moe, signal: int) -> None:
    """The feed-forward part of a block; every tile of its residuals is signalled."""
    tiling = c.plan.tiling
    if isinstance(mlp, Mlp):
        for span in c.spans(tiling.dense):
            lower_dense(c, index, mlp, span, signal=signal)
        return
    spans = c.spans(tiling.routed)
    for span in spans:
        tiles = ceil_div(span.count, c.config.array.tokens)
        credits = tiles if signal else 0
        more = span is not spans[-1]
        lower_moe(c, index, mlp, span, signal=signal, credits=credits, more=more)
