"""Codes in instructions: opcodes, destinations of a GEMM and their sets, kinds of LOAD."""

from __future__ import annotations

from enum import IntEnum

from amaranth.lib import enum

from moevit.quant.operators.activations import ACTIVATIONS, IntegerActivation

__all__ = [
    "ACTIVATED",
    "TO_ACTIVATIONS",
    "TO_BYTES",
    "TO_KEY_VALUE",
    "TO_RESIDUAL",
    "WITH_LINES",
    "Destination",
    "LoadKind",
    "Opcode",
    "activated",
]


class Opcode(IntEnum):
    """First four bits of every instruction."""

    HALT = 1
    LOAD = 2
    NORM = 3
    GEMM = 4
    ATTENTION = 5
    STORE = 6
    FETCH = 7
    SYNC = 8


class Destination(enum.IntEnum, shape=4):
    """What the epilogue does with a requantised 16-bit value ``v``; other codes are errors."""

    ACT8 = 0
    """``A`` byte = sat8(v + zero_point)"""
    GELU8 = 1
    """``A`` byte = sat8(round(gelu(v) * mult / 2**shift) + zero_point)"""
    ACT16 = 2
    """``A`` two bytes, little endian = v"""
    RESIDUAL = 3
    """``X`` = sat16(X + v)"""
    EXPERT = 4
    """``X`` = sat16(X + round(v * score / 2**15))"""
    KEY = 5
    """``KV`` in the key layout, v saturated at +-127"""
    VALUE = 6
    """``KV`` in the value layout, v saturated at +-127"""
    GATE = 7
    """router logits to the gate unit"""
    SILU8 = 8
    """``A`` byte = sat8(round(silu(v) * mult / 2**shift) + zero_point)"""
    RELU8 = 9
    """``A`` byte = sat8(round(max(v, 0) * mult / 2**shift) + zero_point)"""


def activated(function: IntegerActivation) -> Destination:
    """The destination that an activation function is part of."""
    return Destination[f"{function.name.upper()}8"]


ACTIVATED = {activated(a.integer): a.integer for a in ACTIVATIONS.values()}
"""An activation function, then ``mult`` and ``shift``."""
TO_BYTES = (Destination.ACT8, *ACTIVATED)
"""Bytes of the activation memory, with a zero point."""
TO_ACTIVATIONS = (*TO_BYTES, Destination.ACT16)
"""The activation memory."""
TO_RESIDUAL = (Destination.RESIDUAL, Destination.EXPERT)
"""Added to the residual memory."""
TO_KEY_VALUE = (Destination.KEY, Destination.VALUE)
"""The key/value memory."""
WITH_LINES = (*TO_ACTIVATIONS, Destination.RESIDUAL)
"""Rows may be those of a map: ``line``, ``source_line``, ``target_line``, ``span``."""


class LoadKind(IntEnum):
    """What a LOAD moves and how."""

    PIXELS = 0
    """an image, cut into patches"""
    RESIDUAL = 1
    """position embedding into the residual memory"""
    NORM = 2
    """gains and biases of the norms"""
    ACTIVATION = 3
    """words into the activation memory"""
