"""What the stages of the compute engine hand to one another for each tile of tokens."""

from __future__ import annotations

from amaranth.hdl import unsigned
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.enum import Enum

from moevit.quant.formats import SCORE

from ..config import AcceleratorConfig
from ..interfaces import POINTER_BITS
from ..isa import TOKEN_BITS, Attention, Gemm, Sync

__all__ = ["ATTENTION_FIELDS", "GEMM_FIELDS", "Kind", "array_tile", "drain_tile", "issued_row"]


class Kind(Enum, shape=unsigned(2)):
    """What a descriptor stands for."""

    GEMM = 0
    ATTENTION = 1
    SYNC = 2
    EMPTY = 3
    """an expert's GEMM whose queue is empty"""


GEMM_FIELDS = (
    "mult", "shift", "zero_point", "head_otiles", "tile_pitch", "head_pitch", "experts", "top_k",
    "renormalise",
)  # fmt: skip
"""Fields of a GEMM that the epilogue gets as they are."""

ATTENTION_FIELDS = ("v_tile_pitch", "keys", "score_mult", "score_shift", "out_mult", "out_shift")
"""Fields of an ATTENTION that the array gets as they are."""


def drain_tile(config: AcceleratorConfig) -> StructLayout:
    """For the epilogue: where T rows go, how, and what is signalled at the end.

    ``rows``: T destination rows; ``scores``: their expert scores; ``count``: how many are real;
    ``ct``: first output tile in the destination; ``amount``: credits given to ``signal`` at the
    end; ``first``, ``last``: tile of the instruction.
    """
    t = config.array.tokens
    return StructLayout(
        {
            "kind": Kind,
            "rows": ArrayLayout(unsigned(TOKEN_BITS), t),
            "scores": ArrayLayout(unsigned(SCORE.width), t),
            "count": range(t + 1),
            "first": unsigned(1),
            "last": unsigned(1),
            "demand": unsigned(1),
            "keep": unsigned(1),
            "signal": Gemm.shape("signal"),
            "amount": Sync.shape("count"),
            "otiles": Gemm.shape("otiles"),
            "ct": Gemm.shape("otile_base"),
            "target": Gemm.shape("target"),
            "target_stride": Gemm.shape("target_stride"),
            "mode": Gemm.shape("mode"),
            **{name: Gemm.shape(name) for name in GEMM_FIELDS},
        }
    )


def array_tile(config: AcceleratorConfig) -> StructLayout:
    """For the array: what to multiply, and the epilogue's part.

    GEMM: ``depth`` rows an output tile, ``block`` weight rows in all. ATTENTION: the key and value
    rows of this head start at ``k_row`` and ``v_row``; ``depth`` chunks a key tile; ``keys``.
    """
    return StructLayout(
        {
            "drain": drain_tile(config),
            "depth": Gemm.shape("depth"),
            "block": unsigned(POINTER_BITS),
            "k_row": Attention.shape("k_base"),
            "v_row": Attention.shape("v_base"),
            **{name: Attention.shape(name) for name in ATTENTION_FIELDS},
        }
    )


def issued_row(config: AcceleratorConfig) -> StructLayout:
    """A row of an output tile that enters the epilogue.

    ``slot``: row of the tile; ``otile``: output tile of the instruction; ``head``, ``head_otile``:
    head, and output tile of it; ``first``: first row of the instruction; ``last_otile``: the row's
    last output tile; ``end``: the instruction's last row of all. Where two rows enter at a time,
    ``next_row``: the tile's next row is the other; ``next_otile``: the same row of the next output
    tile is.
    """
    second = {"next_row": unsigned(1), "next_otile": unsigned(1)}
    return StructLayout(
        {
            "slot": range(config.array.tokens),
            "otile": Gemm.shape("otiles"),
            "head": Gemm.shape("head_otiles"),
            "head_otile": Gemm.shape("head_otiles"),
            "first": unsigned(1),
            "last_otile": unsigned(1),
            "end": unsigned(1),
            **(second if config.drain_rows == 2 else {}),
        }
    )
