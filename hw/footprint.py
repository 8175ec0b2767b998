"""Block and ultra RAM of a configuration, known without building it.

The large memories are those of :class:`~moevit.hw.config.MemoryConfig`; the others follow from the
array's shape and the limits. A test compares :func:`buffers` with every memory of the generated
hardware, another :func:`on_chip` with what Yosys makes of it.
"""

from __future__ import annotations

from amaranth.utils import ceil_log2

from moevit.quant.formats import LOGIT, RESIDUAL
from moevit.quant.operators.exp2 import GATE_EXP, SOFTMAX_EXP

from .compute import gate, norm
from .compute.norm_apply import CHANNEL_BITS
from .compute.norm_roots import longest_row
from .compute.row_scales import key_tiles
from .config import BEAT_BYTES, AcceleratorConfig
from .interfaces import queue_entry, weights_address
from .lib import exp2
from .lib.storage import Bank, banks_of, sections
from .transfer import load, weight_port

__all__ = ["buffers", "on_chip"]


def buffers(config: AcceleratorConfig) -> dict[str, list[Bank]]:
    """Memories of block or ultra RAM by their purpose; distributed RAM is left out.

    The names of those sized by ``MemoryConfig`` begin as its fields do.
    """
    a, mem, limits = config.array, config.memory, config.limits
    words = limits.depth // a.inputs
    ring = 1 << ceil_log2(longest_row(config) + norm.HIDDEN)
    scores = 2 << max(1, ceil_log2(key_tiles(config) * (a.tokens // 2)))
    weights = 1 << weights_address(config).size
    slots = 1 << (ceil_log2(gate.slots(config)) + ceil_log2(limits.experts))
    found = {
        "activation": banks_of(8 * a.inputs, mem.activation_words, bank=8 * config.piece_bytes),
        "residual": [
            bank
            for depth in sections(mem.residual_words)
            for bank in banks_of(RESIDUAL.width * a.outputs, depth, count=2)
        ],
        "kv": banks_of(8 * a.outputs, mem.kv_rows, count=a.inputs),
        "ring": banks_of(8 * config.row_bytes, mem.ring_rows),
        "demand": banks_of(8 * config.row_bytes, mem.demand_rows),
        "param": banks_of(8 * config.param_row_bytes, mem.param_rows),
        "demand_param": banks_of(8 * config.param_row_bytes, mem.demand_param_rows),
        "norm": banks_of(CHANNEL_BITS, mem.norm_rows, count=a.outputs),
        "landing": [
            *banks_of(8 * BEAT_BYTES, mem.landing_beats, count=load.sides(config)),
            *banks_of(weight_port.LANDED.size, mem.landing_beats, count=mem.ports),
        ],
        "operands": banks_of(8 * a.inputs, 2 * words, count=a.tokens),
        "norm words": banks_of(RESIDUAL.width * a.outputs, ring),
        "scores": banks_of(2 * LOGIT.width * a.outputs, scores),
        "attention weights": banks_of(8 * a.inputs, weights, count=a.tokens),
        "expert queues": [Bank(queue_entry.size, slots)],
        "softmax tables": exp2.tables(SOFTMAX_EXP, 2 * a.outputs),
        "gate tables": exp2.tables(GATE_EXP, limits.experts),
    }
    kept = {
        name: [bank for bank in banks if bank.block_rams or bank.ultra_rams]
        for name, banks in found.items()
    }
    return {name: banks for name, banks in kept.items() if banks}


def on_chip(config: AcceleratorConfig) -> dict[str, dict[str, float]]:
    """``{buffer: {"BRAM36", "URAM"}}``; a half block RAM is one of 18 Kbit."""
    return {
        name: {
            "BRAM36": sum(bank.block_rams for bank in banks),
            "URAM": sum(bank.ultra_rams for bank in banks),
        }
        for name, banks in buffers(config).items()
    }
