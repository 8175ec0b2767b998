"""Which fields of a GEMM or an ATTENTION the compute engine refuses."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux, Value
from amaranth.lib.data import StructLayout, View
from amaranth.utils import ceil_log2

from moevit.quant.formats import SCORE

from ..config import AcceleratorConfig
from ..interfaces import dial, operand_words
from ..isa import TO_KEY_VALUE, WITH_LINES, Destination

__all__ = ["bad_field"]


def bad_field(
    config: AcceleratorConfig,
    g: View[StructLayout],
    at: View[StructLayout],
    is_attention: Value,
) -> Value:
    """1 for an instruction that the components behind the loader cannot count."""
    return Mux(is_attention, _bad_attention(config, at), _bad_gemm(config, g))


def _bad_gemm(config: AcceleratorConfig, g: View[StructLayout]) -> Any:
    limits = config.limits
    lines = Cat(g.line, g.source_line, g.target_line, g.span).any()
    return (
        ~g.mode.matches(*Destination)
        | (g.otiles == 0)
        | (g.depth == 0)
        | (g.depth > operand_words(config))
        | Mux(g.use_queue, g.queue >= limits.experts, g.tokens > limits.tokens)
        | (g.mode.matches(*TO_KEY_VALUE) & (g.head_otiles == 0))
        | ((g.mode == Destination.GATE) & _bad_gate(config, g))
        | (lines & (g.use_queue | ~g.mode.matches(*WITH_LINES)))
    )


def _bad_gate(config: AcceleratorConfig, g: View[StructLayout]) -> Any:
    limits, outputs = config.limits, config.array.outputs
    otiles = sum(g.experts > first for first in range(0, limits.experts, outputs))  # rounded up
    return (
        (g.experts == 0)
        | (g.shift + g.experts > limits.experts)
        | (g.mult > SCORE.max)
        | g.target[dial["enough"].width :].any()
        | (g.top_k == 0)
        | (g.top_k > limits.top_k)
        | (g.top_k > g.experts)
        | (g.tokens > limits.routed)
        | (g.otiles != otiles)
    )


def _bad_attention(config: AcceleratorConfig, at: View[StructLayout]) -> Any:
    inputs, limits = config.array.inputs, config.limits
    return (
        (at.heads == 0)
        | (at.chunks == 0)
        | (at.chunks > operand_words(config))
        | (at.v_otiles == 0)
        | (at.queries > limits.tokens)
        | (at.keys == 0)
        | (at.keys > limits.tokens)
        | (at.v_tile_pitch != (at.keys + inputs - 1) >> ceil_log2(inputs))
    )
