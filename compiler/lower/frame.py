"""Lowering of whole frames: of one task, or of all tasks of one image.

Up to the first router every task computes the same. A frame of all tasks does that once, keeps what
the router and its experts read, and goes on task after task, each from a copy of the residual
stream in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from moevit.quant.network import Moe

from .attention import lower_attention
from .context import Context
from .embedding import lower_embedding
from .feed_forward import Split, lower_feed_forward, split_back, split_front
from .output import Output, OutputRows, output_rows

__all__ = ["lower_frame", "result_sizes"]


def result_sizes(contexts: Sequence[Context]) -> Iterator[int]:
    """Bytes of each task's result."""
    for c in contexts:
        rows = output_rows(c)
        yield rows.rows * rows.pitch


def lower_frame(contexts: Sequence[Context], split: Split | None = None) -> list[OutputRows]:
    """Write a frame into the graph that ``contexts`` share, one for each task.

    ``split``: where the tasks of several take what they share from. Results lie one behind the
    other.
    """
    c, blocks = contexts[0], contexts[0].network.blocks
    if not blocks:
        raise ValueError("A network needs at least one block")
    first = len(blocks)
    if split is not None:
        first = next(i for i, block in enumerate(blocks) if isinstance(block.mlp, Moe))
    lower_embedding(c)
    outputs, address = [], 0
    for number, (task, size) in enumerate(zip(contexts, result_sizes(contexts), strict=True)):
        outputs.append(Output(replace(task, number=number), address))
        address += size
    for index in range(first):
        _lower_block(c, index, outputs[0])
    if split is not None:
        lower_attention(c, first, c.tensors.stored_norms())
        split_front(c, first, split)
        for output in outputs:
            split_back(output.c, first, split, output)
            for index in range(first + 1, len(blocks)):
                _lower_block(output.c, index, output)
    return [output.rows for output in outputs]


def _lower_block(c: Context, index: int, output: Output) -> None:
    lower_attention(c, index, c.tensors.stored_norms())
    lower_feed_forward(c, index, output)
