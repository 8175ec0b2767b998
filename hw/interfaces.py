"""Signatures and payloads that components exchange, each declared once.

Widths of addresses and counts are those of the instructions' fields (``isa``); formats of numbers
are those of ``quant.formats``. Signatures are seen from the component that acts.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ShapeLike, signed, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.wiring import In, Member, Out, Signature
from amaranth.utils import ceil_log2

from moevit.quant.formats import (
    ACCUMULATOR,
    ACTIVATION,
    MULTIPLIER_BITS,
    RESIDUAL,
    SCORE,
    SHIFT_BITS,
    VALUE,
)

from .config import BEAT_BYTES, AcceleratorConfig
from .isa import (
    ADDRESS_BITS,
    INSTRUCTION_BYTES,
    SEMAPHORE_BITS,
    SEMAPHORES,
    TOKEN_BITS,
    Fetch,
    Gemm,
    Norm,
)
from .registers import DAMAGE_BITS

__all__ = [
    "AXI_BURST",
    "AXI_SIZE",
    "ID_BITS",
    "INSTRUCTION",
    "POINTER_BITS",
    "SENT_BITS",
    "ActivationRead",
    "ActivationWrite",
    "AttentionRead",
    "AxiRead",
    "AxiWrite",
    "ChannelParams",
    "GiveSignature",
    "KeyValueWrite",
    "Lengths",
    "OperandWrite",
    "ReadPort",
    "ResidualRead",
    "ResidualWrite",
    "TakeSignature",
    "accumulators",
    "activation_write",
    "code_word",
    "damage_place",
    "dial",
    "finished_tiles",
    "gate_row",
    "load_beat",
    "operand_words",
    "param_address",
    "param_row",
    "queue_address",
    "queue_entry",
    "residual_word",
    "residual_write",
    "row_address",
    "row_scales",
    "score_tile",
    "weight_row",
    "weights_address",
]

# Control -----------------------------------------------------------------------------------------

INSTRUCTION = stream.Signature(8 * INSTRUCTION_BYTES)
"""Encoded instructions."""

code_word = StructLayout(
    {"word": unsigned(8 * INSTRUCTION_BYTES), "last": unsigned(1), "damaged": unsigned(1)}
)
"""An instruction from the prefetcher; ``last`` marks the program's last, ``damaged`` one whose CRC
is another."""

damage_place = StructLayout({"block": unsigned(DAMAGE_BITS), "port": unsigned(32 - DAMAGE_BITS)})
"""What the register DAMAGE reads."""

TakeSignature = Signature(
    {
        "valid": Out(1),
        "id": Out(ceil_log2(SEMAPHORES)),
        "count": Out(SEMAPHORE_BITS),
        "ready": In(1),
    }
)
"""``count`` credits of semaphore ``id`` are taken in the cycle in which valid and ready are both
1."""

GiveSignature = Signature(
    {"valid": Out(1), "id": Out(ceil_log2(SEMAPHORES)), "count": Out(SEMAPHORE_BITS)}
)
"""``count`` credits are given in each cycle in which valid is 1; never blocks."""


# Words and ports of the memories -----------------------------------------------------------------


def ReadPort(address: ShapeLike, shape: ShapeLike) -> Signature:  # noqa: N802 (a signature)
    """Synchronous read: ``data`` belongs to the ``addr`` of the last ``en`` cycle."""
    return Signature({"en": Out(1), "addr": Out(address), "data": In(shape)})


def ActivationRead(config: AcceleratorConfig) -> Signature:  # noqa: N802 (a signature)
    """Reads words of ``inputs`` activations."""
    return ReadPort(ADDRESS_BITS, unsigned(ACTIVATION.width * config.array.inputs))


def activation_write(config: AcceleratorConfig) -> StructLayout:
    """A write to the activation memory: ``mask`` selects pieces of ``config.piece_bytes``."""
    return StructLayout(
        {
            "addr": unsigned(ADDRESS_BITS),
            "mask": unsigned(config.array.inputs // config.piece_bytes),
            "data": ArrayLayout(unsigned(ACTIVATION.width), config.array.inputs),
        }
    )


def ActivationWrite(config: AcceleratorConfig) -> stream.Signature:  # noqa: N802 (a signature)
    """Stream of :func:`activation_write`."""
    return stream.Signature(activation_write(config))


def residual_word(config: AcceleratorConfig) -> ArrayLayout:
    """``outputs`` residual values."""
    return ArrayLayout(signed(RESIDUAL.width), config.array.outputs)


def ResidualRead(config: AcceleratorConfig) -> Signature:  # noqa: N802 (a signature)
    """Reads words of the residual memory."""
    return ReadPort(ADDRESS_BITS, residual_word(config))


def residual_write(config: AcceleratorConfig) -> StructLayout:
    """A write of a word to the residual memory."""
    return StructLayout({"addr": unsigned(ADDRESS_BITS), "data": residual_word(config)})


def ResidualWrite(config: AcceleratorConfig) -> stream.Signature:  # noqa: N802 (a signature)
    """Stream of :func:`residual_write`."""
    return stream.Signature(residual_write(config))


def KeyValueWrite(config: AcceleratorConfig) -> Signature:  # noqa: N802 (a signature)
    """A write of ``outputs`` bytes, bytes ``group * O ..`` of a row; never refused.

    With ``config.drain_rows`` of 2 one of another group of the same row as well: ``second_*``.
    """
    a = config.array
    group = {
        "en": Out(1),
        "group": Out(ceil_log2(a.inputs)),
        "data": Out(ArrayLayout(unsigned(ACTIVATION.width), a.outputs)),
    }
    second = group if config.drain_rows == 2 else {}
    return Signature(
        {
            "addr": Out(ADDRESS_BITS),
            **group,
            **{f"second_{name}": member for name, member in second.items()},
        }
    )


def load_beat(config: AcceleratorConfig) -> StructLayout:
    """A beat of norm parameters: bytes ``16 * part ..`` of parameter row ``row``."""
    return StructLayout(
        {
            "row": Norm.shape("params"),
            "part": range(config.param_row_bytes // BEAT_BYTES),
            "data": unsigned(8 * BEAT_BYTES),
        }
    )


# Weights -----------------------------------------------------------------------------------------

POINTER_BITS = 20
"""Free-running row counters of the rings (row n lives at n modulo the ring's rows)."""

ChannelParams = StructLayout(
    {
        "bias": signed(32),
        "mult": unsigned(MULTIPLIER_BITS),
        "shift": unsigned(8),
        "pad": unsigned(8),
    }
)
"""One channel's parameters, as in memory (hw/image.py)."""


def param_row(config: AcceleratorConfig) -> ArrayLayout:
    """``outputs`` channels' parameters."""
    return ArrayLayout(ChannelParams, config.array.outputs)


def weight_row(config: AcceleratorConfig) -> Any:
    """What the array multiplies in a cycle, ``[o][i]``; of values ``[i][o]``."""
    return unsigned(8 * config.row_bytes)


def row_address(config: AcceleratorConfig) -> StructLayout:
    """Address of a weight row: its number modulo the ring's depth, and which ring."""
    depth = max(config.memory.ring_rows, config.memory.demand_rows)
    return StructLayout({"row": unsigned(ceil_log2(depth)), "demand": unsigned(1)})


def param_address(config: AcceleratorConfig) -> StructLayout:
    """Address of a parameter row, like :func:`row_address`."""
    depth = max(config.memory.param_rows, config.memory.demand_param_rows)
    return StructLayout({"row": unsigned(ceil_log2(depth)), "demand": unsigned(1)})


# Inside the compute engine -----------------------------------------------------------------------


def operand_words(config: AcceleratorConfig) -> int:
    """Words of a token in one half of the operand buffer."""
    return config.limits.depth // config.array.inputs


def OperandWrite(config: AcceleratorConfig) -> Signature:  # noqa: N802 (a signature)
    """The loader's writes of words into a half of the operand buffer."""
    return Signature(
        {
            "en": Out(1),
            "row": Out(range(config.array.tokens)),
            "half": Out(1),
            "word": Out(range(operand_words(config))),
            "data": Out(unsigned(ACTIVATION.width * config.array.inputs)),
        }
    )


def accumulators(config: AcceleratorConfig) -> ArrayLayout:
    """One tile of sums: T x O."""
    a = config.array
    return ArrayLayout(ArrayLayout(signed(ACCUMULATOR.width), a.outputs), a.tokens)


def finished_tiles(config: AcceleratorConfig) -> ArrayLayout:
    """The oldest finished tiles of sums, as many as the epilogue takes rows of in a cycle."""
    return ArrayLayout(accumulators(config), config.drain_rows)


def score_tile(config: AcceleratorConfig) -> StructLayout:
    """What the softmax unit needs beside the sums.

    ``last``: last key tile of the query tile and head; ``valid``: valid keys of this key tile.
    """
    return StructLayout(
        {
            "last": unsigned(1),
            "valid": range(config.array.outputs + 1),
            "mult": unsigned(MULTIPLIER_BITS),
            "shift": unsigned(SHIFT_BITS),
            "out_mult": unsigned(MULTIPLIER_BITS),
            "out_shift": unsigned(SHIFT_BITS),
        }
    )


def weights_address(config: AcceleratorConfig) -> StructLayout:
    """Address of the attention weights."""
    words = -(-config.limits.tokens // config.array.inputs)
    return StructLayout({"word": ceil_log2(max(words, 2)), "half": 1})


def AttentionRead(config: AcceleratorConfig) -> Signature:  # noqa: N802 (a signature)
    """The array's reads of attention weights, ``[token][key]``.

    ``ready``: the oldest half is complete; ``half``: which; ``release``: its last read is over.
    """
    a = config.array
    return Signature(
        {
            "en": Out(1),
            "addr": Out(weights_address(config)),
            "data": In(unsigned(ACTIVATION.width * a.inputs * a.tokens)),
            "ready": In(1),
            "half": In(1),
            "release": Out(1),
        }
    )


def row_scales(config: AcceleratorConfig) -> ArrayLayout:
    """Requantisation of T attention rows, from the softmax unit."""
    return ArrayLayout(
        StructLayout({"mult": unsigned(MULTIPLIER_BITS), "shift": unsigned(SHIFT_BITS)}),
        config.array.tokens,
    )


# Routing -----------------------------------------------------------------------------------------

SENT_BITS = 16
"""Counters of the tokens that each expert got in a frame."""

queue_address = StructLayout({"slot": unsigned(TOKEN_BITS), "expert": Fetch.shape("queue")})
"""A place in an expert's queue."""

queue_entry = StructLayout({"token": unsigned(TOKEN_BITS), "score": unsigned(SCORE.width)})
"""A token in an expert's queue."""


def Lengths(config: AcceleratorConfig) -> ArrayLayout:  # noqa: N802 (a shape)
    """Tokens in each expert's queue."""
    return ArrayLayout(unsigned(TOKEN_BITS + 1), config.limits.experts)


dial = StructLayout(
    {
        "top_k": Gemm.shape("top_k"),
        "least": unsigned(SCORE.width),
        "enough": Gemm.shape("mult"),
    }
)
"""Limits of a frame beside those of its routers, 0 where there are none (quant/dial.py)."""


def gate_row(config: AcceleratorConfig) -> StructLayout:
    """One token's logits of one output tile, as the gate takes them.

    ``first``: a row of the GEMM's first token; ``last``: the token's last output tile; ``end``: the
    GEMM's last row. Logit e is that of expert ``base + e``; scores below ``least`` are not queued,
    nor those behind scores that add up to ``enough``.
    """
    a = config.array
    return StructLayout(
        {
            "token": unsigned(TOKEN_BITS),
            "slot": range(a.tokens),
            "otile": unsigned(4),
            "last": unsigned(1),
            "first": unsigned(1),
            "end": unsigned(1),
            "experts": Gemm.shape("experts"),
            "top_k": Gemm.shape("top_k"),
            "base": Gemm.shape("queue"),
            "least": unsigned(SCORE.width),
            "enough": dial["enough"].shape,
            "renormalise": unsigned(1),
            "logits": ArrayLayout(signed(VALUE.width), a.outputs),
        }
    )


# Memory ports ------------------------------------------------------------------------------------

ID_BITS = 2
"""Read IDs: on every port 0 is the weight stream and 1 FETCH; on port 0 also 2, instructions, and
on the first two 3, LOAD."""

AXI_SIZE, AXI_BURST = ceil_log2(BEAT_BYTES), 1
"""Of every burst: 16-byte beats, incrementing."""


def _constant(width: int, value: int) -> Member:
    """An output that keeps its initial value."""
    return Out(width, init=value)  # type: ignore[call-arg]  # not in the stubs


AxiRead = Signature(
    {
        "arid": Out(ID_BITS),
        "araddr": Out(32),
        "arlen": Out(8),
        "arsize": _constant(3, AXI_SIZE),
        "arburst": _constant(2, AXI_BURST),
        "arvalid": Out(1),
        "arready": In(1),
        "rid": In(ID_BITS),
        "rdata": In(8 * BEAT_BYTES),
        "rresp": In(2),
        "rlast": In(1),
        "rvalid": In(1),
        "rready": Out(1),
    }
)
"""AXI4 read master. A master leaves ``arsize`` and ``arburst`` as they are."""

AxiWrite = Signature(
    {
        "awid": Out(1),
        "awaddr": Out(32),
        "awlen": Out(8),
        "awsize": _constant(3, AXI_SIZE),
        "awburst": _constant(2, AXI_BURST),
        "awvalid": Out(1),
        "awready": In(1),
        "wdata": Out(8 * BEAT_BYTES),
        "wstrb": Out(BEAT_BYTES),
        "wlast": Out(1),
        "wvalid": Out(1),
        "wready": In(1),
        "bid": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
    }
)
"""AXI4 write master, like :data:`AxiRead`."""
