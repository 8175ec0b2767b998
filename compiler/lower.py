"""Lowering of one task: from the network to instructions and stream blocks."""

from __future__ import annotations

from moevit.hw.isa import Halt, Sync
from moevit.quant.network import Mlp

from .block import lower_attention, lower_dense
from .context import Context
from .emit import Semaphore
from .frame import OutputRows, lower_input, lower_output, output_credits
from .moe import lower_moe

__all__ = ["lower"]


def lower(c: Context) -> OutputRows:
    """Write the whole frame of a task into ``c.code``."""
    net, s = c.network, c.shapes
    if not net.blocks:
        raise ValueError("A network needs at least one block")
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
        lower_attention(c, index, block)
        c.norm(
            block.norm2,
            2 * index + 1,
            tokens=s.tokens,
            wait=Semaphore.RESIDUAL,
            signal=Semaphore.TOKENS,
            note=f"block {index} norm2",
        )
        last = index + 1 == len(net.blocks)
        reader, credits, aligned = (
            output_credits(c) if last else (Semaphore.RESIDUAL, s.tiles, True)
        )
        if not isinstance(block.mlp, Mlp):
            lower_moe(c, index, block.mlp, signal=reader, credits=credits)
        elif aligned:
            lower_dense(c, index, block.mlp, signal=reader)
        else:  # the final norm's tiles begin behind the class token
            lower_dense(c, index, block.mlp, signal=Semaphore.NONE)
            c.code.add(Sync(signal=reader, count=credits), "all tokens complete")
    rows = lower_output(c)
    c.code.add(Halt(), "end of the frame")
    return rows
