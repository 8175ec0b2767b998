"""Lowering of one task: from the network to instructions and stream blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moevit.hw.isa import Halt, Sync
from moevit.quant.network import Mlp

from ..plan.layout import ceil_div
from ..plan.norms import gate_input, needed, used
from ..plan.placement import Region
from .block import lower_attention, lower_dense
from .context import Context
from .emit import Semaphore
from .frame import OutputRows, lower_input, lower_output, output_credits, output_words
from .moe import lower_moe
from .passing import lower_passing

__all__ = ["lower", "lower_attention_half", "lower_block", "lower_mlp_half"]


def lower(c: Context) -> OutputRows:
    """Write the whole frame of a task into ``c.code``."""
    if not c.network.blocks:
        raise ValueError("A network needs at least one block")
    if c.plan.spill is not None:
        return lower_passing(c)
    lower_input(c)
    for index in range(len(c.network.blocks)):
        lower_block(c, index)
    rows = lower_output(c)
    c.code.add(Halt(), "end of the frame")
    return rows


def lower_block(c: Context, index: int, *, more: bool = False) -> None:
    """Attention and feed-forward part of block ``index``, with their norms."""
    lower_attention_half(c, index)
    lower_mlp_half(c, index, more=more)


def lower_attention_half(c: Context, index: int, *, tokens: Region | None = None) -> None:
    """Block ``index`` up to its second norm, which writes to ``tokens`` (default: the plan's)."""
    block, s = c.network.blocks[index], c.shapes
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
    target = c if tokens is None else replace(c, plan=replace(c.plan, tokens=tokens))
    target.norm(
        block.norm2,
        2 * index + 1,
        tokens=s.tokens,
        wait=Semaphore.RESIDUAL,
        signal=Semaphore.TOKENS,
        note=f"block {index} norm2",
    )


def lower_mlp_half(
    c: Context,
    index: int,
    *,
    first: bool = True,
    more: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Block ``index`` behind its second norm; every tile of its residuals is signalled.

    ``first``: the norm's output is awaited, not known to be complete. ``more``: a router may
    follow with nothing between. ``ready``: see :func:`~.moe.lower_moe`.
    """
    needed(c, 2 * index + 2)
    last = index + 1 == len(c.network.blocks)
    reader, credits, aligned = (
        output_credits(c) if last else (Semaphore.RESIDUAL, c.shapes.tiles, True)
    )
    mlp, tiling = c.network.blocks[index].mlp, c.plan.tiling
    spans = c.spans(tiling.dense if isinstance(mlp, Mlp) else tiling.routed)
    # A final norm with wider rows reaches into rows of tokens that are still to go.
    aligned = aligned and not (last and len(spans) > 1 and output_words(c) > c.shapes.chunks)
    signal = reader if aligned else Semaphore.NONE
    if isinstance(mlp, Mlp):
        for span in spans:
            lower_dense(c, index, mlp, span, signal=signal)
    else:
        for number, span in enumerate(spans):
            tiles = ceil_div(span.count, c.config.array.tokens)
            lower_moe(
                c,
                index,
                mlp,
                span,
                signal=signal,
                credits=tiles if signal else 0,
                more=more or span is not spans[-1],
                wait=Semaphore.TOKENS if first else Semaphore.NONE,
                ready=(lambda: None) if number else ready,
            )
    if not aligned:  # also where the final norm's tiles begin behind the class token
        c.code.add(Sync(signal=reader, count=credits), "all tokens complete")
    used(c, 2 * index + 1)
