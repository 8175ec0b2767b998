"""What the stages of the compute engine hand to one another for each tile of tokens."""

from __future__ import annotations

from amaranth.hdl import Shape, unsigned
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.enum import Enum

from ..config import AcceleratorConfig
from ..interfaces import POINTER_BITS
from ..isa import ADDRESS_BITS, Attention, Gemm, Instruction

__all__ = ["Kind", "array_tile", "drain_tile"]


class Kind(Enum, shape=unsigned(2)):  # type: ignore[call-arg]  # Amaranth's metaclass
    """What a descriptor stands for."""

    GEMM = 0
    ATTENTION = 1
    SYNC = 2
    EMPTY = 3
    """an expert's GEMM whose queue is empty"""


def _field(instruction: type[Instruction], name: str) -> Shape:
    width, is_signed = instruction.widths()[name]
    return Shape(width, is_signed)


def drain_tile(config: AcceleratorConfig) -> StructLayout:
    """For the epilogue: where T rows go, how, and what is signalled at the end.

    ``rows``: T destination rows; ``scores``: their expert scores; ``count``: how many are real;
    ``ct``: first output tile in the destination; ``amount``: credits given to ``signal`` at the
    end;
    ``attention``: parameters come from the softmax unit; ``release``: parameter rows are released;
    ``first``, ``last``: tile of the instruction.
    """
    t = config.array.tokens
    return StructLayout(
        {
            "kind": Kind,
            "rows": ArrayLayout(unsigned(12), t),
            "scores": ArrayLayout(unsigned(15), t),
            "count": range(t + 1),
            "first": unsigned(1),
            "last": unsigned(1),
            "demand": unsigned(1),
            "keep": unsigned(1),
            "signal": unsigned(4),
            "amount": unsigned(12),
            "otiles": unsigned(10),
            "ct": unsigned(10),
            "target": unsigned(ADDRESS_BITS),
            "target_stride": unsigned(12),
            "mode": _field(Gemm, "mode"),
            "mult": _field(Gemm, "mult"),
            "shift": _field(Gemm, "shift"),
            "zero_point": _field(Gemm, "zero_point"),
            "head_otiles": _field(Gemm, "head_otiles"),
            "tile_pitch": _field(Gemm, "tile_pitch"),
            "head_pitch": _field(Gemm, "head_pitch"),
            "experts": _field(Gemm, "experts"),
            "top_k": _field(Gemm, "top_k"),
            "renormalise": _field(Gemm, "renormalise"),
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
            "depth": unsigned(10),
            "block": unsigned(POINTER_BITS),
            "k_row": unsigned(16),
            "v_row": unsigned(16),
            "v_tile_pitch": _field(Attention, "v_tile_pitch"),
            "keys": _field(Attention, "keys"),
            "score_mult": _field(Attention, "score_mult"),
            "score_shift": _field(Attention, "score_shift"),
            "out_mult": _field(Attention, "out_mult"),
            "out_shift": _field(Attention, "out_shift"),
        }
    )
